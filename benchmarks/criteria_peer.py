"""Torch-Pruning's criteria, with its defaults, cut to given widths."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.builtin import dense

NAMES = ("l1", "l2", "bn_scale", "fpgm", "taylor", "lamp")


def peer(job: Any, data: Any, model: nn.Module) -> Iterator[Any]:
    """Prune copies of the model to the widths that ours get."""
    from benchmarks.criteria import SCORED_ON, samples, widths

    for share in job.shares:
        wanted = {g.name: g.after for g in widths(model, share).plan.groups}
        pruned = dense()
        start_s = time.process_time()
        if job.criterion == "taylor":
            gradients(pruned, samples(data, job.seed, SCORED_ON))
        cut(pruned, job.criterion, wanted)
        took_s = time.process_time() - start_s
        pruned.zero_grad(set_to_none=True)
        yield share, pruned, took_s, True


def gradients(model: nn.Module, seen: Any) -> None:
    """Leave the gradient of the mean loss over the samples on the parameters."""
    for inputs, labels in seen.batches:
        loss = F.cross_entropy(model(*inputs), labels) / len(seen.batches)
        torch.autograd.backward(loss)


def cut(model: nn.Module, name: str, wanted: dict[str, int]) -> None:
    """Prune a model in place, each layer that our groups are named after to its width."""
    import torch_pruning as tp

    kinds: dict[str, Callable[[], Any]] = {
        "l1": lambda: tp.importance.MagnitudeImportance(p=1),
        "l2": lambda: tp.importance.MagnitudeImportance(p=2),  # what it calls group norm
        "bn_scale": tp.importance.BNScaleImportance,
        "fpgm": tp.importance.FPGMImportance,
        "taylor": tp.importance.TaylorImportance,
        "lamp": tp.importance.LAMPImportance,
    }
    modules = dict(model.named_modules())
    heads = [m for m in modules.values() if isinstance(m, nn.Linear)]
    ratios = {modules[n]: 1 - (k + 0.5) / modules[n].out_channels for n, k in wanted.items()}
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(2, 1, 28, 28),
        importance=kinds[name](),
        pruning_ratio=0.0,
        pruning_ratio_dict=ratios,
        ignored_layers=heads,
    )
    pruner.step()
    found = {n: model.get_submodule(n).out_channels for n in wanted}
    if found != wanted:
        raise RuntimeError(f"Torch-Pruning cut to other widths: {found} instead of {wanted}")
