"""What the report shows of a measured placement."""

import io

from rich.console import Console

from pipeline.report.markdown import markdown
from pipeline.report.placed import HEADER, measured, rows
from pipeline.report.schema import Interval, MeasuredPlacement, PlacementTrial, Precision, Report, StageReport, Verdict
from pipeline.report.terminal import show

FASTER, SLOWER = Interval(value=0.8, low=0.75, high=0.85), Interval(value=1.2, low=1.1, high=1.3)
TRIALS = (
    PlacementTrial(
        change="everything in int8", against="float", floats=(), ratio=FASTER, accuracy=None, kept=False, why="faster"
    ),
    PlacementTrial(
        change="a | b in float", against="int8", floats=("a",), ratio=SLOWER, accuracy=0.5, kept=False, why="slower"
    ),
    PlacementTrial(
        change="c in float", against="what was kept", floats=("c",), ratio=FASTER, accuracy=0.9, kept=True, why="faster"
    ),
)
FOUND = MeasuredPlacement(
    outcome="mixed",
    floats=("c",),
    ratio=FASTER,
    floor=0.8,
    accuracy=0.9,
    complete=True,
    text="1 ops in float",
    trials=TRIALS,
)


def row(stage: str, placement: MeasuredPlacement | None) -> StageReport:
    return StageReport(
        stage=stage, status="ok", cached=False, wall_s=1.0, size_bytes=1000, params=None, macs=None, metrics={},
        latency=None, speedup=None, ratio_to_previous=None, memory_peak_bytes=None, runtime={},
        precision=Precision(requested="f32", ran={}), device=None, proxy=False, warnings=(),
        verdict=Verdict(kind="reference", text="as it came"), placement=placement, figures={},
    )  # fmt: skip


def report(placement: MeasuredPlacement | None) -> Report:
    return Report(
        recipe="r", target="cpu", created="", versions={}, git_commit=None, budget={"max_drop": 1.0}, timing={},
        shipped="place", not_run=None, stages=(row("source", None), row("place", placement)),
    )  # fmt: skip


def test_every_comparison_is_a_row() -> None:
    found = list(rows(FOUND))
    assert {len(cells) for cells in found} == {len(HEADER)}
    assert found[0] == ("everything in int8", "everything in float", "0.800 (0.750–0.850)", "faster", "")
    assert found[2] == ("c in float", "what was kept", "0.800 (0.750–0.850)", "faster; accuracy 0.9", "kept")


def test_the_markdown_has_the_table_and_the_terminal_the_result() -> None:
    made = report(FOUND)
    assert measured(made) == ("place", FOUND)
    written = markdown(made)
    table = written[written.index("## Placement") :]
    assert "\n\nplace: 1 ops in float. Every comparison was interleaved" in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(TRIALS)
    assert "a \\| b in float" in lines[3]
    console = Console(width=220, record=True, file=io.StringIO())
    show(made, console)
    assert "place: 1 ops in float" in console.export_text()
    assert Report.model_validate_json(made.model_dump_json(by_alias=True)) == made


def test_without_a_measured_placement_there_is_no_table() -> None:
    assert measured(report(None)) is None
    assert "## Placement" not in markdown(report(None))
