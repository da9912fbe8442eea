"""edgesmith report."""

from pathlib import Path

import click


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True)
def command(run: Path, form: str) -> None:
    """Print the report of RUN: a deployed folder, or its report.json."""
    from rich.console import Console

    from pipeline.report.files import read
    from pipeline.report.markdown import markdown
    from pipeline.report.terminal import show

    report = read(run)
    if form == "table":
        show(report, Console())
    else:
        click.echo(markdown(report) if form == "markdown" else report.model_dump_json(by_alias=True, indent=1))
