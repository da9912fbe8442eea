"""edgesmith measure."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("measure")
@click.argument("artifact", type=click.Path(path_type=Path))
@options.target
@options.device
@click.option("--samples", type=click.IntRange(min=50), default=1000, show_default=True, help="Timed calls.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the runtime.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON with every sample.")
def command(artifact: Path, target: str, device: str | None, samples: int, threads: int, as_json: bool) -> None:
    """Time ARTIFACT: an .onnx file, or a folder that deploy wrote. Random input, batch as built."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from pipeline.report.terminal import show_timed
    from pipeline.standalone import measure
    from targets.devices.base import Timing

    made = options.made(target, {"threads": threads})
    timed = measure(artifact, made, options.place(made, device), Timing(samples=samples), options.progress())
    if as_json:
        click.echo(json.dumps(asdict(timed)))
    else:
        show_timed(timed, Console())
