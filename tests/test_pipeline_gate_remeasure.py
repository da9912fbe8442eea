"""Two artifacts measured anew: what is slower is found, what is the same is not, in real processes."""

from dataclasses import asdict
from pathlib import Path

import pytest
from gate_runs import edited, write_run

from pipeline.devices import place
from pipeline.errors import UserError
from pipeline.gate import runs
from pipeline.gate.remeasure import decided, judged, remeasure
from pipeline.gate.tolerances import Gate
from pipeline.progress import SILENT
from targets.backends.cpu import Cpu

GATE = Gate(p50=20.0, launches=8, max_s=60.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network, and one of six times the work."""
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "base", 10), write_run(folder / "more", 60)


def test_six_times_the_work_is_a_regression_and_a_sixth_of_it_none(folders: tuple[Path, Path]) -> None:
    base, more = map(runs.load, folders)
    found = remeasure(base, more, place(Cpu(), None), GATE, SILENT)
    assert 2 <= len(found) <= 8
    p50 = judged(found, GATE)[0]
    assert (p50.metric, p50.outcome) == ("p50", "regression")
    assert p50.change is not None
    assert p50.change > 100
    assert decided(found, GATE)
    assert judged([type(launch)(launch.run, launch.baseline) for launch in found], GATE)[0].outcome == "pass"


def test_what_was_timed_for_throughput_is_measured_with_all_streams(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 10)
    edited(folder, recipe={"timing": {"mode": "throughput"}}, target={"name": "cpu", **asdict(Cpu(streams=2))})
    run = runs.load(folder)
    short = Gate(p50=1000.0, launches=3, max_s=3.0)
    found = remeasure(run, run, place(Cpu(), None), short, SILENT)
    for measured in (found[0].baseline, found[0].run):
        assert measured.mode == "throughput"
        assert all(len(block) % 2 == 0 for block in measured.blocks_ns)  # as many calls of either stream
        assert all(wall < sum(block) for wall, block in zip(measured.walls_ns, measured.blocks_ns, strict=True))


def test_the_effort_ends_and_what_is_not_known_is_said(folders: tuple[Path, Path]) -> None:
    base = runs.load(folders[0])
    short = Gate(p50=0.0, p90=None, p99=None, memory=None, launches=3, max_s=0.5)
    found = remeasure(base, base, place(Cpu(), None), short, SILENT)
    assert len(found) == 2
    (p50,) = judged(found, short)
    assert p50.outcome != "regression" or (p50.low is not None and p50.low > 0)


def test_other_inputs_are_another_job(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base = runs.load(folders[0])
    other = write_run(tmp_path / "other", 1)
    edited(other, inputs={"input": [4, 16, 10, 10]})
    with pytest.raises(UserError, match="takes other input than the baseline's"):
        remeasure(base, runs.load(other), place(Cpu(), None), GATE, SILENT)
