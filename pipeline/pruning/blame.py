"""Who is to blame when a pruned model fails: found from where it failed, without trying."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from pipeline.pruning.attributes import changes
from pipeline.pruning.channels import Ids
from pipeline.pruning.groups import Structure
from pipeline.pruning.rules.base import Flow, Labels
from pipeline.pruning.trace import module_of, op_name, stack_of


@dataclass(frozen=True)
class Blame:
    """The groups that a failure is put down to, and the class of modules that has a size written into its forward."""

    groups: frozenset[str]
    kind: type | None = None
    here: frozenset[str] = frozenset()  # of the groups, those that the one module which failed has a size of


def blame(
    model: nn.Module, flow: Flow, structure: Structure, kept: Mapping[str, Sequence[int]], where: Sequence[str]
) -> Blame:
    """Return the groups that change a size written into the forward that failed, or into another of its class.

    `where` names the modules it failed in, innermost first. Where they hold no such size, the groups that touch
    any tensor in them; none if nothing is found.
    """
    alive = structure.alive(kept)
    changed = changes(flow, alive)
    for name in where:
        here = [c for c in changed if c.module == name]
        if here:
            kind = type(model.get_submodule(name))
            ops = {(op_name(c.literal.node), c.literal.name) for c in here}
            alike = [c for c in changed if type(model.get_submodule(c.module)) is kind]
            same = [c.literal.ids for c in alike if (op_name(c.literal.node), c.literal.name) in ops]
            mine = [c.literal.ids for c in here]
            return Blame(_owners(structure, same, kept), kind, _owners(structure, mine, kept))
    for name in where:
        labels = [v for node, v in flow.values.items() if module_of(node) == name and isinstance(v, Labels)]
        owners = _owners(structure, [ids for v in labels for ids in v.dims if ids is not None], kept)
        if owners:
            return Blame(owners)
    return Blame(frozenset())


def _owners(structure: Structure, dims: Sequence[Ids], kept: Mapping[str, Sequence[int]]) -> frozenset[str]:
    """Return the groups that lose a channel on one of the dimensions."""
    ids = np.concatenate([*dims, np.empty(0, np.int64)])
    numbers = np.unique(structure.owner[ids[ids >= 0]])
    groups = [structure.groups[number] for number in numbers if number >= 0]
    return frozenset(g.name for g in groups if len(kept.get(g.name, g.classes)) < g.units)


def ties(model: nn.Module, flow: Flow, structure: Structure, kind: type) -> list[frozenset[str]]:
    """Return sets of groups that modules of a class may need to keep the same share of.

    A forward that views what its heads made as the width of its input, `reshape(B, N, C)`, needs the two to be
    equally long however many heads are left: so do all dimensions of one length in such a module, where it
    has that length written into it.
    """
    found = []
    for name in {n for n, module in model.named_modules() if type(module) is kind}:
        nodes = [n for n in flow.values if name in (inner.partition("@")[0] for inner in stack_of(n))]
        seen = {*nodes, *(source for n in nodes for source in n.all_input_nodes)}
        dims = [ids for n in seen if isinstance(v := flow.values.get(n), Labels) for ids in v.dims if ids is not None]
        written = {len(literal.ids) for literal in flow.literals if module_of(literal.node) == name}
        for length in written:
            owners = {_only_owner(structure, ids) for ids in dims if len(ids) == length} - {None}
            if len(owners) > 1:
                found.append(frozenset(o for o in owners if o))
    return merged(found)


def merged(sets: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Join sets that share a member."""
    result: list[frozenset[str]] = []
    for one in sets:
        touching = [other for other in result if other & one]
        result = [other for other in result if not other & one] + [one.union(*touching)]
    return result


def _only_owner(structure: Structure, ids: Ids) -> str | None:
    """Return the group that all channels of a dimension are of."""
    numbers = np.unique(structure.owner[ids[ids >= 0]])
    return structure.groups[numbers[0]].name if len(numbers) == 1 and numbers[0] >= 0 else None
