"""edgesmith compare."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands import _options as options


def _within(_: click.Context, __: click.Parameter, text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise click.BadParameter(f"{text!r} is no percentage: write --within 1%")
    return share


@click.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="[B]", required=False)
@click.option("--target", help="Of A, and of B: cpu, mobile, gpu …; a deployed folder knows its own.  [default: cpu]")
@click.option("--against", help="Of B, where it is another one.")
@options.device
@click.option("--within", default="1%", show_default=True, callback=_within, help="A difference that does not matter.")
@click.option("--samples", type=click.IntRange(min=50), default=2000, show_default=True, help="Timed calls of each.")
@click.option("--rounds", type=click.IntRange(min=3), default=24, show_default=True, help="Interleaved blocks of each.")
@click.option(
    "--launches",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Sets of fresh processes for the rounds. What differs between two processes of one model is chance.",
)
@click.option("--max-s", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Time limit.")
@click.option("--mode", type=click.Choice(["latency", "throughput"]), default="latency", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the runtime.")
@click.option(
    "--streams", type=click.IntRange(min=1), default=1, show_default=True, help="Calls at once, in throughput."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Gets comparison.json and comparison.svg."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with every sample.")
@options.store
def command(first: str, second: str | None, within: float, out: Path | None, as_json: bool, **given: Any) -> None:
    """Say whether A is faster than B, slower, the same, or that it cannot be told yet.

    Both run on one device, in fresh processes, in blocks that alternate in random order: what disturbs one disturbs
    the other. The interval is for the ratio A / B, and its unit is the process.

    \b
    edgesmith compare new.onnx old.onnx                         two models
    edgesmith compare artifacts/a/cpu artifacts/b/cpu           two runs of deploy
    edgesmith compare net.onnx --target cpu --against mobile    one model on two targets
    edgesmith compare recipes/net.yaml HEAD~3:recipes/net.yaml  a recipe now and three commits ago

    A and B are .onnx files, folders that deploy or compile wrote, recipes, or REVISION:RECIPE, which is deployed with
    its own code from a temporary git worktree. The answer is the same whoever asks: the exit code is 0.
    """
    import json

    from rich.console import Console

    from pipeline.comparing import compare
    from pipeline.contenders import Wanted
    from pipeline.report import compared
    from targets.devices.base import Timing

    if second is None and given["against"] is None:
        raise click.UsageError("compare with what? name B, or another target with --against")
    tuned = {"threads": given["threads"], "streams": given["streams"]}
    rest = {"device": given["device"], "options": tuned, "store": given["store_path"]}
    a = Wanted(first, given["target"], **rest)
    b = Wanted(second or first, given["against"] or given["target"], **rest)
    timed = {key: given[key] for key in ("samples", "rounds", "launches", "max_s", "mode")}
    found = compare(a, b, Timing(**timed), within, options.progress())
    text = json.dumps(found.plain())
    if as_json:
        click.echo(text)
    else:
        compared.show(found, Console())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / compared.DATA).write_text(text + "\n", encoding="utf-8")
        (out / compared.PICTURE).write_text(compared.picture(found), encoding="utf-8")
