import io
from typing import Any

from rich.console import Console

from pipeline.report.markdown import markdown
from pipeline.report.ranks import HEADER, factorised, lines, rows, show, total
from pipeline.report.schema import Precision, Report, StageReport, Verdict


def layer(name: str, method: str, ranks: list[int], after: int, **told: object) -> dict[str, object]:
    costs = {"macs_before": 1_000_000, "macs_after": after, "params_before": 5000, "params_after": after // 200}
    return {"name": name, "method": method, "ranks": ranks, **costs, **told}


def report_of(figures: dict[str, Any]) -> Report:
    """Return a report of a source and of one stage more, which nothing could run."""

    def row(stage: str, **told: Any) -> StageReport:
        absent = dict.fromkeys(
            ("params", "macs", "latency", "speedup", "ratio_to_previous", "memory_peak_bytes", "device")
        )
        return StageReport(
            stage=stage,
            status="no device",
            cached=False,
            wall_s=1.0,
            size_bytes=1,
            metrics={},
            runtime={},
            precision=Precision(requested="f32", ran={}),
            proxy=False,
            warnings=(),
            verdict=Verdict(kind="unmeasured", text="", rejected=False),
            figures=told,
            **absent,
        )

    return Report(
        recipe="r",
        target="cpu",
        created="today",
        versions={},
        git_commit=None,
        budget={"max_drop": 1.0},
        timing={},
        shipped="factorize",
        not_run=None,
        stages=(row("source"), row("factorize", **figures)),
    )


FIGURES = {
    "method": "auto",
    "ranks": "energy 0.9",
    "macs_before": 3_000_000,
    "macs_after": 1_750_000,
    "params_before": 15_000,
    "params_after": 8_750,
    "proof_max_rel_error": 2.5e-7,
    "layers": [
        layer("stem[red]", "tucker", [8, 12], 250_000, rel_error=0.1234),
        layer("a|b", "svd", [4], 500_000, rel_error=0.05),
        layer("head", "whole", [], 1_000_000, why="not cheaper", rel_error=None),
    ],
}
ROWS = [
    ("stem[red]", "tucker", "8, 12", "1.00M → 250.00k", "−75.0%", "5.00k → 1.25k", "0.123"),
    ("a|b", "svd", "4", "1.00M → 500.00k", "−50.0%", "5.00k → 2.50k", "0.050"),
]
TOTAL = ("the model", "", "", "3.00M → 1.75M", "−41.7%", "15.00k → 8.75k", "")


def test_rows_are_of_what_was_factorised() -> None:
    assert list(rows(FIGURES)) == ROWS
    assert total(FIGURES) == TOTAL
    assert {len(row) for row in (*ROWS, TOTAL)} == {len(HEADER)}
    assert list(lines(FIGURES)) == [
        "proof: differs from the model with these weights by 2.5e-07 of its output",
        "whole, not cheaper: head",
    ]


def test_the_terminal_has_the_same_cells() -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    show(FIGURES, console)
    shown = [
        tuple(cell.strip() for cell in line.split("│")[1:-1])
        for line in console.export_text().splitlines()
        if "│" in line
    ]
    assert shown == [*ROWS, TOTAL]


def test_the_report_has_them_too_and_a_name_cannot_break_the_table() -> None:
    written = markdown(report_of(FIGURES))
    section = written.partition("## Low rank\n\n")[2]
    table, _, rest = section.partition("\n\n")
    cells = [line.replace("\\|", "¦").strip("| ").split(" | ") for line in table.splitlines()]
    assert [[cell.replace("¦", "|") for cell in row] for row in cells[2:4]] == list(map(list, ROWS))
    assert len(cells) == 5
    assert "factorize: ranks by energy 0.9" in rest
    assert "- whole, not cheaper: head\n" in rest


def test_a_report_without_low_rank_has_no_such_section() -> None:
    report: Report = report_of({"ranks": "of no layer"})
    assert factorised(report) is None
    assert "Low rank" not in markdown(report)
