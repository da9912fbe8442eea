"""edgesmith targets."""

import click


@click.command("targets")
def command() -> None:
    """List the targets: their runtime, whether it is installed, and whether it can run here."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline import plugins
    from targets.base import Target, TargetError

    table = Table("target", "runtime", "runs here", "int8", "channels", header_style="bold")
    for name in plugins.names("targets.backends"):
        cls = plugins.find("targets.backends", name, Target)
        target = cls()
        try:
            versions = target.versions()
            runtime = Text(", ".join(f"{k} {v}" for k, v in versions.items()) or "none needed to build")
            here = target.runs_here()
        except TargetError as error:
            runtime, here = Text(str(error), "yellow"), "not installed"
        scheme = cls.scheme
        kind = "symmetric" if scheme.symmetric else "asymmetric"
        table.add_row(name, runtime, Text(here or "yes"), f"{kind} {scheme.activation} × int8", f"× {cls.align}")
    Console().print(table)
