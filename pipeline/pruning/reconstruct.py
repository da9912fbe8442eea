"""After the choice of units, the weights that read them are fit anew, so that their layers' outputs stay near.

Least squares as in He, Zhang & Sun, ICCV 2017, section 3.1 (all weights), or Luo, Wu & Lin, ThiNet, ICCV 2017,
section 3.2.2 (a factor per channel), on samples. In one shot: what the layers read and what they should give is
that of the original network, while the pruned one's readers see what the layers before them make of it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.pruning.channels import stays
from pipeline.pruning.contributions import ContributionCriterion
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.moments import POSITIONS, Moments, Reading, gather, readings, ridge_solve, samples_of
from pipeline.pruning.network import Network
from pipeline.pruning.ranking import criterion_of
from pipeline.pruning.rules.base import Labels
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import Captured

How = Literal["scale", "full"]
Kept = Mapping[str, Sequence[int]]  # the units that stay, by group
Refit = Callable[[nn.Module, Kept], nn.Module]  # from the model that was scored to the one to cut


def refit_of(evidence: Evidence) -> Refit | None:
    """Return what the settings or their criterion ask to be fit once units are chosen; None where neither does.

    Raises UserError where there are no samples to fit on.
    """
    settings = evidence.settings
    criterion = criterion_of(settings.criterion, settings.criterion_options)
    how = "full" if settings.reconstruct else criterion.reconstructs
    if settings.reconstruct and evidence.samples is None:
        raise UserError("reconstruct: fits weights to samples, and none were given; pass samples=, or leave it off")
    if how is None:
        return None
    positions = criterion.positions if isinstance(criterion, ContributionCriterion) else POSITIONS

    def refit(model: nn.Module, kept: Kept) -> nn.Module:
        seen = evidence if model is evidence.model else replace(evidence, model=model)
        return reconstruct(seen, kept, how, positions)

    return refit


def reconstruct(evidence: Evidence, kept: Kept, how: How = "full", positions: int = POSITIONS) -> nn.Module:
    """Return a copy of the model whose layers make up for the units that go with the weights that stay.

    Nothing is cut yet: tensors keep their size, and what is to be cut its values. Of each layer that reads pruned
    units, all groups together, the weights ("full") or a factor for every channel's ("scale") minimise Σ ‖y − ŷ‖²
    over `positions` places of every sample, with a ridge that pulls towards the weights as they are; so the error
    on these samples is never larger than without. Biases stay. Layers whose weights other ops use too, and
    transposed convolutions, keep their weights. Where no layer reads what goes, the model itself is returned.
    Raises UserError where there are no samples, or the activations are not finite.
    """
    readers = _readers(evidence.watched, kept) if kept else ()
    if not readers:
        return evidence.model
    moments = {r.weight: Moments.of(r.calls, samples_of(evidence, r.calls, positions)) for r in readers}
    gather(evidence, moments, [call for r in readers for call in r.calls], positions, "reconstruct: inputs of layers")
    model = copy.deepcopy(evidence.model)
    held = tensors(model)
    for reader in readers:
        weight = held[reader.weight]
        call = reader.calls[0]
        new = _FITS[how](moments.pop(reader.weight), call.matrix(weight), reader)
        if not new.isfinite().all():
            raise UserError(
                f"reconstruct: what {reader.weight} reads of the samples is not finite; look for NaN in them"
            )
        with torch.no_grad():
            weight.copy_(new.reshape(weight.shape))
    return model


@dataclass(frozen=True)
class _Reader:
    """A layer that loses some of what it reads, in all its calls."""

    weight: str
    calls: tuple[Reading, ...]
    stays: Tensor  # which columns do, (groups, width)
    channel: Tensor  # the number of the channels that go together that each column reads, (groups, width)


def _readers(network: Network, kept: Kept) -> list[_Reader]:
    """Return the layers to fit."""
    alive, roots = network.structure.alive(kept), network.structure.roots
    calls: dict[str, list[Reading]] = {}
    for call in readings(network.captured).values():
        calls.setdefault(call.weight, []).append(call)
    found = []
    for weight, several in calls.items():
        if _uses(network.captured, weight) > len(several):
            continue
        labels = network.flow.values.get(several[0].source)
        ids = labels.dims[several[0].axis] if isinstance(labels, Labels) else None
        if ids is None:
            continue
        columns = several[0].spread(stays(ids, alive))
        if (columns.any(1) & ~columns.all(1)).any():  # else whole groups of a convolution go, with their outputs
            channel = several[0].spread(_numbers(np.where(ids < 0, -1 - np.arange(len(ids)), roots[ids])))
            found.append(_Reader(weight, tuple(several), columns, channel))
    return found


def _uses(captured: Captured, weight: str) -> int:
    """Return how many ops use a tensor of the model."""
    return sum(len(n.users) for n in captured.graph.nodes if captured.tensors.get(n.name) == weight)


def _numbers(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(classes, return_inverse=True)[1].reshape(classes.shape)


def _full(moments: Moments, weight: Tensor, reader: _Reader) -> Tensor:
    """Return the weight, (groups, outputs of a group, width), with the columns that stay fit anew."""
    new = weight.clone()
    for group, columns in enumerate(reader.stays):
        kept, gone = columns.nonzero()[:, 0], (~columns).nonzero()[:, 0]
        if len(kept) and len(gone):
            new[group][:, kept] += moments.regress(group, kept, gone, weight[group][:, gone])
    return new


def _scale(moments: Moments, weight: Tensor, reader: _Reader) -> Tensor:
    """Return the weight with a factor on what reads each channel that stays."""
    units = int(reader.channel.max()) + 1
    gram = moments.gram(weight, reader.channel, units)
    kept = torch.zeros(units, dtype=torch.bool)
    kept[reader.channel[reader.stays]] = True
    factors = torch.ones(units, dtype=torch.float64)
    factors[kept] += ridge_solve(gram[kept][:, kept], gram[kept][:, ~kept].sum(1, keepdim=True))[:, 0]
    return weight * torch.where(reader.stays, factors[reader.channel], 1.0)[:, None]


_FITS: Mapping[How, Callable[[Moments, Tensor, _Reader], Tensor]] = {"full": _full, "scale": _scale}
