"""A plan of factorised layers: which, how and at which ranks. It holds no weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from torch import nn

from pipeline.errors import UserError
from pipeline.lowrank.base import Name
from pipeline.lowrank.methods import METHODS
from pipeline.lowrank.modules import replace
from pipeline.lowrank.sites import KINDS
from pipeline.plans import ModelPlan

WHOLE = "whole"
Rank = Annotated[int, Field(ge=1)]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Factorized:
    """One layer: the weight that it had, and the factorisation that took its place."""

    name: str
    shape: tuple[int, ...]
    method: Name
    ranks: tuple[Rank, ...]

    def __post_init__(self) -> None:
        wanted = 2 if self.method == "tucker" else 1
        if len(self.shape) < 2 or len(self.ranks) != wanted:
            raise ValueError(f"{self.name}: {self.method} takes {wanted} ranks and a weight (out, in, …)")

    def __str__(self) -> str:
        return f"{self.method} {', '.join(map(str, self.ranks))}"


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class LowRankPlan(ModelPlan):
    """Which layers of a model are factorised. `settings` is the record of how the ranks were chosen."""

    schema: Literal["edgesmith.lowrank/1"] = "edgesmith.lowrank/1"
    settings: dict[str, Any]
    layers: tuple[Factorized, ...]

    def apply(self, model: nn.Module, example_inputs: Any = None) -> nn.Module:
        """Return a copy of `model` with the layers factorised; whatever else it holds carries over.

        The new weights are NaN until those that were saved with the plan are loaded: the plan holds none, and to
        fit them again would take long. Example inputs are not needed.

        Raises UserError if the model lacks a layer, or has one of another shape.
        """
        modules = dict(model.named_modules())
        for layer in self.layers:
            found = modules.get(layer.name)
            weight = getattr(found, "weight", None)
            if type(found) not in KINDS or weight is None:
                what = f"{layer.name!r} is a {type(found).__name__}" if found else f"it has no module {layer.name!r}"
                raise UserError(f"the plan does not fit {type(model).__name__}: {what}, not a layer to factorise")
            if tuple(weight.shape) != layer.shape:
                raise UserError(
                    f"the plan does not fit {type(model).__name__}: {layer.name}.weight is {tuple(weight.shape)}, "
                    f"the plan was made for {layer.shape}; apply successive plans in their order"
                )
        return replace(model, {layer.name: (METHODS[layer.method], layer.ranks, None) for layer in self.layers})

    def differences(self, other: ModelPlan) -> Iterator[str]:
        """Say for every layer what each plan makes of it: "conv: tucker 8, 8 | whole"."""
        theirs = other.layers if isinstance(other, LowRankPlan) else ()
        first, second = ({layer.name: str(layer) for layer in layers} for layers in (self.layers, theirs))
        for name in dict.fromkeys([*first, *second]):
            if first.get(name) != second.get(name):
                yield f"{name}: {first.get(name, WHOLE)} | {second.get(name, WHOLE)}"
