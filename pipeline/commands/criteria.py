"""edgesmith criteria."""

import click


@click.command("criteria")
def command() -> None:
    """List the pruning criteria: what each goes by, and what scoring takes.

    Name one in a recipe, with its options:

    \b
    stages:
      prune:
        criterion: taylor
        criterion_options: {}
    """
    from dataclasses import fields

    from rich.console import Console
    from rich.table import Table

    from pipeline.plugins import find, names
    from pipeline.pruning.criteria.base import Criterion
    from pipeline.pruning.ranking import CRITERIA

    table = Table("name", "keeps", "scoring takes", "options", header_style="bold")
    for name in names(CRITERIA):
        kind = find(CRITERIA, name, Criterion)
        summary = (kind.__doc__ or "").strip().partition("\n")[0]
        table.add_row(name, summary, kind.cost.value, ", ".join(f.name for f in fields(kind)))
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
