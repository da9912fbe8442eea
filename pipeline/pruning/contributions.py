"""What every unit adds to the outputs of the layers that read it, and the criteria that go by it."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pipeline.errors import UserError
from pipeline.pruning.criteria.base import Cost, Criterion, Ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.moments import POSITIONS, Moments, Reading, gather, readings, samples_of
from pipeline.pruning.taps import readers

Gram = NDArray[np.float64]


@dataclass(frozen=True)
class ContributionCriterion(Criterion):
    """Goes by how the units' contributions to the outputs of their readers vary together."""

    cost: ClassVar[Cost] = Cost.FORWARD

    positions: Annotated[int, Field(ge=1, description="places of every image to sample, in each layer")] = POSITIONS

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Rank every group that some convolution or linear layer reads, in one pass."""
        grams = contributions(groups, evidence, self.positions, self.sampled_outputs)
        return refuse_if_empty(
            {name: self.judge(gram) for name, gram in grams.items()},
            groups,
            f"criterion {evidence.settings.criterion}: goes by the convolutions and linear layers that read a channel, "
            "and none reads one that may go; choose another",
        )

    @property
    def sampled_outputs(self) -> int:
        """Outputs to sample at every place; 0 for all."""
        return 0

    @abstractmethod
    def judge(self, gram: Gram) -> Ranking:
        """Rank one group by its Gram matrix, (units, units)."""


def contributions(
    groups: Sequence[Group], evidence: Evidence, positions: int = POSITIONS, outputs: int = 0
) -> dict[str, Gram]:
    """Return the Gram matrix of every group that layers read: G[u, v] = Σ x_u·x_v over samples and outputs.

    x_u is what unit u adds to an output before the bias. With `outputs` that many are drawn for every sample,
    else all count. Each reader's matrix is divided by the energy of its outputs, Σ y², and readers add up.
    Transposed convolutions do not count as readers. Raises UserError where activations are not finite.
    """
    calls, owners = _reads(groups, evidence)
    layers: dict[str, _Layer] = {}
    for weight, owner in owners.items():
        number = samples_of(evidence, calls[weight], positions)
        matrix = calls[weight][0].matrix(evidence.tensors[weight])
        kind = _Drawn(matrix, owner, outputs, evidence.seed, weight) if outputs else None
        layers[weight] = kind or _All(matrix, owner, Moments.of(calls[weight], number))
    gather(evidence, layers, [c for some in calls.values() for c in some], positions, "contributions to layers")
    found: dict[str, Gram] = {}
    for weight, layer in layers.items():
        for group in owners[weight]:
            gram = layer.relative(group)
            if not np.isfinite(gram).all():
                raise UserError(f"samples: what {weight} makes of them is not finite; look for NaN in them and in it")
            found[group] = found[group] + gram if group in found else gram
    return {g.name: found[g.name] for g in groups if g.name in found}


Owners = dict[str, Tensor]  # group -> the unit of every column of a layer's weight, (conv groups, width), or -1


def _reads(groups: Sequence[Group], evidence: Evidence) -> tuple[dict[str, list[Reading]], dict[str, Owners]]:
    """Return, by weight, the calls of every layer that reads one of the groups, and which columns read it."""
    known = readings(evidence.watched.captured)
    calls: dict[str, list[Reading]] = {}
    owners: dict[str, Owners] = {}
    for group in groups:
        for tap in readers(evidence.watched, evidence.twin(group)):
            if tap.reader not in known:
                continue
            call = known[tap.reader]
            if call not in calls.setdefault(call.weight, []):
                calls[call.weight].append(call)
            unit = np.full(call.channels, -1, np.int64)
            unit[tap.index] = np.arange(group.units)[:, None]
            owners.setdefault(call.weight, {})[group.name] = call.spread(unit)
    return calls, owners


class _Layer(ABC):
    """A layer's weight, (conv groups, outputs of a group, width), and which of its columns read which unit."""

    def __init__(self, weight: Tensor, owners: Owners) -> None:
        self.weight, self.owners = weight, owners
        self.units = {name: int(owner.max()) + 1 for name, owner in owners.items()}

    @abstractmethod
    def add(self, rows: Tensor) -> None:
        """Take patches, (samples, groups, width)."""

    @abstractmethod
    def gram(self, group: str) -> Tensor:
        """Return the Gram matrix of a group's contributions."""

    @abstractmethod
    def energy(self) -> float:
        """Return the sum of the outputs' squares, biases left out."""

    def relative(self, group: str) -> Gram:
        """Return the Gram matrix of a group as a share of the layer's energy."""
        gram = self.gram(group)
        alone = bool((self.owners[group] >= 0).all())
        return (gram / ((float(gram.sum()) if alone else self.energy()) or 1.0)).numpy()


class _All(_Layer):
    """Counts all outputs."""

    def __init__(self, weight: Tensor, owners: Owners, moments: Moments) -> None:
        super().__init__(weight, owners)
        self._moments, self._energy = moments, -1.0

    def add(self, rows: Tensor) -> None:
        self._moments.add(rows)

    def gram(self, group: str) -> Tensor:
        return self._moments.gram(self.weight, self.owners[group], self.units[group])

    def energy(self) -> float:
        if self._energy < 0:
            whole = torch.zeros(self.weight.shape[0], self.weight.shape[2], dtype=torch.int64)
            self._energy = self._moments.gram(self.weight, whole, 1).item()
        return self._energy


class _Drawn(_Layer):
    """Draws some outputs for every sample, as ThiNet does; memory holds the Gram matrices alone."""

    def __init__(self, weight: Tensor, owners: Owners, outputs: int, seed: int, name: str) -> None:
        super().__init__(weight, owners)
        self._outputs, self._random = outputs, np.random.default_rng([seed, zlib.crc32(name.encode())])
        self._energy = 0.0
        self._grams = {g: torch.zeros(n, n, dtype=torch.float64) for g, n in self.units.items()}

    def add(self, rows: Tensor) -> None:
        groups, each = self.weight.shape[:2]
        drawn = torch.from_numpy(self._random.random((len(rows), self._outputs)) * groups * each).long()
        for output in drawn.T:
            group = output // each
            terms = rows[torch.arange(len(rows)), group] * self.weight[group, output % each]
            self._energy += float(terms.sum(1).square().sum())
            for name, owner in self.owners.items():
                units = self.units[name]
                unit = torch.where(owner < 0, units, owner)[group]  # one more column for what others add
                x = terms.new_zeros(len(rows), units + 1).scatter_add_(1, unit, terms)[:, :units]
                self._grams[name] += x.T @ x

    def gram(self, group: str) -> Tensor:
        return self._grams[group]

    def energy(self) -> float:
        return self._energy
