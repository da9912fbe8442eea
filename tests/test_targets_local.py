"""This machine as a device, its fingerprint, and the bookkeeping of comparisons."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from targets import cpuinfo
from targets import fingerprint as fingerprints
from targets.backends.cpu import Cpu
from targets.backends.jetson import Jetson
from targets.backends.mobile import Mobile
from targets.base import NoDeviceError, Target, TargetError
from targets.comparison import Clock
from targets.devices.base import Device, Fingerprint, Timing
from targets.devices.local import Local
from targets.plugins import find, names

LOCAL = Local(timeout_s=60)


def elementwise(path: Path, kind: str, batch: int | str = 2) -> Path:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"])], kind, ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(path))
    return path


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.savez(tmp_path / "feeds.npz", x=x)
    return tmp_path / "feeds.npz"


def build(target: Target, kind: str, folder: Path) -> Path:
    out = folder / kind
    out.mkdir()
    LOCAL.build(target, elementwise(folder / f"{kind}.onnx", kind), out)
    return out


def test_local_is_found_by_name() -> None:
    assert names("targets.devices") == ("local", "pool", "ssh")
    assert find("targets.devices", "local", Device) is Local


@pytest.mark.parametrize("target", [Cpu(), Mobile()], ids=lambda t: t.name())
def test_build_and_infer_from_another_folder(
    target: Target, feeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    elementwise(tmp_path / "m.onnx", "Relu")
    LOCAL.build(target, Path("m.onnx"), Path("out"))
    LOCAL.infer(target, Path("out"), Path("feeds.npz"), Path("o.npz"))
    with np.load("o.npz") as out, np.load(feeds) as given:
        np.testing.assert_array_equal(out["y"], np.maximum(given["x"], 0))


def test_measure_interleaves_blocks_of_fresh_processes(feeds: Path, tmp_path: Path) -> None:
    built = {kind: (Cpu(), build(Cpu(), kind, tmp_path)) for kind in ("Relu", "Exp")}
    timing = Timing(samples=41, rounds=4, launches=2, max_s=20, precision=0.0, retries=0, layers=True)
    found = LOCAL.measure(built, feeds, timing)
    assert list(found) == ["Relu", "Exp"]
    for one in found.values():
        assert len(one.blocks_ns) == 4
        assert sum(map(len, one.blocks_ns)) >= 41
        assert all(ns > 0 for block in one.blocks_ns for ns in block)
        assert one.warmup_ns
        assert one.rounds == (2, 2)
        assert len(one.walls_ns) == 4
        assert all(wall >= sum(block) for wall, block in zip(one.walls_ns, one.blocks_ns, strict=True))
        assert one.load_s > 0
        assert one.first_call_s > 0
        assert [layer.precision for layer in one.layers] == ["f32"]
        assert one.layers[0].time_ns > 0
        assert one.memory_peak_bytes > 10e6
        assert one.precision == {}


def test_a_time_limit_costs_samples_and_says_so(feeds: Path, tmp_path: Path) -> None:
    built = {"Relu": (Cpu(), build(Cpu(), "Relu", tmp_path))}
    one = LOCAL.measure(built, feeds, Timing(samples=10_000_000, rounds=5, launches=2, max_s=0.5))["Relu"]
    assert len(one.blocks_ns) >= 3
    assert any("of 10000000 samples within the limit of 0.5 s" in w for w in one.warnings)


def test_no_device_is_told_apart(feeds: Path, tmp_path: Path) -> None:
    with pytest.raises(NoDeviceError, match="no device"):
        LOCAL.measure({"a": (Jetson(), tmp_path)}, feeds, Timing())


def test_an_artifact_that_is_not_there_is_one_line(feeds: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"model\.xml") as raised:
        LOCAL.measure({"a": (Cpu(), tmp_path / "nothing")}, feeds, Timing())
    assert "\n" not in str(raised.value)


def test_an_order_beyond_the_time_limit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(TargetError, match="no answer within"):
        Local(timeout_s=0.01).build(Cpu(), elementwise(tmp_path / "m.onnx", "Relu"), tmp_path / "out")


def test_the_fingerprint_is_stable_and_personal_data_is_not_in_it() -> None:
    one, two = LOCAL.fingerprint(Cpu()), LOCAL.fingerprint(Cpu())
    assert one == two
    assert one.digest == two.digest
    assert one.cores == len(os.sched_getaffinity(0))
    assert list(one.runtime) == ["openvino"]
    assert os.uname().nodename not in repr(one).split("'")
    assert LOCAL.fingerprint(Mobile()).digest != one.digest


FIXED = Fingerprint("x86_64", "cpu", 2, ("avx2",), "performance", "Linux", "3.10", {"openvino": "1"}, "")


@pytest.mark.parametrize(
    "changed",
    [
        replace(FIXED, cores=1),
        replace(FIXED, features=("avx2", "avx512_vnni")),
        replace(FIXED, runtime={"openvino": "2"}),
        replace(FIXED, governor="powersave"),
        replace(FIXED, accelerator="NVIDIA"),
    ],
)
def test_every_field_counts_in_the_digest(changed: Fingerprint) -> None:
    assert changed.digest != FIXED.digest


def test_the_digest_does_not_depend_on_the_order_of_runtimes() -> None:
    ab, ba = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    assert replace(FIXED, runtime=ab).digest == replace(FIXED, runtime=ba).digest


ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm nothing\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
X86 = "model name\t: Some CPU @ 2GHz\nflags\t\t: fpu avx2 avx512_vnni lm\n"


@pytest.mark.parametrize(
    ("text", "model", "features"),
    [
        (ARM, "Arm implementer 0x41 part 0xd42", ("asimd", "asimddp", "i8mm")),
        (X86, "Some CPU @ 2GHz", ("avx2", "avx512_vnni")),
    ],
)
def test_cpus_are_read_from_the_kernels_text(
    text: str, model: str, features: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpuinfo, "CPUINFO", tmp_path / "cpuinfo")
    assert (cpuinfo.cpu_model(), cpuinfo.cpu_features()) == (model, features)


def test_governors_that_differ_are_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpuinfo, "CPUFREQ", str(tmp_path / "{}"))
    assert cpuinfo.governor() == "unknown"
    for core in cpuinfo.usable_cores():
        (tmp_path / str(core)).write_text("performance\n")
    assert cpuinfo.governor() == "performance"
    (tmp_path / str(cpuinfo.usable_cores()[0])).write_text("powersave\n")
    assert "powersave" in cpuinfo.governor()


def test_a_jetson_is_known_by_its_device_tree(tmp_path: Path) -> None:
    assert fingerprints.tegra_module(tmp_path) == ""
    (tmp_path / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    assert fingerprints.tegra_module(tmp_path) == "NVIDIA Tegra: NVIDIA Jetson Orin Nano Developer Kit"


def test_blocks_are_long_enough_and_within_the_limit() -> None:
    timing = Timing(samples=1000, rounds=10, max_s=60)
    assert Clock(60).calls_per_block(timing, [1_000_000, 3_000_000]) == 100
    assert Clock(60).calls_per_block(timing, [10_000]) == 2000
    assert 70 <= Clock(60).calls_per_block(timing, [80_000_000]) <= 75
    assert Clock(0.001).calls_per_block(timing, [80_000_000]) == 1


def test_patience_outlasts_a_stall_but_plans_no_more_calls() -> None:
    timing = Timing(samples=1000, rounds=10)
    hurried, patient = Clock(0.0), Clock(0.5, patience=100)
    assert hurried.over()
    assert not patient.over()
    assert patient.calls_per_block(timing, [5_000_000]) <= 10
