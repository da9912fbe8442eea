"""edgesmith diff."""

from pathlib import Path

import click


@click.command("diff")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
def command(first: Path, second: Path) -> None:
    """Say what the plans A and B do differently: plan files, or folders that prune, factorize or finetune wrote.

    A line for each group of channels: its first layer, and what either plan makes of its width; or for each
    factorised layer, with its ranks.

    \b
    layer1.0.conv1: 64 -> 40 | 64 -> 48
    layer2.0.conv1: 128 -> 64 | whole
    layer3.0.conv1: tucker 40, 40 | tucker 32, 32
    """
    from pipeline.checkpoint import plans_at
    from pipeline.plans import between

    for line in [*between(plans_at(first), plans_at(second))] or ["the plans do the same"]:
        click.echo(line)
