"""Options of the verbs that use baselines."""

from pathlib import Path

import click

file = click.Path(path_type=Path, dir_okay=False)
baselines = click.option(
    "--baselines",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".edgesmith/baselines"),
    envvar="EDGESMITH_BASELINES",
    show_default=True,
    help="Where baselines are kept: a folder to commit, or to cache in CI.",
)


def name_and_version(text: str) -> tuple[str, int | None]:
    """Read NAME or NAME@VERSION. Raises UsageError."""
    name, at, version = text.partition("@")
    if at and not (version.isascii() and version.isdigit()):
        raise click.UsageError(f"{text}: write NAME, or NAME@VERSION with a number, e.g. main@3")
    return name, int(version) if at else None
