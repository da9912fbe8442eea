"""Energy of calls: counters, sampled rails, and neither."""

import time
from pathlib import Path

import pytest

from targets.board import rails
from targets.board.energy import Energy, measure
from tests.board_trees import orin, pc, tree


def test_zones_are_named_with_their_parents(tmp_path: Path) -> None:
    assert list(rails.counters_uj(pc(tmp_path))) == ["package-0", "package-0/core"]


def test_a_counter_that_wrapped_is_unwrapped() -> None:
    before, after = {"package-0": (900.0, 1000.0)}, {"package-0": (50.0, 1000.0), "new": (1.0, 2.0)}
    assert rails.spent_uj(before, after) == {"package-0": 150.0}


def test_energy_is_what_the_counter_rose_by(tmp_path: Path) -> None:
    pc(tmp_path)
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"

    def call() -> None:
        counter.write_text(str(int(counter.read_text()) + 2_000))

    found = measure(call, 0.02, tmp_path)
    assert found is not None
    assert (found.source, found.rail) == ("counter", "package-0")
    assert found.per_call_mj()["package-0"] == pytest.approx(2.0)
    assert found.per_call_mj()["package-0/core"] == 0


def test_sampled_power_is_integrated(tmp_path: Path) -> None:
    orin(tmp_path, 6)
    found = measure(lambda: time.sleep(0.01), 0.3, tmp_path)
    assert found is not None
    assert (found.source, found.rail) == ("sampled", "VDD_IN")
    power_mw = 4984 * 1856 / 1e3
    assert found.rails_mj["VDD_IN"] == pytest.approx(power_mw * found.duration_s, rel=1e-6)


def test_power_that_changes_counts_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    orin(tmp_path, 6)
    current = tmp_path / "sys/class/hwmon/hwmon1/curr1_input"
    start_s = time.perf_counter()

    def call() -> None:
        time.sleep(0.01)
        if time.perf_counter() - start_s > 0.5:
            current.write_text("3712\n")  # twice the current from then on

    found = measure(call, 1.0, tmp_path)
    assert found is not None
    assert 1 < found.rails_mj["VDD_IN"] / found.duration_s / (4984 * 1856 / 1e3) < 2


def test_a_board_of_parts_has_no_total(tmp_path: Path) -> None:
    folder = "sys/class/hwmon/hwmon4"
    tree(tmp_path, {f"{folder}/name": "ina238", f"{folder}/power1_input": 2_500_000, f"{folder}/power1_label": "VDD_A"})
    assert rails.powers_mw(tmp_path) == {"VDD_A": 2500.0}
    assert rails.total({"VDD_A": 1.0}) is None


def test_unused_channels_are_left_out(tmp_path: Path) -> None:
    folder = "sys/class/hwmon/hwmon0"
    tree(tmp_path, {f"{folder}/name": "ina3221", f"{folder}/in1_label": "NC", f"{folder}/in1_input": 5000})
    tree(tmp_path, {f"{folder}/curr1_input": 1000})
    assert rails.powers_mw(tmp_path) == {}


def test_without_a_rail_there_is_no_energy(tmp_path: Path) -> None:
    called = []
    assert measure(lambda: called.append(1), 0.1, tmp_path) is None
    assert called == []


def test_energy_survives_json() -> None:
    energy = Energy({"VDD_IN": 5.0}, 10, 0.5, "sampled")
    told = {"rails_mj": {"VDD_IN": 5}, "calls": 10, "duration_s": 0.5, "source": "sampled"}
    assert Energy.of(told) == energy
