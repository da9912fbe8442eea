"""edgesmith plan."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("plan")
@options.recipe
@options.target
@options.device
@options.store
@options.overrides
def command(recipe: Path, target: str, device: str | None, store_path: Path, overrides: tuple[str, ...]) -> None:
    """Say what a deploy of RECIPE would run, what has its result already, and why."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.planning import plan

    job = options.job(recipe, target, device, overrides, options.open_store(store_path, readonly=True))
    table = Table("stage", "", "why", header_style="bold")
    for row in plan(job):
        state = Text("cached", "green") if row.cached else Text("runs", "yellow")
        table.add_row(row.stage, state, Text(row.why))
    Console().print(table)
