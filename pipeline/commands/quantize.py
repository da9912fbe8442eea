"""edgesmith quantize."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands import _options as options

if TYPE_CHECKING:
    from pipeline.devices import Place
    from pipeline.images import Preparation
    from pipeline.quantizing import Settings
    from targets.base import Target

REGRESSION = 1  # exit code


def _size(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value.lower().split("x")
    if not all(side.isdigit() and int(side) for side in sides) or len(sides) > 2:
        raise click.BadParameter("write 224, or HEIGHTxWIDTH as in 480x640")
    return int(sides[0]), int(sides[-1])


def _numbers(_: click.Context, __: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("write numbers with commas, e.g. 0.485,0.456,0.406") from None


@click.command("quantize")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Samples: see above.")
@click.option("--out", type=click.Path(path_type=Path), help="The .onnx file to write.  [default: MODEL_int8.onnx]")
@options.target
@options.device
@click.option(
    "--observer",
    default="auto",
    show_default=True,
    help="How ranges are chosen, see calibrate; auto: of minmax, mean_minmax, percentile and mse, what keeps the"
    " outputs closest on samples held out.",
)
@click.option("--option", "options", multiple=True, metavar="KEY=NUMBER", help="The observer's: percentile=99.99")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="To calibrate on; as many of the rest are compared and judged on.",
)
@options.weights
@click.option("--equalize", is_flag=True, help="Give channels between two convolutions like ranges first.")
@click.option("--metric", help="FILE.py:NAME, a callable metric(run) -> float; or agreement, of the top-1 in percent.")
@click.option("--max-drop", type=click.FloatRange(min=0), help="That the metric may lose, in its own unit.")
@click.option("--min-sqnr", type=float, help="The dB that the worst output must keep; in place of a metric.")
@click.option("--exclude", multiple=True, metavar="NODE", help="Leave this node in float. Repeatable.")
@click.option("--sensitivity", is_flag=True, help="Measure and draw what each layer's int8 costs.")
@click.option(
    "--method",
    type=click.Choice(("static", "dynamic", "weights", "f16")),
    default="static",
    show_default=True,
    help="dynamic: ranges as they come, for MatMul, Gemm and LSTM on onnxruntime; weights: int8 weights alone, a"
    " smaller file at the float speed; f16: float16, no int8.",
)
@click.option(
    "--placement",
    type=click.Choice(("scheme", "measured")),
    default="scheme",
    show_default=True,
    help="measured: time on the device which parts int8 makes faster, and leave the others in float.",
)
@click.option(
    "--races",
    type=click.IntRange(min=2),
    default=60,
    show_default=True,
    help="Comparisons that a measured placement may take.",
)
@options.store
@click.option("--mean", default="0", callback=_numbers, help="Images: (x / 255 - mean) / std.  [default: 0]")
@click.option("--std", default="1", callback=_numbers, help="One number, or one for each channel.  [default: 1]")
@click.option("--size", callback=_size, metavar="HxW", help="Images: where the model takes any size.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the target's runtime.")
@click.option(
    "--on-regression",
    type=click.Choice(("warn", "reject")),
    default="warn",
    show_default=True,
    help="Slower than float on this device: write it and say so, or write nothing and exit with 1.",
)
def command(model: Path, data: Path, out: Path | None, **given: Any) -> None:
    """Make an int8 ONNX file for a target of MODEL, any float .onnx file.

    The data is what the model takes, preprocessed: an .npz file with an array for each input, samples along
    axis 0; an .npy file, or a folder of .npy files with one sample each, where there is one input; a folder of
    .npz files, one call each, for models with state; or a folder of images.

    Writes the model and beside it a report, MODEL_int8.json: how close the outputs are, which layers run in
    int8 and why the others do not, and both models' latency where the target can run here.

    With a floor, layers stay in float as needed, and no more: --metric eval.py:metric --max-drop 1.0, where
    metric(run) calls run({"input": array, …}), which returns the outputs by name, and returns a number, larger is
    better; or --metric agreement --max-drop 1.0; or --min-sqnr 20.

    \b
    edgesmith quantize model.onnx --data samples.npz --target cpu --out model_int8.onnx
    edgesmith quantize model.onnx --data photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    edgesmith quantize model.onnx --data samples.npz --metric eval.py:metric --max-drop 1.0
    edgesmith quantize speech.onnx --data calls/ --method dynamic --target mobile
    """
    from rich.console import Console

    from pipeline.quantized import quantize
    from pipeline.quantizing import Job
    from pipeline.report.quantized import show

    suffix = "f16" if given["method"] == "f16" else "int8"
    out = out or model.with_name(f"{model.stem}_{suffix}.onnx")
    made = options.made(given["target"], {"threads": given["threads"]})
    job = Job(model, data, made, _place(made, given["device"]), _settings(given), options.progress(), _images(given))
    report = quantize(job, out)
    show(report, Console())
    written = f"{out}, {out.with_suffix('.json')}" if report.written else str(out.with_suffix(".json"))
    click.echo(f"\nwritten: {written}")
    if report.verdict.rejected:
        click.get_current_context().exit(REGRESSION)


def _place(target: "Target", device: str | None) -> "Place | None":
    """Where to time; nowhere for what is built on a board of its own kind."""
    if device == "none" or (device is None and target.remote):
        return None
    return options.place(target, device)


def _settings(given: Mapping[str, Any]) -> "Settings":
    from pipeline.quantizing import Settings
    from pipeline.weight_options import WeightOptions

    same = (
        "observer",
        "samples",
        "metric",
        "max_drop",
        "min_sqnr",
        "exclude",
        "sensitivity",
        "method",
        "placement",
        "races",
        "on_regression",
    )
    weights = WeightOptions(**{name: given[name] for name in ("scale", "equalize", "bias", "rounding", "iterations")})
    chosen = {name: given[name] for name in same}
    return Settings(options=options.numbers(given["options"]), weights=weights, store=given["store_path"], **chosen)


def _images(given: Mapping[str, Any]) -> "Preparation":
    from pipeline.images import Preparation

    return Preparation(given["mean"], given["std"], given["size"])
