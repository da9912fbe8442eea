"""edgesmith export."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("export")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--ranges", type=click.Path(path_type=Path, exists=True), help="Of calibrate, for an .onnx SOURCE.")
@click.option("--weights", type=click.Path(path_type=Path, exists=True), help="Of calibrate: int8.safetensors.")
@options.target
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .onnx file to write.")
@options.overrides
def command(
    source: Path, ranges: Path | None, weights: Path | None, target: str, out: Path, overrides: tuple[str, ...]
) -> None:
    """Write an ONNX file: of a recipe's model in float, or of a float .onnx file in int8 for a target."""
    from pipeline.errors import UserError
    from pipeline.recipe import load
    from pipeline.standalone import export_recipe, place_pairs

    if source.suffix in (".yaml", ".yml"):
        delta = export_recipe(load(source, overrides), out)
        click.echo(f"{out}: largest difference from the module {delta:.2g}")
    elif ranges is None:
        raise UserError("an .onnx file is exported to int8: give --ranges, from `edgesmith calibrate`")
    else:
        lowered = place_pairs(source, ranges, options.made(target), out, weights)
        click.echo(f"{out}: {len(lowered.quantized)} ops in int8, {len(lowered.skipped)} left in float")
