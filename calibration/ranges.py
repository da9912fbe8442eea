"""What calibration found, as a file: `ranges.json`, collected once and placed for every target."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from onnx import ModelProto

from calibration.errors import CalibrationError, listed
from calibration.graph import digest

SCHEMA = "edgesmith.ranges/1"


@dataclass(frozen=True)
class TensorRange:
    """Of one tensor: the extremes observed, as far as its readers tell them apart, and the range that int8 covers."""

    minimum: float
    maximum: float
    low: float
    high: float
    magnitude: float | None = None  # to clip at ±magnitude where the zero point is fixed, if not at the greater end

    def bounds(self, symmetric: bool) -> tuple[float, float]:
        """The range to cover under a free zero point, or under a fixed one (`symmetric`)."""
        if not symmetric or self.magnitude is None:
            return self.low, self.high
        return -self.magnitude, self.magnitude


@dataclass(frozen=True)
class Ranges:
    """Ranges of all activations of one model, in the order they are computed."""

    tensors: Mapping[str, TensorRange]
    samples: int  # that were run
    observer: str
    options: Mapping[str, Any]  # of the observer
    model: str  # `graph.digest` of the model they were collected on

    def require(self, model: ModelProto) -> None:
        """Raise CalibrationError unless `model` is the one these ranges were collected on."""
        if digest(model) != self.model:
            raise CalibrationError(
                "the ranges were collected on another model (its graph or weights differ): calibrate this one"
            )

    def adopted_by(self, model: ModelProto) -> "Ranges":
        """The same ranges for the same network exported anew, for another batch size say.

        That the weights are the same is the caller's to know; a tensor of another name is found missing by `of`.
        """
        return replace(self, model=digest(model))

    def of(self, names: list[str]) -> dict[str, TensorRange]:
        """The ranges of `names`. Raises CalibrationError that names those which are missing."""
        missing = [name for name in names if name not in self.tensors]
        if missing:
            raise CalibrationError(f"the ranges lack {listed(missing)}: calibrate this model again")
        return {name: self.tensors[name] for name in names}

    def save(self, path: Path) -> None:
        """Write JSON, one line per tensor."""
        head = {
            "schema": SCHEMA,
            "model": self.model,
            "observer": self.observer,
            "options": dict(self.options),
            "samples": self.samples,
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
        rows = [f"    {json.dumps(k)}: {json.dumps(_row(v))}" for k, v in self.tensors.items()]
        body = ",\n".join(rows)
        path.write_text("{\n" + "".join(lines) + '  "tensors": {\n' + body + "\n  }\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Ranges":
        """Read what `save` wrote. Raises CalibrationError that says where the file is wrong."""
        fields = _parse(path)
        tensors = {name: _tensor_range(path, name, row) for name, row in fields["tensors"].items()}
        return cls(tensors, fields["samples"], fields["observer"], fields["options"], fields["model"])


_ENDS = {"minimum", "maximum", "low", "high"}
_TYPES = {"model": str, "observer": str, "options": dict, "samples": int, "tensors": dict}


def _row(found: TensorRange) -> dict[str, float]:
    """The fields that are set."""
    return {key: value for key, value in asdict(found).items() if value is not None}


def _parse(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CalibrationError(f"{path}: no such file; `edgesmith calibrate` makes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not JSON ({error}); calibrate again") from None
    return checked(found, path, SCHEMA, "calibrate again")


def checked(found: Any, path: Path, schema: str, again: str) -> dict[str, Any]:
    """Return what was read if it is of that schema; `again` says how to make the file anew. Raises CalibrationError."""
    if not isinstance(found, dict) or found.get("schema") != schema:
        tag = found.get("schema") if isinstance(found, dict) else None
        raise CalibrationError(f"{path}: schema is {tag!r}, not {schema!r}; {again}")
    for key, kind in _TYPES.items():
        if not isinstance(found.get(key), kind):
            raise CalibrationError(f"{path}: {key} is not a JSON {kind.__name__}; {again}")
    return found


def _tensor_range(path: Path, name: str, row: Any) -> TensorRange:
    if not isinstance(row, dict) or row.keys() - {"magnitude"} != _ENDS:
        _wrong(path, f"tensors.{name}", "does not have exactly minimum, maximum, low and high (and magnitude)")
    for key, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            _wrong(path, f"tensors.{name}.{key}", f"is {value!r}, not a finite number")
    found = TensorRange(**{key: float(value) for key, value in row.items()})
    if not found.minimum <= found.low <= found.high <= found.maximum:
        _wrong(path, f"tensors.{name}", "is not ordered minimum ≤ low ≤ high ≤ maximum")
    if found.magnitude is not None and not 0 <= found.magnitude <= max(-found.minimum, found.maximum):
        _wrong(path, f"tensors.{name}.magnitude", "is not between 0 and the greatest magnitude")
    return found


def _wrong(path: Path, key: str, what: str) -> NoReturn:
    raise CalibrationError(f"{path}: {key} {what}; calibrate again")
