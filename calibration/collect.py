"""Watches the activations of a float ONNX model over calibration data, and chooses their ranges."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from onnx import ModelProto

from calibration.graph import activations, digest, index, load_model
from calibration.observations import Observations
from calibration.observers.base import NonFiniteError, Observer
from calibration.placement import FUSED, written
from calibration.ranges import Ranges
from calibration.reach import reaches
from calibration.running import Feeds, not_finite, open_model, run_batches
from calibration.scheme import Scheme


@dataclass(frozen=True)
class Pass:
    """One pass over data, or over a part of it."""

    threads: int = 0  # 0 for one per core
    first: int = 0  # what errors call the first sample


def collect(
    onnx_path: Path,
    batches: Iterable[Feeds],
    observer: Observer[Any],
    on_batch: Callable[[int], object] | None = None,
    threads: int = 0,
    only: Collection[str] | None = None,
) -> Ranges:
    """Return the ranges that `observer` chooses for the float32 activations of the model.

    As `observe`, whose parameters these are, on `threads` threads, 0 for one per core.
    """
    return observe(onnx_path, batches, observer, on_batch, Pass(threads), only).ranges()


def observe(
    onnx_path: Path,
    batches: Iterable[Feeds],
    observer: Observer[Any],
    on_batch: Callable[[int], object] | None = None,
    how: Pass = Pass(),
    only: Collection[str] | None = None,
) -> Observations:
    """Return what `observer` remembers of every float32 activation of the model, or of those that `only` names.

    `batches` maps input names to arrays with samples along axis 0. A model with a static batch gets them in
    slices of its own size. Nothing is kept of a batch but what the observer remembers; a few slices are in
    flight at once, so that memory is theirs whatever the number of samples. `on_batch(n)` is called as each
    batch is taken on, with its number of samples. Values beyond what the readers of a tensor can tell apart
    (`reach.reaches`) count as the bound.

    Raises CalibrationError for inputs that do not fit, NaN or infinity in data or activations, or no data.
    """
    model = load_model(onnx_path)
    key, bounds = digest(model), reaches(index(model.graph))
    opened = open_model(onnx_path, only, how.threads, in_order=observer.ordered)
    seen = {name: observer.start() for name in opened.names}
    locks = {name: Lock() for name in seen}

    def show(tensors: Feeds, first: int, n: int) -> None:
        for name, array in tensors.items():
            # infinities are for the observer to refuse, not to be clipped
            bounded = name in bounds and np.isfinite(array).all()
            values = np.clip(array, *bounds[name]) if bounded else array
            try:
                with locks[name]:
                    seen[name].update(values, n)
            except NonFiniteError:
                raise not_finite(name, array, how.first + first, n) from None

    samples = run_batches(opened, batches, show, on_batch)
    return Observations(seen, samples, observer, key)


def quantizable(model: ModelProto, scheme: Scheme | None = None) -> list[str]:
    """Activations that can get a pair of their own under some scheme, in the order they are computed.

    With a `scheme`, those that it could give one to, whichever ops stay in float. Of any type.

    What a fused activation function alone reads never leaves its kernel's accumulator, so no pair goes there:
    not to observe it saves memory and time, about a third of both on a plain CNN.
    """
    found = index(model.graph)
    readers = {name: found.only_reader(name) for name in activations(model.graph)}
    free = [name for name, reader in readers.items() if reader is None or reader.op_type not in FUSED]
    if scheme is None:
        return free
    taken = [node for node in model.graph.node if node.op_type in (*scheme.weighted, *scheme.joined)]
    touched = {name for node in taken for name in node.input}
    if scheme.quantize_outputs:
        touched.update(written(node, found) for node in taken)
    return [name for name in free if name in touched]
