"""What a process and its machine used, read from the kernel's own files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from targets import usage

STAT = """cpu  30 0 30 500 1 0 0 0 0 0
cpu0 10 0 20 300 1 0 0 5 0 0
cpu1 20 0 10 200 0 0 0 0 0 0
intr 12345
"""


def test_busy_time_counts_work_and_what_the_hypervisor_took(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(STAT)
    assert usage.busy_s(tmp_path / "stat") == {0: 0.35, 1: 0.30}
    assert usage.busy_s(tmp_path / "none") == {}


def test_the_peak_of_a_process_that_was_started_is_its_own() -> None:
    before = usage.memory_peak_bytes()
    subprocess.run([sys.executable, "-c", f"b'x' * {before + 50_000_000}"], check=True)
    assert usage.memory_peak_bytes(children=True) > before + 50_000_000
    assert usage.memory_peak_bytes() < before + 50_000_000


def test_throttling_is_summed_over_the_cores(tmp_path: Path) -> None:
    assert usage.throttled(tmp_path) == 0
    for core, count in (("cpu0", 2), ("cpu11", 3)):
        (tmp_path / core / "thermal_throttle").mkdir(parents=True)
        (tmp_path / core / "thermal_throttle" / "core_throttle_count").write_text(f"{count}\n")
    assert usage.throttled(tmp_path) == 5


def test_the_fastest_kind_of_core_comes_first_then_the_quietest(tmp_path: Path) -> None:
    for core, rated in ((0, 400), (1, 400), (2, 1024), (3, 1024)):
        (tmp_path / f"cpu{core}").mkdir()
        (tmp_path / f"cpu{core}" / "cpu_capacity").write_text(f"{rated}\n")
    fast = {core: usage.capacity(core, tmp_path) for core in range(5)}
    assert fast[4] == 0
    assert usage.ranked(range(4), fast, {0: 0.0, 1: 0.0, 2: 0.9, 3: 0.1}) == (3, 2, 1, 0)


def test_more_cores_than_there_are_cannot_be_kept_to() -> None:
    assert usage.quietest(10_000) == ()
    assert set(usage.quietest(1, look_s=0.0)) <= os.sched_getaffinity(0)


def test_a_process_keeps_to_its_cores() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    try:
        assert usage.pin([core, 10_000]) == (core,)
        assert usage.pin([]) == (core,)
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("key", ["now_s", "cpu_s", "memory_peak_bytes", "busy_s", "cores", "throttled"])
def test_all_counters_are_told(key: str) -> None:
    assert key in usage.usage()
