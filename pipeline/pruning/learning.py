"""Criteria that train a copy of the network before they rank it."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.pruning.criteria.base import Cost, Criterion
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.gradients import drawing, finite
from pipeline.pruning.trace import Inputs, copied, in_mode

Objective = Callable[[Inputs, Tensor, float], Tensor]  # inputs, labels, share of the training done -> the loss


@dataclass(frozen=True)
class Learning(Criterion):
    """How long and how fast to train: SGD over the samples' batches, in a new order every epoch.

    The rate is divided by ten after half and after three quarters of the steps, as network slimming does.
    """

    cost: ClassVar[Cost] = Cost.TRAINING

    epochs: Annotated[int, Field(ge=1, description="passes over the samples")] = 20
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False, description="learning rate at the start")] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="of every parameter")] = 1e-4

    def fit(
        self,
        model: nn.Module,
        evidence: Evidence,
        objective: Objective,
        push: Callable[[], None] = lambda: None,
        extra: Iterable[nn.Parameter] = (),
    ) -> None:
        """Train `model`, and `extra` parameters, in place; every module gets its own mode back.

        `push` may add to the gradients of a step. What is drawn (order, dropout) follows from the evidence's seed.
        Raises UserError for a loss that is no number, and where every parameter is frozen.
        """
        name, batches = evidence.settings.criterion, evidence.seen.batches
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise UserError(f"criterion {name}: trains, and every parameter is frozen; set requires_grad, or choose l1")
        optimizer = torch.optim.SGD([*trained, *extra], self.lr, self.momentum, weight_decay=self.weight_decay)
        steps = self.epochs * len(batches)
        with (
            evidence.progress.bar(f"{name}: training", steps) as bar,
            drawing(model, evidence.seed),
            in_mode(model, training=True),
            torch.enable_grad(),
        ):
            for step, number in enumerate(n for _ in range(self.epochs) for n in torch.randperm(len(batches)).tolist()):
                done = step / steps
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * (1 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
                optimizer.zero_grad()
                inputs, labels = batches[number]
                loss = finite(objective(copied(inputs), labels, done), name)
                torch.autograd.backward(loss)
                push()
                optimizer.step()
                bar.advance(1, f"loss {loss.item():.3f}")
        optimizer.zero_grad()


def learner(evidence: Evidence) -> nn.Module:
    """Return a copy of the model to train."""
    return copy.deepcopy(evidence.model)
