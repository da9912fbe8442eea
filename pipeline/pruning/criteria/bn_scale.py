"""Scales of batch norms (Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from pipeline.pruning.criteria.base import Criterion, Ranking, ranking, refuse_if_empty
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group, Member
from pipeline.pruning.rules.base import Role
from pipeline.pruning.trace import Captured, arguments, op_name


@dataclass(frozen=True)
class BnScale(Criterion):
    """Absolute scale (gamma) of the batch norms that the channels pass through; best after sparsity training.

    Of a coupled group: the mean over all its norms, and over the channels of a unit. A norm behind a concat, as
    in DenseNet, counts for every group whose channels are in it. Scopes that rank all groups together compare
    the means as they are, as the paper's global threshold does. Groups without a batch norm are not ranked.
    """

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Return the mean absolute scales, by group; it takes no samples."""
        norms = _scales(evidence.network.captured)
        own = {g.name: [m for m in g.members if m.role is Role.ALONG and m.tensor in norms] for g in groups}
        return refuse_if_empty(
            {
                name: ranking(_mean(members, evidence.tensors), comparable=True)
                for name, members in own.items()
                if members
            },
            groups,
            "criterion bn_scale: goes by the scales of batch norms, and no channel that may go has one; choose another",
        )


def _mean(members: Sequence[Member], tensors: Mapping[str, Tensor]) -> Tensor:
    scales = [tensors[m.tensor].detach().double()[torch.from_numpy(m.index)].abs().mean(1).cpu() for m in members]
    return torch.stack(scales).mean(0)


def _scales(captured: Captured) -> set[str]:
    """Return the parameters that scale what a batch norm gives, whatever module holds them."""
    calls = (n for n in captured.graph.nodes if n.op == "call_function" and op_name(n) == "batch_norm")
    given = (arguments(n).get("weight") for n in calls)
    return {captured.tensors[w.name] for w in given if isinstance(w, fx.Node) and w.name in captured.tensors}
