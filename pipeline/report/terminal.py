"""The report as a table in the terminal."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report import table
from pipeline.report.schema import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.standalone import Timed
    from targets.base import Layer

STYLES = {
    "pays": "green",
    "same": "default",
    "reference": "dim",
    "slower": "red",
    "inaccurate": "yellow",
    "unmeasured": "dim",
}
SAID = 0.94  # an interval of this level or more needs no comment
LAYERS = 10  # that are listed
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
        level = "" if value.level > SAID else f"  at {value.level:.0%} only: too few samples"
        shown.add_row(name.replace("_", " "), f"{value.value:.3f}", f"{value.low:.3f} – {value.high:.3f}{level}")
    if times.throughput_per_s:
        rate = times.throughput_per_s
        shown.add_row("samples per s", f"{rate.value:.1f}", f"{rate.low:.1f} – {rate.high:.1f}")
    shown.add_row("load", f"{measured.load_s:.3f} s", "")
    shown.add_row("first call", f"{1e3 * measured.first_call_s:.3f} ms", "")
    shown.add_row("size", table.size(timed.size_bytes), "")
    shown.add_row("peak memory", table.size(measured.memory_peak_bytes), "")
    ran = ", ".join(f"{n} × {kind}" for kind, n in sorted(measured.precision.items()))
    shown.add_row("kernels", ran, "")
    console.print(shown)
    if measured.layers:
        console.print(_layers(measured.layers))
    for line in measured.warnings:
        console.print(Text(f"  {line}", style="yellow"))


def _layers(layers: "Sequence[Layer]") -> Table:
    """The layers that take most of the time, with what ran them."""
    whole_ns = max(1, sum(layer.time_ns for layer in layers))
    slowest = sorted(layers, key=lambda layer: -layer.time_ns)[:LAYERS]
    title = f"the slowest {len(slowest)} of {len(layers)} layers, as the runtime's profiler has them"
    shown = Table("layer", "kind", "kernel", "precision", "µs", "share", title=title, title_justify="left")
    for layer in slowest:
        figures = (f"{layer.time_ns / 1e3:.0f}", f"{layer.time_ns / whole_ns:.0%}")
        shown.add_row(*map(Text, (layer.name, layer.kind, layer.kernel, layer.precision, *figures)))
    return shown
