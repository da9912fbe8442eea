"""edgesmith calibrate."""

from pathlib import Path
from typing import Any

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
@click.option(
    "--observer",
    default="percentile",
    show_default=True,
    help="How ranges are chosen: minmax, mean_minmax, percentile, entropy, mse or moving_average.",
)
@click.option("--option", "given", multiple=True, metavar="KEY=NUMBER", help="The observer's: percentile=99.99")
@click.option("--samples", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("ranges.json"), show_default=True)
@options.weights
@click.option(
    "--equalized", type=click.Path(path_type=Path), help="Equalize channels first; where to write that model."
)
def command(
    model: Path, data: Path, observer: str, given: tuple[str, ...], samples: int, out: Path, **choices: Any
) -> None:
    """Observe the activations of MODEL, a float .onnx file, on samples; write ranges.json, and int8 weights.

    One ranges.json serves every target, and so does int8.safetensors, which lies beside it where weights are not
    just rounded: `edgesmith export MODEL --ranges ranges.json --weights int8.safetensors --target …`.
    """
    from calibration.weights import FILE
    from pipeline import standalone
    from pipeline.weight_options import WeightOptions

    equalized: Path | None = choices.pop("equalized")
    asked = WeightOptions(equalize=equalized is not None, **choices)
    told, array = options.progress(), standalone.samples_from(data, samples)
    if equalized is not None:
        pairs = standalone.equalize(model, equalized, array, asked, told)
        click.echo(f"{equalized}: {pairs} pairs of convolutions equalized; export this one")
        model = equalized
    ranges = standalone.calibrate(model, array, observer, options.numbers(given), told)
    ranges.save(out)
    click.echo(f"{out}: ranges of {len(ranges.tensors)} tensors")
    chosen = standalone.choose_weights(model, array, asked, told)
    if chosen is not None:
        chosen.save(out.with_name(FILE))
        click.echo(f"{out.with_name(FILE)}: int8 weights of {len(chosen.tensors)} ops, {len(chosen.biases)} biases")
