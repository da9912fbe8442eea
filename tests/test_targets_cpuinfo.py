"""Which CPUs saturate in int8, and what their targets' schemes say then."""

from dataclasses import fields
from pathlib import Path

import pytest

from targets import cpuinfo
from targets.backends.cpu import Cpu
from targets.backends.mobile import Mobile


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Make the machine one with these flags."""

    def set_to(machine: str, flags: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(f"flags : {flags}\n")
        monkeypatch.setattr(cpuinfo, "CPUINFO", path)
        monkeypatch.setattr(cpuinfo.platform, "machine", lambda: machine)

    return set_to


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "avx avx2 fma", True),
        ("x86_64", "avx avx2 avx512f avx512bw", True),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("AMD64", "avx2 avx_vnni", False),
        ("x86_64", "", False),
        ("aarch64", "asimd", False),
        ("aarch64", "asimd asimddp i8mm", False),
    ],
)
def test_x86_without_vnni_saturates(pretend, machine: str, flags: str, expected: bool) -> None:
    pretend(machine, flags)
    assert cpuinfo.saturates_int8() == expected
    assert Cpu().scheme.reduced_range == expected
    assert Mobile(platform="amd64").scheme.reduced_range == expected
    assert not Mobile(platform="arm").scheme.reduced_range
    assert not Cpu.scheme.reduced_range
    assert "scheme" not in {field.name for field in fields(Cpu())}
    pretend("x86_64", "avx2 avx_vnni")
    assert not Cpu().scheme.reduced_range
