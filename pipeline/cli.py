"""The command line: finds the verb's file, and turns what the user can mend into one line and exit code 2."""

import errno
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

import click

from pipeline import commands

USAGE, INTERRUPTED = 2, 130
FILE_ERRORS = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


class Verbs(click.Group):
    """Commands found as `pipeline/commands/VERB.py`, imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, sorted."""
        return sorted(m.name for m in pkgutil.iter_modules(commands.__path__) if m.name[0] != "_")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, None if there is no such file. An import that fails is not hidden."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"pipeline.commands.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"pipeline/commands/{cmd_name}.py defines no click command named `command`")
        return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks. Works after any verb.")
@click.version_option(package_name="edgesmith")
def cli() -> None:
    """Ship a PyTorch model to an edge device: prune, finetune, int8, export, compile, all measured there.

    \b
    edgesmith deploy recipes/fashion_resnet20.yaml --target cpu
    edgesmith plan recipes/fashion_resnet20.yaml --target cpu     what would run, and why
    edgesmith report artifacts/fashion_resnet20/cpu               the table again
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 something to mend in what was given, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        sys.exit(cli.main(args, prog_name="edgesmith", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted; what had finished is kept, the same command goes on from there")
        sys.exit(INTERRUPTED)
    except Exception as error:
        line = _to_mend(error)
        if debug or line is None:
            raise
        _complain(line)
        sys.exit(USAGE)


def _to_mend(error: Exception) -> str | None:
    """One line for an error that the user can act on, None for a bug of ours."""
    from calibration.errors import CalibrationError
    from pipeline.errors import UserError
    from targets.base import TargetError

    if isinstance(error, UserError | TargetError | CalibrationError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" writing {error.filename}" if error.filename else ""
        return f"the disk is full{where}: free some space, or name another place with --store and --out"
    if isinstance(
        error, PermissionError | FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError
    ):
        return f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"
    return None


def _complain(line: str) -> None:
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    click.echo(click.style("error: ", fg="red", bold=True) + line, err=True, color=colour)
