"""edgesmith schema."""

import json

import click


@click.command("schema")
@click.option("--report", is_flag=True, help="The schema of report.json instead.")
def command(report: bool) -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from pipeline import recipe
    from pipeline.report.schema import Report

    click.echo(json.dumps(Report.model_json_schema() if report else recipe.json_schema(), indent=2))
