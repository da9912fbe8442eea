"""edgesmith deploy."""

from pathlib import Path

import click

from pipeline.commands import _options as options


@click.command("deploy")
@options.recipe
@options.target
@options.device
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("artifacts"),
    show_default=True,
    help="Gets RECIPE/TARGET/ with model/, report.json, report.md and manifest.json.",
)
@options.store
@options.overrides
def command(
    recipe: Path, target: str, device: str | None, out: Path, store_path: Path, overrides: tuple[str, ...]
) -> None:
    """Run RECIPE for a target, measure every stage on the device, and write what ships.

    Finished stages are kept: a second run does no stage work, and an interrupted one goes on.
    """
    from rich.console import Console

    from pipeline.deploy import deploy
    from pipeline.report.terminal import show

    job = options.job(recipe, target, device, overrides, options.open_store(store_path))
    folder = out / job.recipe.name / target
    report = deploy(job, folder)
    show(report, Console())
    click.echo(f"\nshipped the result of {report.shipped}: {folder / 'model'}\nreport: {folder / 'report.md'}")
