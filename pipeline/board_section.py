"""The recipe's section `board`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class BoardSection(BaseModel):
    """How the device is held still while it is measured. Needs root there, or sudo without a password."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    power_mode: Annotated[str | int | None, Field(description="of nvpmodel (Jetson), by name or number")] = None
    lock_clocks: Annotated[
        bool, Field(description="jetson_clocks; elsewhere the governor performance. Put back afterwards")
    ] = False
    cool_below_c: Annotated[
        float | None, Field(gt=0, description="before timing, wait until the warmest sensor is below, in °C")
    ] = None
    cool_limit_s: Annotated[float, Field(ge=0, description="of one such wait")] = 300.0
    when_hot: Annotated[Literal["warn", "fail"], Field(description="after that limit")] = "warn"
    energy_s: Annotated[
        float, Field(ge=0, description="seconds of energy measuring per artifact, where a rail is there; 0: none")
    ] = 1.0
