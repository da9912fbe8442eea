"""The devices that train one model together, as each of them sees it."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Team(Protocol):
    """One process per device; all have the same weights, and of every batch each takes its share."""

    @property
    def rank(self) -> int:
        """Which of them this is; 0 validates, writes and reports for all."""

    @property
    def size(self) -> int:
        """How many they are."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""

    def joined(self, loss: nn.Module) -> nn.Module:
        """Return `loss` so that a backward through it gives parameters the mean of the team's gradients."""

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the team; all must ask for it."""


@dataclass(frozen=True)
class Alone:
    """A team of one."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def joined(self, loss: nn.Module) -> nn.Module:
        """Return it as it is."""
        return loss

    def mean(self, value: Tensor) -> Tensor:
        """Return it as it is."""
        return value
