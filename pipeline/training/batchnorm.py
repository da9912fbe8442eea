"""BatchNorm statistics measured anew, as a change of the weights before them demands.

The plain average over batches of a fixed model ("precise BN": Wu & Johnson, arXiv 2105.07576, section 3),
not the moving one that training leaves behind.
"""

import numpy as np
import torch
from torch import nn

from pipeline.data.base import Split
from pipeline.training.device import device_of, to_device
from pipeline.training.evaluate import evaluating

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def recalibrate(model: nn.Module, split: Split, batches: int = 50, seed: int = 0, batch_size: int = 256) -> None:
    """Replace the running statistics of every BatchNorm by those of random samples of `split`, in place.

    Up to `batches` batches, no sample twice; with 0 the statistics stay. Everything else (dropout, weights,
    modes, momenta) stays as it is; a model without BatchNorm is not run at all.
    """
    norms = [m for m in model.modules() if isinstance(m, _NORMS) and m.running_mean is not None]
    if not norms or batches == 0:
        return
    momenta = [norm.momentum for norm in norms]
    size = min(batch_size, len(split))
    order = np.random.default_rng(seed).permutation(len(split))[: batches * size]
    with evaluating(model), torch.inference_mode():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        try:
            for index in order[: len(order) // size * size].reshape(-1, size):
                model(to_device(split[index][0], device_of(model)))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
