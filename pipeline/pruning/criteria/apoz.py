"""Average percentage of zeros (Hu et al., Network Trimming, arXiv 1607.03250, 2016)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.pruning.criteria.base import Cost, Criterion, Ranking, ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.taps import Tap, maps


@dataclass(frozen=True)
class Apoz(Criterion):
    """Share of samples and positions where a channel is not exactly zero after its ReLU.

    Of a coupled group: the mean over the feature maps that are read. Groups that no ReLU follows are not ranked.
    """

    cost: ClassVar[Cost] = Cost.FORWARD

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Count nonzeros in one pass; memory holds one number per unit."""
        taps = [t for g in groups for t in maps(evidence.watched, evidence.twin(g)) if t.rectified]
        fired = [(tap, _Fired(tap)) for tap in taps]
        evidence.observe(fired, "apoz: activations")
        found: dict[str, list[Tensor]] = {}
        for tap, of in fired:
            found.setdefault(tap.group, []).append(of.share)
        return refuse_if_empty(
            {name: ranking(torch.stack(shares).mean(0)) for name, shares in found.items()},
            groups,
            "criterion apoz: counts what a ReLU sets to zero, and no channel that may go has one; choose another",
        )


class _Fired:
    """Counts, per unit, how often its activations are not zero."""

    def __init__(self, tap: Tap) -> None:
        self._tap, self._count, self._of = tap, torch.zeros(len(tap.index), dtype=torch.float64), 0

    def __call__(self, value: Tensor) -> None:
        units = self._tap.units(value)
        self._count += (units != 0).transpose(0, 1).flatten(1).sum(1).cpu()
        self._of += units[:, 0].numel()

    @property
    def share(self) -> Tensor:
        return self._count / self._of
