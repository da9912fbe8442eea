"""Scales of batch norms, as criteria go by them."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx

from pipeline.pruning.groups import Group, Member
from pipeline.pruning.rules.base import Role
from pipeline.pruning.trace import Captured, arguments, op_name


def scale_names(captured: Captured) -> frozenset[str]:
    """Return the parameters gamma that scale what a batch norm gives, whatever module holds them."""
    calls = (n for n in captured.graph.nodes if n.op == "call_function" and op_name(n) == "batch_norm")
    given = (arguments(n)["weight"] for n in calls)
    return frozenset(captured.tensors[w.name] for w in given if isinstance(w, fx.Node) and w.name in captured.tensors)


def scale_members(group: Group, names: Collection[str]) -> list[Member]:
    """Return the scales among the members of a group."""
    return [m for m in group.members if m.role is Role.ALONG and m.tensor in names]


def scales(group: Group, names: Collection[str], tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return |gamma|, (units,), the mean over a group's norms and a unit's channels; None without a norm."""
    found = [
        tensors[m.tensor].detach().double()[torch.from_numpy(m.index).to(tensors[m.tensor].device)].abs().mean(1).cpu()
        for m in scale_members(group, names)
    ]
    return torch.stack(found).mean(0) if found else None
