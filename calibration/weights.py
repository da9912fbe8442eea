"""Weights as they shall be in int8: scales, integers and corrected biases, chosen once for all targets, as a file."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.graph import digest
from calibration.layers import Array, Layer, layers, with_values
from calibration.qparams import LIMIT, closest_weight_scale, dequantize_weight, quantize_weight, weight_scale

SCHEMA = "edgesmith.int8_weights/1"
FILE = "int8.safetensors"
SCALES: Mapping[str, Callable[[Array, int | None], NDArray[np.float32]]] = {
    "max": weight_scale,
    "mse": closest_weight_scale,
}


@dataclass(frozen=True)
class Weight:
    """The int8 grid of one weight, symmetric in -127…127, and the point on it where not the nearest one."""

    scale: NDArray[np.float32]  # (channels,) along `axis`, or 0-d
    axis: int | None
    integers: NDArray[np.int8] | None = None

    def covers(self, weight: Array) -> bool:
        """Whether scale and integers have the shape of the float `weight`."""
        per_channel = (
            self.axis is not None and self.axis < weight.ndim and self.scale.shape == (weight.shape[self.axis],)
        )
        fits = per_channel if self.scale.ndim else True
        return fits and (self.integers is None or self.integers.shape == weight.shape)

    def misfit(self, axis: int | None, limit: int) -> str | None:
        """Why a scheme with scales along `axis` and integers up to `limit` cannot take it; None if it can."""
        if limit != LIMIT:
            return f"the scheme keeps weights to -{limit}…{limit}"
        if axis != self.axis:
            return "its channels lie along another axis" if axis is not None else "the scheme has one scale for all"
        return None

    def rounded(self, weight: Array) -> NDArray[np.int8]:
        """The integers for the float `weight`: those that were chosen, or the nearest."""
        return quantize_weight(weight, self.scale, self.axis) if self.integers is None else self.integers

    def real(self, weight: Array) -> NDArray[np.float32]:
        """What the kernels multiply by in place of `weight`."""
        return dequantize_weight(self.rounded(weight), self.scale, self.axis)


@dataclass(frozen=True)
class Weights:
    """What was chosen for the weights of one model.

    Biases go by the tensor that their op computes, not by their own name: an op without one may get one, and
    ops that share one may need different corrections. They belong to the integers that go with them here.
    """

    tensors: Mapping[str, Weight]  # by initializer
    biases: Mapping[str, NDArray[np.float32]]  # (channels,), by the tensor that the op computes
    model: str  # `graph.digest` of the model that they are of
    methods: Mapping[str, Any] = field(default_factory=dict)  # how they were chosen, as plain JSON values

    def require(self, model: ModelProto) -> None:
        """Raise CalibrationError unless `model` is the one these weights are of."""
        if digest(model) != self.model:
            raise CalibrationError(
                "the int8 weights were chosen for another model (its graph or weights differ): calibrate this one"
            )
        for layer in layers(model):
            found = self.tensors.get(layer.name)
            if found is not None and not found.covers(layer.weight):
                raise CalibrationError(f"the int8 weights of {layer.name!r} have another shape: calibrate this model")

    def applied(self, model: ModelProto) -> ModelProto:
        """A copy of `model` that computes in float with what the kernels multiply by, and with the biases."""
        real = {layer.name: self.tensors[layer.name].real(layer.weight) for layer in self.layers(model)}
        return with_values(model, real, self.biases)

    def adopted_by(self, model: ModelProto) -> "Weights":
        """The same weights for the same network exported anew, for another batch size say; see `Ranges`."""
        return replace(self, model=digest(model))

    def layers(self, model: ModelProto) -> list[Layer]:
        """The layers of `model` whose weights are among these."""
        return [layer for layer in layers(model) if layer.name in self.tensors]

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        arrays: dict[str, Array] = {f"bias/{name}": bias for name, bias in self.biases.items()}
        for name, weight in self.tensors.items():
            arrays[f"scale/{name}"] = weight.scale
            if weight.integers is not None:
                arrays[f"integers/{name}"] = weight.integers
        head = {
            "schema": SCHEMA,
            "model": self.model,
            "methods": json.dumps(dict(self.methods), sort_keys=True),
            "axes": json.dumps({name: weight.axis for name, weight in self.tensors.items()}, sort_keys=True),
        }
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, head)

    @classmethod
    def load(cls, path: Path) -> "Weights":
        """Read what `save` wrote. Raises CalibrationError that says where the file is wrong."""
        head, arrays = _read(path)
        axes, methods = (_object(path, head, key) for key in ("axes", "methods"))
        parts: dict[str, dict[str, Array]] = {"scale": {}, "integers": {}, "bias": {}}
        for key, array in arrays.items():
            kind, _, name = key.partition("/")
            if kind not in parts:
                _wrong(path, key, "is neither scale/…, integers/… nor bias/…")
            parts[kind][name] = array
        if axes.keys() != parts["scale"].keys() or not parts["integers"].keys() <= axes.keys():
            _wrong(path, "axes", "and the tensors do not name the same weights")
        tensors = {name: Weight(parts["scale"][name], axes[name], parts["integers"].get(name)) for name in axes}
        for name, weight in tensors.items():
            _check(path, name, weight)
        for name, bias in parts["bias"].items():
            if bias.dtype != np.float32 or bias.ndim != 1 or not np.isfinite(bias).all():
                _wrong(path, f"bias/{name}", "is not a vector of finite float32")
        return cls(tensors, parts["bias"], head["model"], methods)


def chosen(model: ModelProto, scale: str = "mse") -> Weights:
    """Scales for every layer of `model`, by "mse" (least squared error) or "max" (nothing is clipped)."""
    if scale not in SCALES:
        raise CalibrationError(f"weight scale {scale!r}: have {', '.join(SCALES)}")
    tensors = {layer.name: Weight(SCALES[scale](layer.weight, layer.axis), layer.axis) for layer in layers(model)}
    return Weights(tensors, {}, digest(model), {"scale": scale})


def _read(path: Path) -> tuple[Mapping[str, str], dict[str, Array]]:
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load_file

    try:
        with safe_open(path, framework="numpy") as file:
            head = file.metadata() or {}
        arrays = load_file(path)
    except FileNotFoundError:
        raise CalibrationError(f"{path}: no such file; `edgesmith calibrate` makes it") from None
    except SafetensorError as error:
        raise CalibrationError(f"{path}: no readable safetensors file ({error}); calibrate again") from None
    if head.get("schema") != SCHEMA:
        raise CalibrationError(f"{path}: schema is {head.get('schema')!r}, not {SCHEMA!r}; calibrate again")
    if not head.get("model"):
        _wrong(path, "model", "is missing")
    return head, arrays


def _object(path: Path, head: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        found = json.loads(head.get(key, ""))
    except json.JSONDecodeError:
        _wrong(path, key, "is not JSON")
    if not isinstance(found, dict):
        _wrong(path, key, "is not a JSON object")
    return found


def _check(path: Path, name: str, weight: Weight) -> None:
    scale, axis, integers = weight.scale, weight.axis, weight.integers
    if scale.dtype != np.float32 or scale.ndim > 1 or not (np.isfinite(scale).all() and (scale > 0).all()):
        _wrong(path, f"scale/{name}", "is not float32, positive and finite, one number or one per channel")
    if (axis is None) != (scale.ndim == 0) or isinstance(axis, bool) or not isinstance(axis, int | None):
        _wrong(path, f"axes.{name}", f"is {axis!r}, which does not fit its scale")
    if integers is None:
        return
    if integers.dtype != np.int8 or integers.min(initial=0) < -LIMIT:
        _wrong(path, f"integers/{name}", f"are not int8 in -{LIMIT}…{LIMIT}")
    if axis is not None and not (0 <= axis < integers.ndim and integers.shape[axis] == len(scale)):
        _wrong(path, f"integers/{name}", f"of shape {integers.shape} have not {len(scale)} channels along axis {axis}")


def _wrong(path: Path, key: str, what: str) -> NoReturn:
    raise CalibrationError(f"{path}: {key} {what}; calibrate again")
