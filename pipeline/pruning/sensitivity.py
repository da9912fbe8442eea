"""Sensitivity analysis: what the network loses when one group loses some of its units, and nothing else is cut.

Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pipeline.errors import UserError
from pipeline.fingerprint import of_value
from pipeline.progress import SILENT, Bar, Progress
from pipeline.pruning.criteria.base import Ranking
from pipeline.pruning.curves import Curve, Sensitivity
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.network import Network, network_on
from pipeline.pruning.ranking import rankings
from pipeline.pruning.reference import Reference
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import Settings
from pipeline.pruning.surgery import tensors
from pipeline.pruning.verify import seeded

Metric = Callable[[Tensor, Tensor], float]  # the model's first output of all samples, their labels -> higher = better
RATIOS = tuple(round(0.1 * i, 1) for i in range(1, 10))


def top1(outputs: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose highest output is the label's."""
    return float((outputs.argmax(1) == labels).double().mean())


@dataclass(frozen=True)
class Probe:
    """What is measured, on which samples (best of a validation split), and at which shares of a group."""

    samples: Samples
    metric: Metric = top1
    name: str = "top1"
    ratios: tuple[float, ...] = field(default=RATIOS)

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < r < 1 for r in self.ratios):
            raise UserError(f"ratios: the shares to remove must be above 0 and below 1, got {self.ratios}")

    def gone(self, units: int) -> tuple[int, ...]:
        """Return how many of a group's units go, ascending; at least one stays."""
        return tuple(sorted({min(max(round(r * units), 1), units - 1) for r in self.ratios} - {0}))


def sensitivity(
    model: nn.Module,
    probe: Probe,
    samples: Samples | None = None,
    path: Path | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> Sensitivity:
    """Measure, for every group that may go, the network without a share of its units, for every share.

    The units that go are those that the criterion would take, at zero as a pruned network must equal it: nothing
    is cut or trained. The keywords are fields of `Settings`: criterion, criterion_options, granularity, ignore,
    form. `samples` are what the criterion looks at, if it does. With `path` the curves are on disk after every
    group, and a later call with the same model, samples and settings goes on from there.

    Raises UserError as `prune` does, and for a `path` that holds the curves of something else.
    """
    chosen = Settings(**settings)
    network = network_on(model, probe.samples.example, chosen)
    key = _key(model, probe, samples, chosen)
    known = _known(path, key)
    ranked, model = rankings(Evidence(model, network, samples, chosen, progress))
    groups = [g for g in network.structure.groups if g.name in ranked and g.units > 1]
    with progress.bar("sensitivity", 1 + sum(len(probe.gone(g.units)) for g in groups)) as bar:
        run = _Run(model, network, probe, bar)
        start = run.measure({}) if known is None else known.baseline
        found = known or Sensitivity(probe.name, chosen.criterion, len(probe.samples), start, (), key)
        done = {curve.group for curve in found.curves}
        for group in groups:
            if group.name in done:
                bar.advance(len(probe.gone(group.units)))
                continue
            found = found.plus(run.curve(group, ranked[group.name]))
            if path is not None:
                found.save(path)
    return found


@dataclass(frozen=True)
class _Run:
    """A network to be measured with some of its units at zero."""

    model: nn.Module
    network: Network
    probe: Probe
    bar: Bar

    def curve(self, group: Group, ranking: Ranking) -> Curve:
        gone = self.probe.gone(group.units)
        values = tuple(self.measure({group.name: ranking.keep(group.units - n)}) for n in gone)
        return Curve(group.name, group.units, gone, values)

    def measure(self, kept: dict[str, tuple[int, ...]]) -> float:
        known = self.network
        runner = Reference(known.captured, known.flow, known.structure.alive(kept), tensors(self.model))
        with seeded(self.model):
            batches = [runner.outputs(pytree.tree_leaves(inputs))[0] for inputs, _ in self.probe.samples.batches]
        value = self.probe.metric(torch.cat(batches), self.probe.samples.labels)
        self.bar.advance(note=f"{next(iter(kept), 'whole')} {value:.3f}")
        return value


def _known(path: Path | None, key: str) -> Sensitivity | None:
    if path is None or not path.exists():
        return None
    found = Sensitivity.load(path)
    if found.key != key:
        raise UserError(
            f"{path} holds curves of other weights, samples or settings; remove it, or name another place for these"
        )
    return found


def _key(model: nn.Module, probe: Probe, samples: Samples | None, settings: Settings) -> str:
    """Hash all that curves follow from; which groups may go is not part of it, so that more can be added."""
    seen = [
        t for s in (probe.samples, samples) if s for inputs, y in s.batches for t in (*pytree.tree_leaves(inputs), y)
    ]
    return of_value(
        {
            "weights": {name: _digest(t) for name, t in sorted(tensors(model).items())},
            "samples": [_digest(t) for t in seen if isinstance(t, Tensor)],
            "metric": probe.name,
            "ratios": list(probe.ratios),
            "criterion": [settings.criterion, settings.criterion_options, settings.form],
        }
    )


def _digest(tensor: Tensor) -> str:
    raw = np.asarray(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8))
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + raw.tobytes()).hexdigest()
