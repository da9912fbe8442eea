"""Running a torch model over a split."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from pipeline.data.base import Split
from pipeline.tasks.classification import hits
from pipeline.training.device import device_of, to_device

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """How a classifier did on a split."""

    loss: float  # mean cross entropy, nats
    top1: float  # fraction whose highest logit is the label's
    n: int


def predict(model: nn.Module, split: Split, batch_size: int = 500) -> Logits:
    """Return the outputs `(len(split), …)` of a model in evaluation mode and float32."""
    device = device_of(model)
    outputs = []
    with evaluating(model), torch.inference_mode():
        for start in range(0, len(split), batch_size):
            x, _ = split[slice(start, start + batch_size)]
            outputs.append(model(to_device(x, device)).float().cpu().numpy())
    return np.concatenate(outputs)


def evaluate(model: nn.Module, split: Split, batch_size: int = 500) -> Score:
    """Score a classifier on a split, in float32."""
    logits, labels = predict(model, split, batch_size), split[slice(0, len(split))][1]
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    return Score(float(loss), float(hits(logits, labels).mean()), len(labels))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, and every module back to the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
