"""The report as a table in the terminal."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report import table
from pipeline.report.schema import Report

if TYPE_CHECKING:
    from pipeline.standalone import Timed

STYLES = {
    "pays": "green",
    "same": "default",
    "reference": "dim",
    "slower": "red",
    "inaccurate": "yellow",
    "unmeasured": "dim",
}
ROOMY, NARROW = 150, 106  # columns of a terminal that fit the verdicts, and all figures
SPARED = frozenset({"params", "MACs", "p90 ms"})  # what a narrow terminal does without


def show(report: Report, console: Console) -> None:
    """Print the table, the verdicts and the notes; a narrow terminal gets fewer columns, never cut ones."""
    roomy = console.width >= ROOMY
    left_out = set() if roomy else {"verdict"} | (SPARED if console.width < NARROW else set())
    shown = Table(title=f"{report.recipe} → {report.target}", title_justify="left", header_style="bold")
    for name in table.HEADER:
        if name not in left_out:
            shown.add_column(name, justify="right" if name in table.RIGHT else "left", no_wrap=name != "verdict")
    for row, cells in zip(report.stages, table.rows(report), strict=True):
        # Text, not markup: a value in brackets is no style
        texts = [Text(cell) for name, cell in zip(table.HEADER, cells, strict=True) if name not in left_out]
        if roomy:
            texts[-1].stylize(STYLES[row.verdict.kind])
        shown.add_row(*texts, style="dim" if row.same_as else None)
    console.print(shown)
    if not roomy:
        for row in report.stages:
            console.print(Text(f"  {row.stage}: {row.verdict.text}", STYLES[row.verdict.kind]))
    for line in table.notes(report):
        console.print(Text(f"  {line}", style="dim"))


def show_timed(timed: "Timed", console: Console) -> None:
    """Print what one artifact did."""
    from pipeline.assess import latency

    measured = timed.measurement
    times = latency(measured)
    shown = Table("", "value", "95% interval", header_style="bold")
    for name in ("p50_ms", "p90_ms", "p99_ms"):
        value = getattr(times, name)
        shown.add_row(name.replace("_", " "), f"{value.value:.3f}", f"{value.low:.3f} – {value.high:.3f}")
    shown.add_row("size", table.size(timed.size_bytes), "")
    shown.add_row("peak memory", table.size(measured.memory_peak_bytes), "")
    ran = ", ".join(f"{n} × {kind}" for kind, n in sorted(measured.precision.items()))
    shown.add_row("kernels", ran, "")
    console.print(shown)
    for line in measured.warnings:
        console.print(Text(f"  {line}", style="yellow"))
