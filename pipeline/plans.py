"""Plans: data that says how a freshly built model gets the shape of a saved one, step by step.

Every kind has a schema, by which a file is read; a checkpoint keeps them in the order in which they apply.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import nn

P = TypeVar("P", bound="ModelPlan")


class ModelPlan(ABC):
    """One step. A kind is a frozen dataclass of plain data whose field `schema` has its name as default."""

    schema: str

    @property
    def captures(self) -> bool:
        """Whether `apply` needs example inputs."""
        return False

    @property
    def held(self) -> tuple[str, ...]:
        """Weights whose zeros are to stay when the model trains."""
        return ()

    @abstractmethod
    def apply(self, model: "nn.Module", example_inputs: Any = None) -> "nn.Module":
        """Return a copy of `model` in the shape that the plan says. Raises UserError where the plan does not fit."""

    @abstractmethod
    def differences(self, other: "ModelPlan") -> Iterator[str]:
        """Say what this plan and another of its kind do differently, a line for each module."""

    def save(self, path: Path | str) -> None:
        """Write the plan as indented JSON; equal plans give equal bytes."""
        Path(path).write_bytes(_adapter(type(self)).dump_json(self, indent=2) + b"\n")

    @classmethod
    def load(cls: type[P], path: Path | str) -> P:
        """Read a plan. Raises UserError, naming file and key, for a file that is missing or no plan of this kind."""
        try:
            found: P = _adapter(cls).validate_json(_read(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "top level"
            raise UserError(f"{path} is no plan of its kind: {where}: {first['msg']}; write it anew") from error
        return found


@cache
def _adapter(kind: type[P]) -> TypeAdapter[P]:
    return TypeAdapter(kind)


def kinds() -> Mapping[str, type[ModelPlan]]:
    """Every kind of plan by its schema."""
    from pipeline.lowrank.plan import LowRankPlan
    from pipeline.pruning.plan import Plan

    return {kind.schema: kind for kind in (Plan, LowRankPlan)}


def load(path: Path | str) -> ModelPlan:
    """Read a plan of any kind. Raises UserError as `ModelPlan.load` does."""
    try:
        given = json.loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path} is no plan: it is no JSON ({error}); write it anew") from error
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, str) or schema not in kinds():
        raise UserError(f"{path} is no plan: its schema is {schema!r}, known are {', '.join(kinds())}; write it anew")
    return kinds()[schema].load(path)


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the plan {path}: {error.strerror}") from error


def replay(plans: Iterable[ModelPlan], model: "nn.Module", example_inputs: Any = None) -> "nn.Module":
    """Apply successive plans, oldest first: prune, factorise, prune again. Inputs and errors as for `apply`."""
    return reduce(lambda reshaped, plan: plan.apply(reshaped, example_inputs), plans, model)


def between(a: Sequence[ModelPlan], b: Sequence[ModelPlan]) -> Iterator[str]:
    """Say what two successions of plans do differently, step by step."""
    for step in range(max(len(a), len(b))):
        label = f"plan {step + 1}: " if max(len(a), len(b)) > 1 else ""
        if step >= min(len(a), len(b)):
            yield f"plan {step + 1}: only in the {'first' if len(a) > len(b) else 'second'}"
        elif type(a[step]) is not type(b[step]):
            yield f"{label}{a[step].schema} | {b[step].schema}"
        else:
            yield from (label + line for line in a[step].differences(b[step]))
