"""What is trained, and what the folder it is trained in holds."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.base import Data
from pipeline.errors import UserError
from pipeline.training import state
from pipeline.training.config import Training
from pipeline.training.evaluate import Score
from pipeline.training.objective import Objective

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    loss: float  # mean over its steps
    validation: Score


@dataclass(frozen=True)
class History:
    """Every epoch of a run, and which one was kept."""

    epochs: tuple[Epoch, ...] = ()

    @property
    def best(self) -> int:
        """Index of the epoch with the highest validation top-1; the last of equal ones."""
        return max(range(len(self.epochs)), key=lambda i: (self.epochs[i].validation.top1, i))

    def figures(self) -> dict[str, Any]:
        """Return what a stage tells of it."""
        best = self.epochs[self.best] if self.epochs else None
        return {
            "epochs": len(self.epochs),
            "best_epoch": self.best + 1 if best else 0,
            "validation_top1": best.validation.top1 if best else None,
            "loss": [epoch.loss for epoch in self.epochs],
        }

    @staticmethod
    def of(header: dict[str, Any]) -> "History":
        """Read it out of a checkpoint's header."""
        return History(tuple(Epoch(e["loss"], Score(**e["validation"])) for e in header.get("epochs", ())))


@dataclass(frozen=True)
class Job:
    """A training to be run; the devices of its config are a number."""

    model: nn.Module
    data: Data
    config: Training
    folder: Path
    objective: Objective

    @property
    def devices(self) -> int:
        """How many there are."""
        return int(self.config.devices)

    @property
    def identity(self) -> str:
        """A digest of what it starts from: settings, start weights, size of the data."""
        described = (type(self.objective).__qualname__, self.objective.extra_repr())
        h = hashlib.sha256(repr((self.config, len(self.data.train), len(self.data.validation), described)).encode())
        for name, tensor in (*self.model.state_dict().items(), *self.objective.state_dict().items()):
            h.update(name.encode())
            h.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return h.hexdigest()

    def last(self, identity: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Read the folder's last checkpoint: tensors by part, and the header; both empty where there is none.

        Raises UserError if it comes from a training of another identity.
        """
        path = self.folder / LAST
        if not path.exists():
            return {}, {}
        tensors, header = state.load(path)
        if header["identity"] != identity:
            raise UserError(
                f"{path}: comes from a training with other settings, data or start weights; "
                "give another folder, or remove this one to start over"
            )
        return state.split(tensors), header
