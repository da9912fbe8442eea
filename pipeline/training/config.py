"""How to train, as a recipe says it. No torch here: recipes are read without it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from pipeline.extras import missing

Precision = Literal["auto", "f32", "bf16", "f16"]
Share = Annotated[float, Field(ge=0, le=1)]


def _devices(value: Any) -> Any:
    """Check in one go: pydantic's complaint about a union names its members as if they were keys."""
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("should be auto or a number of devices from 1")


_Shown = Literal["auto"] | Annotated[int, Field(ge=1)]
Devices = Annotated[Literal["auto"] | int, PlainValidator(_devices, json_schema_input_type=_Shown)]


@dataclass(frozen=True)
class Training:
    """How long, on what, how fast. Papers: `optim`, `schedule` and `mixing` beside this file."""

    epochs: Annotated[int, Field(ge=0, description="passes; the one best on validation is kept")] = 12
    batch_size: Annotated[int, Field(ge=1, description="images per step")] = 256
    optimizer: Annotated[Literal["sgd", "adamw"], Field(description="adamw wants an lr of about 0.001")] = "sgd"
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False, description="learning rate at its peak")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="Nesterov's; of adamw the first beta")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="of every parameter")] = 5e-4
    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False, description="epochs of rising rate")] = 1.0
    schedule: Annotated[
        Literal["cosine", "linear", "step", "constant"],
        Field(description="of the rate after the warm-up; cosine and linear go to zero"),
    ] = "cosine"
    milestones: Annotated[
        tuple[Share, ...], Field(description="schedule step: shares of the run after which the rate falls")
    ] = (0.5, 0.75)
    gamma: Annotated[float, Field(gt=0, le=1, description="schedule step: what it falls to each time")] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="share given to every class alike")] = 0.0
    mixup: Annotated[float, Field(ge=0, allow_inf_nan=False, description="alpha of mixed pairs, 0.2 say; 0: none")] = (
        0.0
    )
    cutmix: Annotated[float, Field(ge=0, allow_inf_nan=False, description="alpha of pasted boxes, 1 say; 0: none")] = (
        0.0
    )
    ema: Annotated[
        float, Field(ge=0, lt=1, description="decay of averaged weights, which are then what is kept; 0: none")
    ] = 0.0
    seed: Annotated[int, Field(ge=0, description="of order, augmentation, mixing and dropout")] = 0
    epoch_size: Annotated[
        int | None, Field(ge=1, description="images per epoch; null: as many as there are to train on")
    ] = None
    precision: Annotated[
        Precision, Field(description="of the arithmetic; weights stay f32. auto: bf16 where hardware has it; f16: GPU")
    ] = "auto"
    accelerator: Annotated[str, Field(description="auto, cpu, cuda or cuda:N")] = "auto"
    devices: Annotated[
        Devices, Field(description="that share every batch; auto: all GPUs, or one CPU. Several need edgesmith[fabric]")
    ] = 1

    @property
    def window(self) -> range:
        """The epochs to run."""
        return range(self.epochs)


def unready(devices: Devices) -> str:
    """Say what training on `devices` lacks here; empty for nothing, and for "auto", which asks the machine later."""
    return missing(f"devices: {devices}", "fabric", "lightning_fabric") if devices not in ("auto", 1) else ""


@dataclass(frozen=True)
class Part(Training):
    """Some epochs of a training."""

    first: int = 0
    stop: int = 0

    @property
    def window(self) -> range:
        """The epochs to run."""
        return range(self.first, self.stop)


@dataclass(frozen=True)
class Distillation:
    """A loss that mixes the labels with what a teacher says.

    response: Hinton et al., arXiv 1503.02531; feature: Romero et al., FitNets, ICLR 2015; relations: Park et
    al., RKD, CVPR 2019.
    """

    response: Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight of the softened answers")] = 0.9
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False, description="that softens them")] = 4.0
    hard: Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight of the labels")] = 0.1
    feature: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="weight of the feature maps, after learned regressors")
    ] = 0.0
    taps: Annotated[
        tuple[str, ...] | None,
        Field(min_length=1, description="modules whose outputs are compared; null: the last at each resolution"),
    ] = None
    relation_distance: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="weight of the distances between samples; 25 in the paper")
    ] = 0.0
    relation_angle: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="weight of the angles between samples; 50 in the paper")
    ] = 0.0

    def __post_init__(self) -> None:
        if not (self.response or self.feature or self.relation_distance or self.relation_angle):
            raise ValueError("nothing is learned from the teacher; give a weight, or leave distill out")
