"""edgesmith finetune."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("finetune")
@options.recipe
@options.start
@options.folder
@options.overrides
def command(recipe: Path, start: Path | None, out: Path, overrides: tuple[str, ...]) -> None:
    """Train the model of RECIPE with its options for the stage, and write it to a folder.

    Interrupted, the same command goes on after the last whole epoch. Start from what `edgesmith prune` wrote
    with --from; a recipe without weights trains from scratch.
    """
    from pipeline.recipe import load
    from pipeline.standalone import run_stage

    options.tell(run_stage(load(recipe, overrides), "finetune", start, out, options.progress()), out)
