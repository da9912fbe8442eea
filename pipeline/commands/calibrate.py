"""edgesmith calibrate."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("calibrate")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Preprocessed samples: .npz, .npy, or a folder of .npy files.",
)
@click.option("--observer", default="percentile", show_default=True, help="minmax or percentile.")
@click.option("--option", "given", multiple=True, metavar="KEY=NUMBER", help="The observer's: percentile=99.99")
@click.option("--samples", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("ranges.json"), show_default=True)
def command(model: Path, data: Path, observer: str, given: tuple[str, ...], samples: int, out: Path) -> None:
    """Observe the activations of MODEL, a float .onnx file, on samples; write ranges.json.

    One ranges.json serves every target: `edgesmith export MODEL --ranges ranges.json --target …`.
    """
    from pipeline.standalone import calibrate, samples_from

    ranges = calibrate(model, samples_from(data, samples), observer, options.numbers(given), options.progress())
    ranges.save(out)
    click.echo(f"{out}: ranges of {len(ranges.tensors)} tensors")
