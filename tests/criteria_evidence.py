"""What criteria see of the small networks, and the same modules watched by hooks instead of the graph."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.pruning.criteria.base import Criterion, Ranking
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group
from pipeline.pruning.network import network_of
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import capture
from tests.pruning_nets import built


def seen_by(model: nn.Module, inputs: Tensor, batch_size: int) -> Evidence:
    """Return evidence of a model on inputs in batches."""
    samples = Samples.of(inputs, torch.zeros(len(inputs), dtype=torch.int64), batch_size)
    x = inputs[:2]
    return Evidence(model, network_of(model, capture(model, (x,)), (x,), Settings()), samples)


def evidence(name: str, n: int = 6, batch_size: int = 3) -> Evidence:
    """Return evidence of a network of `pruning_nets` on seeded noise."""
    model, x = built(name)
    inputs = torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(2))
    return seen_by(model, inputs, batch_size)


def inputs_of(found: Evidence) -> Tensor:
    """Return all inputs of the samples."""
    return torch.cat([x for (x,), _ in found.seen.batches])


def ranked(criterion: Criterion, found: Evidence) -> dict[str, Ranking]:
    """Rank all groups."""
    return dict(criterion.rank(found.network.structure.groups, found))


def group_of(found: Evidence, name: str) -> Group:
    """Return a group by name."""
    return next(g for g in found.network.structure.groups if g.name == name)


@contextmanager
def recorded(model: nn.Module, *names: str) -> Iterator[dict[str, Tensor]]:
    """Record what modules give, by name, while the context is open; a module that runs twice keeps the last."""
    outputs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: outputs.__setitem__(name, out.detach().clone())
        )
        for name in names
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
