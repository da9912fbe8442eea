"""What pruning took, as a table in the terminal and lines below it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.layers import FIGURE, Cut, change, read, share
from pipeline.report.schema import Report
from pipeline.report.table import count

NAMED = 6  # names that a line gives before it only counts


def pruned(report: Report) -> tuple[str, Cut] | None:
    """Return the first stage that cut layers, and what it cut; a stage that carries a model on repeats it."""
    return next(((row.stage, read(row.figures)) for row in report.stages if FIGURE in row.figures), None)


def show(cut: Cut, figures: Mapping[str, Any], console: Console) -> None:
    """Print every layer that changed, the totals, and what else the stage's `figures` tell."""
    shown = Table(header_style="bold")
    shown.add_column("layer", overflow="fold")
    for name in ("width", "MACs", ""):
        shown.add_column(name, justify="right", no_wrap=True)
    for layer in cut.layers:
        if layer.changed:
            width = change(layer.width_before, layer.width_after) if layer.width_before else ""
            macs = (layer.macs_before, layer.macs_after)
            # Text, not markup: a name in brackets is no style
            shown.add_row(Text(layer.name), width, change(*macs, count), share(*macs))
    shown.add_section()
    for name, pair in ((f"all {len(cut.layers)} layers", cut.macs), ("parameters", cut.params)):
        shown.add_row(name, "", change(*pair, count), share(*pair), style="bold")
    console.print(shown)
    for line in lines(cut, figures):
        console.print(Text(f"  {line}"))


def lines(cut: Cut, figures: Mapping[str, Any]) -> Iterator[str]:
    """Say what was asked for and reached, how well it is proved, and what did not change and why."""
    asked, reached = figures["requested_ratio"], figures["achieved_ratio"]
    yield f"{figures['share_of']}: {asked:.1%} asked for, {reached:.1%} removed"
    yield f"proof: differs from the masked original by {figures['proof_max_rel_error']:.1e} of the largest output"
    if same := [layer.name for layer in cut.layers if not layer.changed]:
        yield f"unchanged: {_some(same)}"
    for op, names in figures["frozen"].items():
        yield f"frozen by {op}: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
