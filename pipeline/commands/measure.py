"""edgesmith measure."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands import _options as options


@click.command("measure")
@click.argument("artifact", type=click.Path(path_type=Path))
@options.target
@options.device
@click.option("--samples", type=click.IntRange(min=50), default=2000, show_default=True, help="Timed calls.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the runtime.")
@click.option(
    "--quantile",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="What is to be known to 1%, e.g. 0.99.",
)
@click.option("--mode", type=click.Choice(["latency", "throughput"]), default="latency", show_default=True)
@click.option("--streams", type=click.IntRange(min=1), default=1, show_default=True, help="Of mode throughput.")
@click.option("--layers", is_flag=True, help="Take the time of each layer too, by the runtime's own profiler.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON with every sample.")
def command(artifact: Path, target: str, device: str | None, as_json: bool, **given: Any) -> None:
    """Time ARTIFACT: an .onnx file, or a folder that deploy wrote. Random input, batch as built.

    The interval's unit is the process: 8 are started, and up to 16 where --quantile is not known to 1% by then.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from pipeline.report.terminal import show_timed
    from pipeline.standalone import measure
    from targets.devices.base import Timing

    made = options.made(target, {name: given[name] for name in ("threads", "streams")})
    timing = Timing(**{name: given[name] for name in ("samples", "quantile", "mode", "layers")})
    timed = measure(artifact, made, options.place(made, device), timing, options.progress())
    if as_json:
        click.echo(json.dumps(asdict(timed)))
    else:
        show_timed(timed, Console())
