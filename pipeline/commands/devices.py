"""edgesmith devices."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands import _options as options

if TYPE_CHECKING:
    from pipeline.reach import Reached

beside = click.option(
    "--beside",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The folder of a recipe, whose devices.yaml counts too.  [default: this one]",
)


@click.group("devices", invoke_without_command=True)
@beside
@click.pass_context
def command(context: click.Context, beside: Path) -> None:
    """List the devices of devices.yaml: which can be reached, what they are, and the runtimes there.

    Exits with 1 where one cannot be reached.

    \b
    edgesmith devices
    edgesmith devices check local              what works there, and what to install for the rest
    edgesmith devices check ssh://pi@192.168.1.20
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.device_files import configured, user_file
    from pipeline.reach import reach_all

    known = configured(beside)
    if not known.devices:
        click.echo(f"no devices.yaml names any: write one beside the recipe, or {user_file()}; see docs/devices.md")
    table = Table("device", "address", "cpu", "python", "targets", "error", header_style="bold")
    found = reach_all(["local", *known.devices], options.telling(), beside)
    for one in found:
        made = ", ".join(target.name for target in one.targets if not target.lacking)
        error = Text(one.error or "", "red")
        table.add_row(one.name, one.where, _cpu(one), one.machine.python if one.machine else "", made, error)
    Console().print(table)
    for name, members in known.pools.items():
        click.echo(f"pool {name}: {', '.join(members)}")
    if any(one.error for one in found):
        context.exit(1)


@command.command("check")
@click.argument("name")
@beside
def check(name: str, beside: Path) -> None:
    """Connect to NAME, a URL or a name of devices.yaml, and say what each target finds there."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.devices import resolve
    from pipeline.reach import examine

    found = examine(resolve(name, options.telling(), beside))
    if found.machine:
        machine = found.machine
        click.echo(f"{found.name}: {_cpu(found)}, {machine.system}, Python {machine.python}")
        click.echo(f"features: {', '.join(machine.features) or 'none that matter'}; governor: {machine.governor}")
        click.echo(f"accelerator: {machine.accelerator or 'none'}; fingerprint: {machine.digest[:16]}")
    table = Table("target", "runtime there", "runs there", header_style="bold")
    for target in found.targets:
        table.add_row(
            target.name, Text(target.lacking or target.runtime, "yellow" if target.lacking else ""), target.runs
        )
    Console().print(table)


def _cpu(one: "Reached") -> str:
    return f"{one.machine.cpu} × {one.machine.cores}" if one.machine else ""
