"""edgesmith sensitivity."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands import _options as options

if TYPE_CHECKING:
    from pipeline.pruning.curves import Sensitivity
    from pipeline.recipe import Recipe

SEEN = 256  # train images for criteria that look at some, where the recipe has no prune stage
TAKEN = ("criterion", "criterion_options", "granularity", "ignore", "form")  # options of that stage


@click.command("sensitivity")
@options.recipe
@options.start
@options.folder
@options.overrides
@click.option("--samples", type=click.IntRange(min=1), default=1000, show_default=True, help="Of the validation split.")
def command(recipe: Path, start: Path | None, out: Path, overrides: tuple[str, ...], samples: int) -> None:
    """Measure what every group of channels costs: accuracy without 10%, 20% … 90% of one group at a time.

    Takes the units that RECIPE's criterion would, on the validation split. The folder gets sensitivity.json, which
    the scope sensitivity of prune goes by, and sensitivity.svg. Interrupted, the same command goes on.

    \b
    edgesmith sensitivity recipes/fashion_resnet20.yaml --out curves
    edgesmith prune recipes/fashion_resnet20.yaml --out pruned --set stages.prune.scope=sensitivity \\
      --set stages.prune.sensitivity=curves/sensitivity.json
    """
    from pipeline.recipe import load
    from pipeline.report import curves

    loaded = load(recipe, overrides)
    found = _measured(loaded, start, out / "sensitivity.json", samples)
    (out / curves.FILE).write_text(curves.picture(found, loaded.name), encoding="utf-8")
    _show(found)
    click.echo(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _measured(recipe: "Recipe", start: Path | None, path: Path, samples: int) -> "Sensitivity":
    import torch

    from pipeline import checkpoint
    from pipeline.cutting import drawn
    from pipeline.plugins import find
    from pipeline.pruning.samples import Samples
    from pipeline.pruning.sensitivity import Probe, sensitivity
    from pipeline.tasks.base import Task

    spec, data = recipe.model_spec(), recipe.data_spec()
    model = checkpoint.source_model(spec) if start is None else checkpoint.load(start, spec, data)[0]
    task = find("pipeline.tasks", recipe.sections.task, Task)()
    splits = data.load()
    given = recipe.options("prune") if "prune" in recipe.sections.stages else {}
    seen = drawn(splits.train, given.get("samples", SEEN), given.get("seed", 0))
    inputs, labels = splits.validation[slice(0, samples)]
    probe = Probe(
        Samples.of(torch.from_numpy(inputs), torch.from_numpy(labels), batch_size=100),
        lambda outputs, labels: task.metrics(outputs.numpy(), labels.numpy())[task.primary]["value"],
        task.primary,
    )
    return sensitivity(model, probe, seen, path, options.progress(), **{k: given[k] for k in TAKEN if k in given})


def _show(found: "Sensitivity") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("group", "units", *(f"{r:.0%} gone" for r in (0.3, 0.5, 0.7)), box=None)
    for curve in found.curves:
        nearest = (
            min(zip(curve.ratios, curve.values, strict=True), key=lambda p: abs(p[0] - r)) for r in (0.3, 0.5, 0.7)
        )
        table.add_row(curve.group, str(curve.units), *(f"{value - found.baseline:+.4f}" for _, value in nearest))
    Console().print(
        f"{found.metric} {found.baseline:.4f}, {found.samples} samples; change without a share of one group:"
    )
    Console().print(table)
