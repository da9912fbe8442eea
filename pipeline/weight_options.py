"""How the int8 weights of a model are chosen, as a recipe says it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """Options of the stage `calibrate`, under `weights`."""

    scale: Annotated[Literal["max", "mse"], Field(description="nothing clipped, or of least squared error")] = "max"
    equalize: Annotated[bool, Field(description="channels of like ranges, and high biases moved on")] = False
    bias: Annotated[
        Literal["none", "analytic", "empirical"], Field(description="what takes back the mean error of rounding")
    ] = "empirical"
    rounding: Annotated[Literal["nearest", "adaround"], Field(description="to nearest, or by data")] = "nearest"
    iterations: Annotated[int, Field(ge=1, description="of adaround, per layer")] = 1000
    samples: Annotated[int, Field(ge=1, description="of the calibration samples, that weights are chosen on")] = 128

    @property
    def plain(self) -> bool:
        """Whether that is what placement does by itself."""
        return self.scale == "max" and self.bias == "none" and self.rounding == "nearest"
