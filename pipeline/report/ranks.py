"""What factorising made of every layer, as a table in the terminal."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.layers import change, share
from pipeline.report.table import count

if TYPE_CHECKING:
    from pipeline.checkpoint import Info

COLUMNS = ("method", "ranks", "MACs", "", "parameters", "error")


def show(info: "Info", console: Console) -> None:
    """Print every factorised layer, the totals, the proof, and why the others stay whole."""
    table = Table(header_style="bold")
    table.add_column("layer", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    layers: Sequence[Mapping[str, Any]] = info.figures["layers"]
    for layer in layers:
        if layer["ranks"]:
            macs, params = ((layer[f"{what}_before"], layer[f"{what}_after"]) for what in ("macs", "params"))
            ranks = ", ".join(map(str, layer["ranks"]))
            figures = (change(*macs, count), share(*macs), change(*params, count), f"{layer['rel_error']:.3f}")
            table.add_row(Text(layer["name"]), layer["method"], ranks, *figures)
    table.add_section()
    macs = (info.figures["macs_before"], info.macs)
    table.add_row("the model", "", "", change(*macs, count), share(*macs), count(info.params), "", style="bold")
    console.print(table)
    for line in lines(info.figures):
        console.print(Text(f"  {line}"))


def lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Say how well it is proved, and which layers stay whole for which reason."""
    yield f"proof: differs from the model with these weights by {figures['proof_max_rel_error']:.1e} of its output"
    reasons: dict[str, list[str]] = defaultdict(list)
    for layer in figures["layers"]:
        if not layer["ranks"]:
            reasons[layer["why"]].append(layer["name"] or "the model")
    for reason, names in reasons.items():
        yield f"whole, {reason}: {', '.join(names)}"
