"""edgesmith doctor."""

import click


@click.command("doctor")
def command() -> None:
    """Look for what would go wrong: missing runtimes, a slow CPU for int8, packages that get in the way."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.doctor import examine

    styles = {"ok": "green", "note": "yellow", "bad": "red"}
    table = Table("", "what", "found", header_style="bold")
    findings = examine()
    for finding in findings:
        table.add_row(Text(finding.level, styles[finding.level]), finding.what, Text(finding.found))
    Console().print(table)
    if any(finding.level == "bad" for finding in findings):
        raise SystemExit(1)
