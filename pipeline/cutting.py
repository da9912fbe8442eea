"""One cut of a model, as a recipe's options for it say: scored on its data, proved on it, its norms measured anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.base import Data
from pipeline.errors import UserError
from pipeline.progress import SILENT, Progress
from pipeline.pruning import PruneResult, Samples, prune
from pipeline.training.batchnorm import recalibrate


@dataclass(frozen=True)
class Cutter:
    """Prunes models. `settings` are those of `prune`; `real` are inputs to prove on, `(N, …)`."""

    settings: Mapping[str, Any]
    data: Data
    example: Tensor
    real: Tensor
    scored_on: int  # images of the train split
    recalibrated_on: int  # batches of 256; 0: BatchNorm statistics stay
    seed: int
    progress: Progress = SILENT

    def __call__(self, model: nn.Module, **settings: Any) -> PruneResult:
        """Prune a copy of `model`; the keywords replace settings.

        Raises UserError as `prune` does, and for a graph that runs on no other batch than the example's.
        """
        result = prune(
            model,
            (self.example,),
            real_inputs=(self.real,),
            samples=self._samples(),
            progress=self.progress,
            **{**self.settings, **settings},
        )
        if result.batch is not None:
            raise UserError(
                f"prune: the model's graph runs on batches of {result.batch} only; set form: module, "
                "or make its forward take any batch"
            )
        if self.recalibrated_on:
            recalibrate(result.model, self.data.train, self.recalibrated_on, seed=self.seed)
        return result

    def _samples(self) -> Samples:
        order = np.random.default_rng(self.seed).permutation(len(self.data.train))[: self.scored_on]
        x, y = self.data.train[order]
        return Samples.of(torch.from_numpy(x), torch.from_numpy(y), batch_size=64)
