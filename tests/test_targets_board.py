"""Reading a board's state, from folders laid out as boards' file systems are, and from this machine's."""

import json
import platform
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from targets.board.doubts import doubts
from targets.board.emulation import AARCH64, ARM, X86_64, elf_machine, emulator
from targets.board.state import State, read
from targets.fingerprint import clock_ranges
from tests.board_trees import orin, pc, tree


@pytest.fixture
def state(tmp_path: Path) -> State:
    return read(orin(tmp_path, 6))


@pytest.mark.parametrize(("jetpack", "zone"), [(5, "tj-therm"), (6, "tj-thermal")])
def test_an_orin_tells_clocks_heat_and_power(jetpack: int, zone: str, tmp_path: Path) -> None:
    found = read(orin(tmp_path, jetpack))
    assert found.clocks_mhz == {**{f"cpu{i}": 1190.4 for i in range(6)}, "gpu": 306}
    assert found.limits_mhz["cpu5"] == (729.6, 1510.4)
    assert found.limits_mhz["gpu"] == (306, 624.75)
    assert found.governors["gpu"] == "nvhost_podgov"
    assert len(found.temperatures_c) == 3  # the zone that is powered off reads -256
    assert found.temperatures_c[zone] == 48.125
    assert found.trips_c[zone] == 99
    assert found.throttling == ()  # a fan at work slows nothing down
    assert found.throttle_events == {f"oc{i}_event_cnt": 0 for i in (1, 2, 3)}
    assert found.rails_mw == {
        "VDD_IN": pytest.approx(9250.3, abs=0.1),
        "VDD_CPU_GPU_CV": pytest.approx(1993.6),
        "VDD_SOC": pytest.approx(1594.88),
    }
    assert found.memory_available_bytes == 5_000_000 * 1024
    assert (found.swap_used_bytes, found.load) == (0, 0.52)


def test_a_pc_tells_its_counters(tmp_path: Path) -> None:
    found = read(pc(tmp_path))
    assert found.temperatures_c == {"coretemp Package id 0": 55}
    assert found.throttle_events == {"core_throttle_count": 3, "package_throttle_count": 7}
    assert found.throttling == ()  # TCC Offset is a setting


def test_a_raspberry_pi_tells_its_flags(tmp_path: Path) -> None:
    tree(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50005"})
    found = read(tmp_path)
    assert found.throttling == ("under-voltage", "throttled")
    assert found.throttle_events["throttled since boot"] == 1
    assert found.throttle_events["frequency capped since boot"] == 0


def test_without_cpufreq_clocks_come_from_cpuinfo(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2000.5\n\nprocessor\t: 1\ncpu MHz\t\t: 2100\n"})
    assert read(tmp_path).clocks_mhz == {"cpu0": 2000.5, "cpu1": 2100.0}


def test_an_empty_file_system_tells_nothing(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.hottest is None
    assert (found.clocks_mhz, found.rails_mw, found.memory_available_bytes, found.load) == ({}, {}, None, None)
    assert doubts((found, found)) == ()


def test_this_machine_is_read_too() -> None:
    found = read()
    assert found.memory_available_bytes is None or found.memory_available_bytes > 0
    assert all(mhz > 0 for mhz in found.clocks_mhz.values())


def test_a_state_survives_json(state: State) -> None:
    assert State.of(json.loads(json.dumps(state.as_dict()))) == state


def test_a_steady_board_raises_no_doubt(state: State) -> None:
    assert doubts((state, replace(state, clocks_mhz={**state.clocks_mhz, "cpu0": 1250.0}))) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"throttling": ("cpu-throttle-alert",)}, "throttled: cpu-throttle-alert"),
        ({"throttle_events": {"oc3_event_cnt": 4}}, "throttled: oc3_event_cnt rose by 4"),
        ({"clocks_mhz": dict.fromkeys([f"cpu{i}" for i in range(6)], 729.6)}, "from 1190 to 730 MHz"),
        ({"clocks_mhz": {"cpu0": 1190.4, "gpu": 204.0}}, "gpu ran at 204 MHz, below its minimum of 306"),
        ({"temperatures_c": {"tj-thermal": 94.5}}, "tj-thermal reached 94 °C, where throttling begins at 99 °C"),
        ({"swap_used_bytes": 50_000_000}, "50 MB went to swap"),
    ],
)
def test_what_changed_meanwhile_is_told(change: dict[str, object], says: str, state: State) -> None:
    said = doubts((state, replace(state, **change)))  # type: ignore[arg-type]
    assert [says in line for line in said] == [True], said


def test_the_range_of_clocks_tells_power_modes_apart(tmp_path: Path) -> None:
    full, capped = tmp_path / "full", tmp_path / "capped"
    assert clock_ranges(orin(full, 6)) == {
        "cpu0 cpu1 cpu2 cpu3 cpu4 cpu5": "730-1510 MHz",
        "gpu": "306-625 MHz",
    }
    tree(orin(capped, 6), {"sys/class/devfreq/17000000.gpu/max_freq": 420_750_000})
    assert clock_ranges(capped)["gpu"] == "306-421 MHz"


def test_this_machine_is_no_emulator() -> None:
    assert elf_machine(Path(sys.executable)) is not None
    assert emulator() == ""


@pytest.mark.parametrize(
    ("machine", "runs", "says"),
    [("aarch64", X86_64, "qemu"), ("aarch64", AARCH64, ""), ("aarch64", ARM, ""), ("x86_64", AARCH64, "qemu")],
)
def test_a_program_for_another_processor_emulates_this_one(
    machine: str, runs: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    (tmp_path / "proc/thread-self").mkdir(parents=True)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, runs)
    (tmp_path / "proc/thread-self/exe").write_bytes(head)
    assert emulator(tmp_path) == says
    shutil.rmtree(tmp_path / "proc")
    assert emulator(tmp_path) == ""
