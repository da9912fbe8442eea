"""edgesmith prune."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("prune")
@options.recipe
@options.start
@options.folder
@options.overrides
def command(recipe: Path, start: Path | None, out: Path, overrides: tuple[str, ...]) -> None:
    """Prune the model of RECIPE with its options for the stage, prove the result, and write it to a folder.

    The folder has weights.safetensors, plan.json and model.onnx. Start from another one with --from.
    """
    from pipeline.recipe import load
    from pipeline.standalone import run_stage

    options.tell(run_stage(load(recipe, overrides), "prune", start, out, options.progress()), out)
