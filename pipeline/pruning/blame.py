"""Who is to blame when a pruned model fails: found from where it failed, without trying."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from pipeline.pruning.attributes import changes
from pipeline.pruning.groups import Structure
from pipeline.pruning.rules.base import Flow, Labels
from pipeline.pruning.trace import module_of, op_name
from pipeline.pruning.verify import Proof


def blamed(
    model: nn.Module, flow: Flow, structure: Structure, kept: Mapping[str, Sequence[int]], proof: Proof
) -> set[str]:
    """Return the groups that change a size written into the forward that raised, or into another of its class.

    Where it holds no such size, those that touch any tensor in it. Empty if the model ran, or nothing is found.
    """
    alive = structure.alive(kept)
    changed = changes(flow, alive)
    for name in proof.failed_in:
        here = [c for c in changed if c.module == name]
        if here:
            kind = type(model.get_submodule(name))
            ops = {(op_name(c.literal.node), c.literal.name) for c in here}
            same = [
                c
                for c in changed
                if type(model.get_submodule(c.module)) is kind and (op_name(c.literal.node), c.literal.name) in ops
            ]
            return _owners(structure, [c.literal.ids for c in same], kept)
    for name in proof.failed_in:
        labels = [v for node, v in flow.values.items() if module_of(node) == name and isinstance(v, Labels)]
        owners = _owners(structure, [ids for v in labels for ids in v.dims if ids is not None], kept)
        if owners:
            return owners
    return set()


def _owners(structure: Structure, dims: Sequence[np.ndarray], kept: Mapping[str, Sequence[int]]) -> set[str]:
    """Return the groups that lose a channel on one of the dimensions."""
    ids = np.concatenate([*dims, np.empty(0, np.int64)])
    classes = np.unique(structure.roots[ids[ids >= 0]])
    return {
        g.name
        for g in structure.groups
        if len(kept.get(g.name, g.classes)) < g.units and np.isin(g.classes, classes).any()
    }
