"""The optimizer of a training, and the average of its weights."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.training.config import Training


def optimizer(config: Training, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum (Sutskever et al., ICML 2013), or AdamW (Loshchilov & Hutter, ICLR 2019)."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )


def average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Return the exponential moving average of a model, to be updated after each step; None for decay 0.

    It starts at the weights after the first step (Polyak & Juditsky, 1992; the form of Tarvainen & Valpola, NeurIPS
    2017). BatchNorm statistics are averaged alike; whole numbers, counters or indices, are copied.
    """
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=_following(decay), use_buffers=True)


def _following(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return torch's update, which would also round whole numbers towards zero, for all but those."""
    smooth = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def follow(kept: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        if kept[0].is_floating_point():
            smooth(kept, current, count)
            return
        for ours, theirs in zip(kept, current, strict=True):
            ours.copy_(theirs)

    return follow
