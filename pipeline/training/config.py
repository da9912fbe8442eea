"""How to train, as a recipe says it. No torch here: recipes are read without it."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Precision = Literal["auto", "f32", "bf16"]


@dataclass(frozen=True)
class Training:
    """SGD with Nesterov momentum; linear warm-up, then a cosine to zero (Loshchilov & Hutter, ICLR 2017)."""

    epochs: Annotated[int, Field(ge=0, description="passes; the one best on validation is kept")] = 12
    batch_size: Annotated[int, Field(ge=1, description="images per step")] = 256
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False, description="learning rate at its peak")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="Nesterov momentum")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="of every parameter")] = 5e-4
    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False, description="epochs of rising rate")] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="share given to every class alike")] = 0.0
    seed: Annotated[int, Field(ge=0, description="of order, augmentation and dropout")] = 0
    epoch_size: Annotated[
        int | None, Field(ge=1, description="images per epoch; null: as many as there are to train on")
    ] = None
    precision: Annotated[
        Precision, Field(description="of the arithmetic; weights stay f32. auto: bf16 where hardware has it")
    ] = "auto"
    accelerator: Annotated[str, Field(description="auto, cpu, cuda or cuda:N")] = "auto"


def rate(config: Training, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: linear up to `lr` over the warm-up, then half a cosine to zero."""
    warmup = round(config.warmup * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    left = config.epochs * steps_per_epoch - warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / left))
