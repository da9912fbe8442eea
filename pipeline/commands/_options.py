"""Options that several verbs share."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.checkpoint import Info
    from pipeline.deploy import Job
    from pipeline.devices import Place
    from pipeline.progress import Progress
    from pipeline.store import Store
    from targets.base import Target
    from targets.board.options import Board
    from targets.devices.base import Tell

F = TypeVar("F", bound=Callable[..., Any])

recipe = click.argument("recipe", type=click.Path(path_type=Path))
target = click.option("--target", default="cpu", show_default=True, help="cpu, mobile, gpu, jetson …")
device = click.option(
    "--device", help="Where to build and time: local, ssh://user@host, a name of devices.yaml, or none to build only."
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override the recipe, e.g. stages.prune.ratio=0.3",
)
store = click.option(
    "--store",
    "store_path",
    type=click.Path(path_type=Path),
    default=Path(".edgesmith"),
    envvar="EDGESMITH_STORE",
    show_default=True,
    help="Where finished stages and timings are kept.",
)


start = click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path, exists=True),
    help="A folder that prune, factorize or finetune wrote.",
)
folder = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write."
)


def weights(command: F) -> F:
    """How int8 weights are chosen: the defaults of the stage `calibrate`."""
    choices = (
        click.option(
            "--scale",
            type=click.Choice(["max", "mse"]),
            default="max",
            show_default=True,
            help="Of weights, per channel. max: clip none; mse: clip a few where finer steps make up for it.",
        ),
        click.option(
            "--bias",
            type=click.Choice(["none", "analytic", "empirical"]),
            default="empirical",
            show_default=True,
            help="Take back the mean error of rounded weights in the bias, at no cost on the device: as measured on"
            " the data (one pass), or as computed from means and deviations. Depthwise networks need it.",
        ),
        click.option(
            "--rounding",
            type=click.Choice(["nearest", "adaround"]),
            default="nearest",
            show_default=True,
            help="adaround: round each weight up or down as the layer's output comes closest; minutes, not seconds.",
        ),
        click.option("--iterations", type=click.IntRange(min=1), default=1000, show_default=True, help="Of adaround."),
    )
    for choice in reversed(choices):
        command = choice(command)
    return command


@cache
def console() -> "Console":
    """The terminal; progress goes to stderr so that output can be piped."""
    from rich.console import Console

    return Console(stderr=True)


@cache
def progress() -> "Progress":
    """Bars on the terminal."""
    from pipeline.console import ConsoleProgress

    return ConsoleProgress(console())


def telling() -> "Tell":
    """How devices say what they do: bars, and lines in yellow."""
    from targets.devices.base import Tell

    return Tell(progress().bar, lambda line: console().print(line, style="yellow", markup=False))


def made(name: str, given: Mapping[str, Any] | None = None) -> "Target":
    """The target of that name, with those of the given options that it has."""
    from dataclasses import fields

    from pipeline.plugins import find
    from targets.base import Target

    cls = find("targets.backends", name, Target)
    known = {f.name for f in fields(cls)}
    return cls(**{key: value for key, value in (given or {}).items() if key in known})


def place(target: "Target", device: str | None, beside: Path = Path(), board: "Board | None" = None) -> "Place":
    """Where to build and run it, held as `board` says; named devices are looked up in `beside` too."""
    from pipeline.devices import place as resolve
    from targets.board.options import UNHELD

    return resolve(target, device, telling(), beside, board or UNHELD)


def numbers(given: tuple[str, ...]) -> dict[str, float]:
    """Read KEY=NUMBER options."""
    found = {}
    for text in given:
        key, _, value = text.partition("=")
        try:
            found[key] = float(value)
        except ValueError:
            raise click.UsageError(f"--option {text}: write KEY=NUMBER, e.g. percentile=99.9") from None
    return found


def tell(info: "Info", out: Path) -> None:
    """Print what a stage says of its result."""
    from pipeline.report.table import count

    click.echo(f"{out}: {count(info.params)} parameters, {count(info.macs)} MACs")
    for name, value in info.figures.items():
        click.echo(f"  {name.replace('_', ' ')}: {value}")


def open_store(path: Path, readonly: bool = False) -> "Store":
    """The store at `path`, telling on the terminal what it notices."""
    from pipeline.store import Store

    shown = console()
    return Store(path.resolve(), lambda line: shown.print(line, style="yellow", markup=False), readonly)


def job(
    recipe: Path,
    target: str,
    device: str | None,
    overrides: tuple[str, ...],
    store: "Store",
) -> "Job":
    """Resolve everything a run needs; fails before any work."""
    from pipeline.deploy import Job
    from pipeline.recipe import load

    loaded = load(recipe, overrides)
    resolved = loaded.target(target)
    where = place(resolved, device, loaded.path.parent, loaded.board)
    return Job(loaded, resolved, where, store, progress())
