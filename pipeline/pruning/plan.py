"""A pruning plan is data: which units of which groups stay, and what that means for every tensor.

It replays on a freshly built model in another process, without tracing and without the data it was made from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from torch import nn

from pipeline.errors import UserError
from pipeline.pruning import graph, surgery
from pipeline.pruning.channels import Ids
from pipeline.pruning.depth import without
from pipeline.pruning.groups import Group, Structure
from pipeline.pruning.rules.base import Shape
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import as_inputs

Spans = Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")]
Name = Annotated[str, Field(min_length=1)]


def spans(positions: Iterable[int]) -> str:
    """Write ascending positions as ranges: 0, 1, 2, 5 -> "0-2,5"."""
    array = np.fromiter(positions, np.int64)
    if not len(array):
        return ""
    breaks = np.flatnonzero(np.diff(array) != 1)
    ends = zip(array[np.append(0, breaks + 1)].tolist(), array[np.append(breaks, -1)].tolist(), strict=True)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


@lru_cache(maxsize=1024)  # the tensors of a group repeat it
def positions(text: str) -> Ids:
    """Read what `spans` wrote. The array is shared: do not write to it."""
    ends = [part.split("-") for part in text.split(",")]
    return np.concatenate([np.arange(int(pair[0]), int(pair[-1]) + 1) for pair in ends])


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class GroupCut:
    """One group's channels before and after, and the tensors that lose slices with them, as "weight[dim]"."""

    name: Name
    kind: str  # filter, stage or head
    before: int
    after: int
    width: str  # "64 -> 40", for people
    kept: Spans  # units, of `units`
    units: int
    touches: tuple[str, ...]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class TensorCut:
    """One tensor's shape before, and the positions that stay in each dimension that is cut."""

    shape: tuple[int, ...]
    keep: dict[int, Spans]

    def __post_init__(self) -> None:
        for dim, text in self.keep.items():
            if not 0 <= dim < len(self.shape):
                raise ValueError(f"dimension {dim} of a tensor of shape {self.shape}")
            kept = positions(text)
            if not len(kept) or (np.diff(kept) < 1).any() or kept[-1] >= self.shape[dim]:
                raise ValueError(f"positions {text} must ascend and lie in dimension {dim} of {self.shape}")


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to cut from a model, or from its graph where `form` says so.

    `settings` is the record of how it was chosen; of it, form "graph" reads `ignore` and `granularity` again.
    """

    schema: Literal["edgesmith.plan/2"] = "edgesmith.plan/2"
    form: Literal["module", "graph"] = "module"
    settings: dict[str, Any]
    removed: tuple[Name, ...] = ()  # modules that pass their input on
    added_bias: tuple[Name, ...] = ()  # biases that layers are given, for constants to be folded into
    zeroed: tuple[Name, ...] = ()  # weights whose zeros were put there and are to stay
    groups: tuple[GroupCut, ...]
    attributes: dict[str, dict[str, int | tuple[int, ...]]] = field(
        default_factory=dict
    )  # module -> attribute -> new value
    tensors: dict[str, TensorCut]

    def save(self, path: Path | str) -> None:
        """Write the plan as indented JSON: one line per group's width, equal plans give equal bytes."""
        Path(path).write_bytes(_ADAPTER.dump_json(self, indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path | str) -> "Plan":
        """Read a plan. Raises UserError, naming file and key, for a file that is missing or no plan."""
        try:
            return _ADAPTER.validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"cannot read the plan {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "top level"
            raise UserError(f"{path} is no pruning plan: {where}: {first['msg']}; write it anew") from error

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes that the tensors it cuts had before."""
        return {name: t.shape for name, t in self.tensors.items()}

    @property
    def kept(self) -> surgery.Kept:
        """The positions that stay, by tensor and dimension."""
        return {n: {d: positions(s) for d, s in t.keep.items()} for n, t in self.tensors.items()}

    def apply(self, model: nn.Module, example_inputs: Any = None) -> nn.Module:
        """Return a pruned copy of `model`; weights, buffers, modes and requires_grad carry over.

        Form "graph" captures the model again, on `example_inputs`; "module" needs none.

        Raises UserError if the model lacks a tensor that the plan cuts, or has it in another shape, and for
        form "graph" if there are no example inputs or the graph is another.
        """
        shorter = without(model, self.removed) if self.removed else model
        shorter = surgery.with_biases(shorter, self.added_bias)
        surgery.check(shorter, self.shapes)
        if self.form == "module":
            return surgery.cut(shorter, self.kept, self.attributes)
        if example_inputs is None:
            raise UserError("a plan of form 'graph' captures the model again: give apply(model, example_inputs)")
        chosen = {key: self.settings[key] for key in ("ignore", "granularity") if key in self.settings}
        return graph.recut(shorter, as_inputs(example_inputs), self.kept, Settings(**chosen, form="graph"))


_ADAPTER = TypeAdapter(Plan)


def replay(plans: Iterable[Plan], model: nn.Module, example_inputs: Any = None) -> nn.Module:
    """Apply successive plans, oldest first: prune, finetune, prune again. Inputs and errors as for `Plan.apply`."""
    return reduce(lambda pruned, plan: plan.apply(pruned, example_inputs), plans, model)


def make(
    structure: Structure,
    kept: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, Shape],
    attributes: surgery.Attributes,
    settings: dict[str, Any],
) -> Plan:
    """Turn kept units, by group name, into a plan; groups that keep everything are left out."""
    cuts = [(g, kept[g.name]) for g in structure.groups if len(kept.get(g.name, range(g.units))) < g.units]
    stays: dict[str, dict[int, np.ndarray[Any, np.dtype[np.bool_]]]] = {}
    for group, units in cuts:
        gone = np.delete(np.arange(group.units), list(units))
        for m in group.members:
            whole = np.ones(shapes[m.tensor][m.dim], bool)
            stays.setdefault(m.tensor, {}).setdefault(m.dim, whole)[m.index[gone].ravel()] = False
    tensors = {
        name: TensorCut(tuple(shapes[name]), {d: spans(np.flatnonzero(s)) for d, s in sorted(dims.items())})
        for name, dims in sorted(stays.items())
    }
    described = tuple(_describe(g, units) for g, units in cuts)
    new = {module: dict(values) for module, values in sorted(attributes.items())}
    form = settings.get("form", "module")
    return Plan(form=form, settings=settings, groups=described, attributes=new, tensors=tensors)


def _describe(group: Group, kept: tuple[int, ...]) -> GroupCut:
    after = len(kept) * group.channels_per_unit
    touches = tuple(sorted({f"{m.tensor}[{m.dim}]" for m in group.members}))
    width = f"{group.channels} -> {after}"
    return GroupCut(group.name, group.kind, group.channels, after, width, spans(kept), group.units, touches)
