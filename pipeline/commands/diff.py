"""edgesmith diff."""

from pathlib import Path

import click


@click.command("diff")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
def command(first: Path, second: Path) -> None:
    """Say what the pruning plans A and B do differently: plan files, or folders that prune or finetune wrote.

    A line for each group of channels: its first layer, and what either plan makes of its width.

    \b
    layer1.0.conv1: 64 -> 40 | 64 -> 48
    layer2.0.conv1: 128 -> 64 | whole
    """
    from pipeline.checkpoint import plans_at
    from pipeline.pruning.compare import between

    for line in [*between(plans_at(first), plans_at(second))] or ["the plans keep the same channels"]:
        click.echo(line)
