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

    The folder has weights.safetensors, plan.json, model.onnx, and widths.svg, which shows every layer before and
    after. Start from another one with --from.

    \b
    edgesmith prune recipes/fashion_resnet20.yaml --out pruned
    edgesmith prune recipes/fashion_resnet20.yaml --out half --set stages.prune.ratio=0.5
    edgesmith diff pruned half      what the two plans do differently
    """
    from rich.console import Console

    from pipeline.recipe import load
    from pipeline.report import cuts, layers, widths
    from pipeline.standalone import run_stage

    loaded = load(recipe, overrides)
    figures = run_stage(loaded, "prune", start, out, options.progress()).figures
    cut = layers.read(figures)
    cuts.show(cut, figures, Console())
    (out / widths.FILE).write_text(widths.picture(cut, loaded.name), encoding="utf-8")
    click.echo(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
