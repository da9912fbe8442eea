"""KL divergence of the output without a unit (Luo & Wu, CURL, Neural Network Pruning …, CVPR 2020)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.pruning.channels import FIXED, Ids
from pipeline.pruning.criteria.base import Cost, Criterion, Ranking, ranking
from pipeline.pruning.depth import sites
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group, Member
from pipeline.pruning.network import Network
from pipeline.pruning.reference import OVER_CHANNELS
from pipeline.pruning.rules.base import Labels, Role
from pipeline.pruning.samples import Samples, needed
from pipeline.pruning.settings import DEPTH
from pipeline.pruning.suffix import Suffixes
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import capture, op_name
from pipeline.pruning.verify import seeded


@dataclass(frozen=True)
class Kl(Criterion):
    """How far the class probabilities move when the unit alone is zero; slow: part of a pass for every unit.

    The divergence is KL(masked ‖ original), Σ masked · (log masked − log original) over the classes, averaged over
    the samples, of the softmax over dimension 1 of the model's first output. A unit is masked everywhere at once:
    in all layers that make or read it, of a residual stage in every block and its projection. Its channels count
    as zeros where a norm runs over channels. Modules that may go whole are scored alike, with each bypassed.
    Groups in branches that only training runs are not ranked.
    """

    cost: ClassVar[Cost] = Cost.SUFFIX

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Rerun, for every unit, what comes after the first layer it is in; memory holds one batch there."""
        network, batches = evidence.watched, evidence.seen.batches
        state = {name: tensor.detach().clone() for name, tensor in evidence.tensors.items()}  # zeroed in place
        runner = Suffixes(network.captured, state)
        mixed = mixed_in(network)
        members = {g.name: mask(evidence.twin(g), mixed) for g in groups}
        firsts = {g.name: runner.first([m.tensor for m in members[g.name]]) for g in groups}
        starts = {name: node for name, node in firsts.items() if node is not None}
        groups = [g for g in groups if g.name in starts]
        far = {g.name: torch.zeros(g.units, dtype=torch.float64) for g in groups}
        work = sum(g.units for g in groups) * len(batches)
        with evidence.progress.bar("kl: units", work) as bar, seeded(evidence.model):
            for inputs, _ in batches:
                leaves = pytree.tree_leaves(inputs)
                original = _logs(runner.outputs(leaves))
                for node in runner.stops(leaves, set(starts.values())):
                    for group in (g for g in groups if starts[g.name] is node):
                        for unit in range(group.units):
                            with zeroed(state, members[group.name], unit):
                                far[group.name][unit] += divergence(_logs(runner.rest(node)), original) / len(batches)
                            bar.advance()
        return {name: ranking(score, comparable=True) for name, score in far.items()}

    def modules(
        self, names: Collection[str], model: nn.Module, samples: Samples | None, progress: Progress
    ) -> Mapping[str, float]:
        """Return the divergence of the output with each module bypassed, by name."""
        batches = needed(samples, "kl").batches
        captured = capture(model, batches[0][0])
        found = [s for s in sites(captured, DEPTH) if s.name in names]
        if {s.name for s in found} != set(names):
            raise UserError("samples: the network is another one on their shape than on the example inputs")
        runner = Suffixes(captured, tensors(model))
        after = {site.name: runner.after(site.exit) for site in found}
        far = dict.fromkeys(after, 0.0)
        with progress.bar("kl: modules", len(found) * len(batches)) as bar, seeded(model):
            for inputs, _ in batches:
                leaves = pytree.tree_leaves(inputs)
                original = _logs(runner.outputs(leaves))
                for node in runner.stops(leaves, set(after.values()), {s.entry for s in found}):
                    for site in (s for s in found if after[s.name] is node):
                        without = runner.rest(node, {site.exit: runner.kept[site.entry]})
                        far[site.name] += divergence(_logs(without), original).item() / len(batches)
                        bar.advance()
        return far


def divergence(masked: Tensor, original: Tensor) -> Tensor:
    """Return KL(masked ‖ original) of log probabilities (N, classes, …), averaged over samples and positions."""
    return (masked.exp() * (masked - original)).sum(1).mean().cpu()


def mask(group: Group, mixed: Ids) -> list[Member]:
    """Return what to set to zero: the columns that read the group where all that comes of it goes through them.

    It does not where its classes are among those that are `mixed`; then all of the group's slices.
    """
    read = [m for m in group.members if m.role is Role.IN]
    return list(group.members) if not read or np.isin(group.classes, mixed).any() else read


def mixed_in(network: Network) -> Ids:
    """Return the classes that ops other than convolutions, linear layers and batch norms run over, ascending."""
    found = [np.empty(0, np.int64)]
    for node in network.captured.graph.nodes:
        if node.op == "call_function" and op_name(node) in OVER_CHANNELS - {"batch_norm"}:
            for labels in map(network.flow.values.get, node.all_input_nodes):
                dims = labels.dims if isinstance(labels, Labels) else ()
                found += [network.structure.roots[ids[ids != FIXED]] for ids in dims if ids is not None]
    return np.unique(np.concatenate(found))


@contextmanager
def zeroed(state: Mapping[str, Tensor], members: Sequence[Member], unit: int) -> Iterator[None]:
    """Set all slices of a unit to zero in place, for a while."""
    saved = []
    for member in members:
        tensor, places = state[member.tensor], torch.from_numpy(member.index[unit]).to(state[member.tensor].device)
        saved.append((tensor, member.dim, places, tensor.index_select(member.dim, places)))
        tensor.index_fill_(member.dim, places, 0)
    try:
        yield
    finally:
        for tensor, dim, places, values in reversed(saved):
            tensor.index_copy_(dim, places, values)


def _logs(outputs: Sequence[Tensor]) -> Tensor:
    """Return the logarithms of the class probabilities. Raises UserError where the output has no classes."""
    if not outputs or outputs[0].ndim < 2 or outputs[0].shape[1] < 2:
        shape = tuple(outputs[0].shape) if outputs else "nothing"
        raise UserError(f"criterion kl: compares class probabilities (N, classes, …), the model gives {shape}")
    return outputs[0].double().log_softmax(1)
