"""The learning rate as a pure function of the step: nothing to save, nothing to get out of step on a resume."""

import math

from pipeline.training.config import Training


def rate(config: Training, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: linear up to `lr` over the warm-up, then as `config.schedule` says.

    cosine: half a cosine to zero (Loshchilov & Hutter, SGDR, ICLR 2017); linear: a straight line to zero; step:
    times `gamma` at each of `milestones`, shares of the whole run; constant: it stays.
    """
    warmup, total = round(config.warmup * steps_per_epoch), config.epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)  # of what follows the warm-up, from 0
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "linear":
        return config.lr * (1 - done)
    if config.schedule == "step":
        passed = sum(step >= round(share * total) for share in config.milestones)
        return config.lr * config.gamma**passed
    return config.lr
