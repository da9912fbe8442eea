"""A small training for tests: data, a model with every kind of randomness, and a progress that presses Ctrl-C."""

from contextlib import contextmanager

import numpy as np
from torch import nn

from pipeline.data.base import ArraySplit, Data
from pipeline.models.resnet import resnet
from pipeline.training.config import Training


def make_split(n, seed):
    """Images whose class is the quadrant that is bright."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    x = rng.normal(0, 0.3, (n, 1, 8, 8)).astype(np.float32)
    for i, label in enumerate(y):
        row, column = 4 * (label // 2), 4 * (label % 2)
        x[i, 0, row : row + 4, column : column + 4] += 1
    return ArraySplit(x, y)


def noisy(x, rng):
    return x + rng.normal(0, 0.1, x.shape).astype(np.float32)


DATA = Data(make_split(70, 0), make_split(40, 1), make_split(8, 2), make_split(40, 3), tuple("abcd"), noisy)
QUICK = Training(epochs=3, batch_size=16, lr=0.05, precision="f32", accelerator="cpu")


def make_model(width=4):
    """A small ResNet with dropout in front: every kind of randomness that a run has."""
    return nn.Sequential(nn.Dropout(0.1), resnet(8, width, in_channels=1, classes=4))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


class Interrupting:
    """A progress that presses Ctrl-C after some steps, and keeps the notes."""

    def __init__(self, after=10**9):
        self.left, self.notes, self.labels = after, [], []

    @contextmanager
    def bar(self, label, total):
        self.labels.append((label, total))
        yield self

    def advance(self, steps=1, note=""):
        self.notes.append(note)
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt
