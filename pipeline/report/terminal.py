"""The report as a table in the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report import table
from pipeline.report.schema import Report

STYLES = {
    "pays": "green",
    "same": "default",
    "reference": "dim",
    "slower": "red",
    "inaccurate": "yellow",
    "unmeasured": "dim",
}


def show(report: Report, console: Console) -> None:
    """Print the table and its notes."""
    shown = Table(title=f"{report.recipe} → {report.target}", title_justify="left", header_style="bold")
    for name in table.HEADER:
        right = name in table.RIGHT
        shown.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row, cells in zip(report.stages, table.rows(report), strict=True):
        # Text, not markup: a value in brackets is no style
        *figures, verdict = (Text(cell) for cell in cells)
        verdict.stylize(STYLES[row.verdict.kind])
        shown.add_row(*figures, verdict, style="dim" if row.same_as else None)
    console.print(shown)
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
