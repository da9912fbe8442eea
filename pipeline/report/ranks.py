"""What factorising made of every layer, as a table in the terminal and in the report."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.layers import change, share
from pipeline.report.schema import Report
from pipeline.report.table import count

HEADER = ("layer", "method", "ranks", "MACs", "", "parameters", "error")
FIGURES = {"ranks", "layers"}  # what only a stage that factorised tells


def factorised(report: Report) -> tuple[str, Mapping[str, Any]] | None:
    """Return the first stage that factorised layers, and what it tells of them."""
    return next(((row.stage, row.figures) for row in report.stages if row.figures.keys() >= FIGURES), None)


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print every factorised layer, the totals, the proof, and why the others stay whole."""
    table = Table(header_style="bold")
    table.add_column(HEADER[0], overflow="fold")
    for name in HEADER[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for name, *cells in rows(figures):
        table.add_row(Text(name), *cells)
    table.add_section()
    table.add_row(*total(figures), style="bold")
    console.print(table)
    for line in lines(figures):
        console.print(Text(f"  {line}"))


def rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Return one row per factorised layer, as wide as HEADER. Its error is that of its weights, relative."""
    for layer in figures["layers"]:
        if layer["ranks"]:
            yield (
                layer["name"],
                layer["method"],
                ", ".join(map(str, layer["ranks"])),
                *_cost(layer),
                f"{layer['rel_error']:.3f}",
            )


def total(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of the whole model."""
    return ("the model", "", "", *_cost(figures), "")


def lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Say how well it is proved, and which layers stay whole for which reason."""
    yield f"proof: differs from the model with these weights by {figures['proof_max_rel_error']:.1e} of its output"
    reasons: dict[str, list[str]] = defaultdict(list)
    for layer in figures["layers"]:
        if not layer["ranks"]:
            reasons[layer["why"]].append(layer["name"] or "the model")
    for reason, names in reasons.items():
        yield f"whole, {reason}: {', '.join(names)}"


def _cost(given: Mapping[str, Any]) -> tuple[str, str, str]:
    macs, params = ((given[f"{what}_before"], given[f"{what}_after"]) for what in ("macs", "params"))
    return change(*macs, count), share(*macs), change(*params, count)
