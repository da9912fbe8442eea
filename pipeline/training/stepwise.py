"""How pruning is spread over training, as a recipe says it. No torch here: recipes are read without it."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from pipeline.training.config import Distillation, Training

Curve = Literal["linear", "geometric", "cubic"]


@dataclass(frozen=True)
class Schedule:
    """Prune a little, train a little, as often as `steps` says; each step scores the network as it then is.

    Kinds: "iterative" takes steps of the whole network along `curve`. "layerwise" takes one group after the
    other, from the input to the output, each by the whole ratio (ThiNet, ICCV 2017). "during" is iterative
    within one training: the steps fall evenly into its first half, and one schedule of the learning rate
    runs through. "until" goes on along `curve` for as long as the trained network stays within `max_drop`
    of the accuracy that it started with, and keeps the last one that did.
    """

    kind: Annotated[Literal["iterative", "layerwise", "during", "until"], Field(description="what a step is")] = (
        "iterative"
    )
    steps: Annotated[int, Field(ge=1, description="of iterative, during and until; layerwise takes one per group")] = 4
    curve: Annotated[
        Curve, Field(description="equal steps; equal shares of what is left; large steps first (cubic)")
    ] = "geometric"
    max_drop: Annotated[float, Field(ge=0, allow_inf_nan=False, description="points of validation top-1, of until")] = (
        1.0
    )
    finetune: Annotated[Training, Field(description="the training after every step; of during, the whole one")] = field(
        default_factory=lambda: Training(epochs=1, lr=0.02, warmup=0.0)
    )
    distill: Annotated[
        Distillation | None, Field(description="learn from the model as it was before the first step; null: do not")
    ] = None


def cumulative(curve: Curve, steps: int, ratio: float) -> tuple[float, ...]:
    """Return the share of the original that is gone after every step; the last is `ratio`.

    "cubic" is that of Zhu & Gupta (To Prune, or Not to Prune, ICLR workshop 2018): steep first, then gentle.
    """
    done = [t / steps for t in range(1, steps + 1)]
    if curve == "linear":
        return tuple(ratio * t for t in done)
    if curve == "cubic":
        return tuple(ratio * (1 - (1 - t) ** 3) for t in done)
    return tuple(1 - (1 - ratio) ** t for t in done)


def increments(curve: Curve, steps: int, ratio: float) -> tuple[float, ...]:
    """Return, for every step, the share to remove of what the steps before it left."""
    gone = (0.0, *cumulative(curve, steps, ratio))
    return tuple(1 - (1 - after) / (1 - before) for before, after in pairwise(gone))
