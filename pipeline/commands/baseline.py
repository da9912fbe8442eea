"""edgesmith baseline."""

from pathlib import Path

import click

from pipeline.commands import _baselines as options


@click.group("baseline")
def command() -> None:
    """Keep deployed runs to judge later ones by: save, list, show.

    \b
    edgesmith baseline save artifacts/fashion_resnet20/cpu --name main
    edgesmith baseline list
    edgesmith baseline show main --out history.svg
    """


@command.command("save")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Letters, digits, '.', '_' and '-'. Saving again adds a version.")
@options.baselines
@click.option("--pointer", is_flag=True, help="Point at RUN's artifact instead of copying it.")
@click.option("--accept", is_flag=True, help="Accept its latency: drift is looked for from here on.")
def save(run: Path, name: str, baselines: Path, pointer: bool, accept: bool) -> None:
    """Save RUN, a folder that deploy wrote: report with raw samples, manifest, and the artifact itself."""
    from pipeline.gate import history
    from pipeline.gate.baselines import Baselines
    from pipeline.gate.runs import load
    from pipeline.now import now

    loaded, store, at = load(run), Baselines(baselines), now()
    latest = store.load(name) if store.numbers(name) else None
    level = 1.0 if accept else history.level_of(loaded, latest, history.read(store, name))
    version = store.save(loaded, name, at, level, copy=not pointer)
    past = history.past_of(loaded, at, "accepted" if accept else "saved", version.number)
    history.append(store, name, history.leveled(past, level))
    click.echo(f"{store.folder(name)}: version {version.number} of {name}")


@command.command("list")
@options.baselines
def list_(baselines: Path) -> None:
    """List the baselines, the latest version of each."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.gate.baselines import Baselines
    from pipeline.report.table import size

    store = Baselines(baselines)
    table = Table("name", "versions", "saved", "recipe", "target", "size", "p50 ms", header_style="bold")
    for name in store.names():
        saved = store.load(name)
        row, report = saved.run.row, saved.run.report
        p50 = f"{row.latency.p50_ms.value:.3f}" if row.latency else "no device"
        count = str(len(store.numbers(name)))
        table.add_row(name, count, saved.version.saved[:10], report.recipe, report.target, size(row.size_bytes), p50)
    if not table.row_count:
        click.echo(f"{baselines}: no baselines; save one: edgesmith baseline save RUN --name NAME")
        return
    Console().print(table)


@command.command("show")
@click.argument("name", metavar="NAME[@VERSION]")
@options.baselines
@click.option("--out", type=options.file, help="Draw the history, with its changes of level, as SVG.")
def show(name: str, baselines: Path, out: Path | None) -> None:
    """Show a baseline and its history: past runs, and where their latency changed its level."""
    from rich.console import Console

    from pipeline.gate import history
    from pipeline.gate.baselines import Baselines
    from pipeline.gate.drift import drift_of
    from pipeline.report import past

    store, (plain, number) = Baselines(baselines), options.name_and_version(name)
    saved = store.load(plain, number)
    runs = history.read(store, plain)
    drift = drift_of(runs)
    past.show(saved, runs, drift, Console())
    if out:
        out.write_text(past.picture(plain, drift), encoding="utf-8")
        click.echo(f"{out}: the history of {plain}")
