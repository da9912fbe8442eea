"""A network's weights drawn anew: the rival that every pruned and finetuned network has to beat.

Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019: trained from scratch for as long as the original's
training and the finetuning took together, a pruned architecture often does as well. Where it does, the weights that
pruning kept were worth nothing, and only the widths were.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError


def reinitialise(model: nn.Module, seed: int) -> None:
    """Draw all weights of `model` anew from `seed`, in place, by its modules' own `reset_parameters`.

    BatchNorm statistics start over as well. The caller's random state stays. Raises UserError, before anything is
    changed, if parameters belong to a module that cannot do so: what they have learned would stay.
    """
    for name, module in model.named_modules():
        if _reset(module) is None and any(True for _ in module.parameters(recurse=False)):
            raise UserError(
                f"from_scratch: {name or 'the model'} ({type(module).__name__}) has parameters but no "
                "reset_parameters(); give its class one, or leave from_scratch out"
            )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model.apply(_draw)


def keep_zeros(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Set the parameters that `mask` names to zero where it is False, in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, stays in mask.items():
            parameters[name].masked_fill_(~stays, 0)


def _draw(module: nn.Module) -> None:
    if (reset := _reset(module)) is not None:
        reset()


def _reset(module: nn.Module) -> Callable[[], Any] | None:
    """Return what draws the module's own parameters; attention has it under a private name."""
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    return reset if callable(reset) else None
