"""What an observer remembers of a model's activations, as a file: shards of it merge to what one process gives."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration import observers
from calibration.errors import CalibrationError
from calibration.observers.base import Extremes, Observer
from calibration.ranges import Ranges, TensorRange, checked

SCHEMA = "edgesmith.observations/2"


@dataclass(frozen=True)
class Observations:
    """Of one model: a memory per tensor, in the order they are computed, from which the ranges are chosen.

    A shard of the samples observed in another process, or on another machine, is saved there, loaded and merged
    here. The ranges are then those of one process over all samples, bit for bit, whatever the shards were.
    """

    seen: Mapping[str, Extremes]
    samples: int  # that were run
    observer: Observer[Any]
    model: str  # `graph.digest` of the model

    def ranges(self) -> Ranges:
        """The ranges that the observer chooses; a tensor that was empty in every sample has none."""
        tensors = {name: self._range(memory) for name, memory in self.seen.items() if memory.count}
        return Ranges(tensors, self.samples, self.observer.name(), self.observer.options, self.model)

    def _range(self, memory: Extremes) -> TensorRange:
        low, high = self.observer.range(memory)
        return TensorRange(memory.minimum, memory.maximum, low, high, self.observer.magnitude(memory))

    def save(self, path: Path) -> None:
        """Write compressed JSON; the same observations give the same bytes."""
        head = {
            "schema": SCHEMA,
            "model": self.model,
            "observer": self.observer.name(),
            "options": self.observer.options,
            "samples": self.samples,
            "tensors": {name: memory.state() if memory.count else None for name, memory in self.seen.items()},
        }
        path.write_bytes(gzip.compress(json.dumps(head, separators=(",", ":")).encode(), compresslevel=5, mtime=0))

    @classmethod
    def load(cls, path: Path) -> Observations:
        """Read what `save` wrote. Raises CalibrationError for a missing or damaged file."""
        found = _parse(path)
        observer = observers.make(found["observer"], **found["options"])
        seen = {name: observer.start() for name in found["tensors"]}
        for name, state in found["tensors"].items():
            if state is not None:
                seen[name].restore(state)
        return cls(seen, found["samples"], observer, found["model"])


def merge(shards: Sequence[Observations]) -> Observations:
    """Return the observations of all shards together; the shards stay as they are.

    Raises CalibrationError if there are none, if they are of other models, observers or tensors, or if the
    observer goes by the order of the data.
    """
    if not shards:
        raise CalibrationError("no shards to merge: give at least one")
    first = shards[0]
    for i, shard in enumerate(shards):
        different = _difference(first, shard)
        if different:
            raise CalibrationError(f"shard {i} has {different} than shard 0: observe all shards alike")
    if first.observer.ordered and len(shards) > 1:
        raise CalibrationError(
            f"{first.observer.name()} goes by the order of the samples, so shards do not merge:"
            " observe all samples in one process, or take another observer"
        )
    seen = {name: first.observer.start() for name in first.seen}
    for shard in shards:
        for name, memory in shard.seen.items():
            seen[name].merge(memory)
    return Observations(seen, sum(shard.samples for shard in shards), first.observer, first.model)


def _difference(one: Observations, other: Observations) -> str | None:
    if other.model != one.model:
        return "observed another model"
    if other.observer != one.observer:
        return "another observer or other options"
    return "other tensors" if list(other.seen) != list(one.seen) else None


def _parse(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError:
        raise CalibrationError(f"{path}: no such file of observations") from None
    except (gzip.BadGzipFile, EOFError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not observations ({error}); observe this shard again") from None
    return checked(found, path, SCHEMA, "observe this shard again")
