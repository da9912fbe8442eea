"""Scales of batch norms (Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.pruning.criteria.base import Criterion, Ranking, ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.norms import scale_names, scales


@dataclass(frozen=True)
class BnScale(Criterion):
    """Absolute scale (gamma) of the batch norms that the channels pass through; best after sparsity training.

    Of a coupled group: the mean over all its norms, and over the channels of a unit. A norm behind a concat, as
    in DenseNet, counts for every group whose channels are in it. Scopes that rank all groups together compare
    the means as they are, as the paper's global threshold does. Groups without a batch norm are not ranked.
    """

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Return the mean absolute scales, by group; it takes no samples."""
        names = scale_names(evidence.network.captured)
        found = {g.name: scales(g, names, evidence.tensors) for g in groups}
        return refuse_if_empty(
            {name: ranking(mean, comparable=True) for name, mean in found.items() if mean is not None},
            groups,
            "criterion bn_scale: goes by the scales of batch norms, and no channel that may go has one; choose another",
        )
