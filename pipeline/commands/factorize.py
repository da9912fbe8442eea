"""edgesmith factorize."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("factorize")
@options.recipe
@options.start
@options.folder
@options.overrides
def command(recipe: Path, start: Path | None, out: Path, overrides: tuple[str, ...]) -> None:
    """Factorise layers of the model of RECIPE with its options for the stage, and write it to a folder.

    Prints every layer with its ranks, or why it stays whole. Start from what `edgesmith prune` wrote with --from.

    \b
    edgesmith factorize recipe.yaml --out factored
    edgesmith factorize recipe.yaml --out half --set stages.factorize.budget=0.5
    """
    from rich.console import Console

    from pipeline.recipe import load
    from pipeline.report import ranks
    from pipeline.standalone import run_stage

    info = run_stage(load(recipe, overrides), "factorize", start, out, options.progress())
    ranks.show(info.figures, Console())
    click.echo(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
