"""How accurate a quantized model is: run on the target, judged by a metric of the user or against the float one."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from onnx import ModelProto

from calibration.runs import Array, Comparison, Feeds, Fidelity, Run, compare, decibels, opened
from calibration.saving import save_model
from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.feeding import Calls, Input
from pipeline.references import resolve
from pipeline.report.quantized import EXACT_DB
from targets.base import Target

AGREEMENT = "agreement"
Metric = Callable[[Run], float]


@dataclass(frozen=True)
class Floor:
    """What the int8 model must reach: `least` of `metric`, or of the SQNR in dB where there is no metric."""

    name: str
    metric: Metric
    float_value: float
    least: float | None


def metric_of(ref: str, calls: Calls, reference: Run) -> Metric:
    """The metric that a user named: `agreement`, or a callable `FILE.py:NAME` that takes `run`. Raises UserError."""
    if ref == AGREEMENT:
        return lambda run: _agreement(run, reference, calls)
    found = resolve(ref, Path())
    if not callable(found):
        raise UserError(f"--metric {ref}: {type(found).__name__}, not a callable metric(run) -> float")

    def metric(run: Run) -> float:
        value = found(run)
        if not isinstance(value, float | int | np.floating | np.integer) or not isfinite(value):
            raise UserError(f"--metric {ref}: returned {value!r}; return a finite number, larger is better")
        return float(value)

    return metric


def _agreement(run: Run, reference: Run, calls: Calls) -> float:
    """Percent of samples whose highest class is that of the float model, of the output that agrees least."""
    shares = compare(reference, run, calls).agreement
    if not shares:
        raise UserError("--metric agreement: no output has class scores (N, C); give a metric of your own")
    return 100 * min(shares.values())


def sqnr_of(calls: Calls, reference: Run) -> Metric:
    """SQNR in dB of the output that lost most."""
    return lambda run: _worst_db(compare(reference, run, calls))


def sqnr_over(judged: Iterable[tuple[ModelProto, Calls]], reference: Run) -> float:
    """The same over all calls of several models, each run on its own: noise adds up in power, and so do signals."""
    found = Comparison()
    for model, calls in judged:
        with opened(model) as run:
            found.run(reference, run, calls)
    return _worst_db(found.result())


def _worst_db(found: Fidelity) -> float:
    return min(decibels(found.worst), EXACT_DB)


@contextmanager
def running(model: ModelProto | Path, inputs: tuple[Input, ...], target: Target, place: Place | None) -> Iterator[Run]:
    """Run a model as the target does, where it can run here, else as its arithmetic says, on onnxruntime.

    The callable takes any number of samples, whatever batch the model was exported with.
    """
    if place is None or place.why_not:
        with opened(model) as run:
            yield any_batch(run, inputs)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = model if isinstance(model, Path) else Path(folder) / "model.onnx"
        if isinstance(model, ModelProto):
            save_model(model, path)
        built = Path(folder) / "built"
        built.mkdir()
        place.device.build(target, path, built)
        with place.device.opened(target, built) as runner:
            yield any_batch(runner, inputs)


def any_batch(run: Run, inputs: tuple[Input, ...]) -> Run:
    """Cut calls into batches of the size that the model takes; the last one is filled up."""
    batches = {value.shape[0] for value in inputs if value.shape and value.shape[0] >= 0}
    if len(batches) != 1:
        return run
    (batch,) = batches
    if not batch:
        return run

    def cut(feeds: Feeds) -> dict[str, Array]:
        count = next((len(array) for array in feeds.values() if array.ndim), batch)
        if count == batch:
            return dict(run(feeds))
        parts = []
        for start in range(0, count, batch):
            index = np.minimum(np.arange(start, start + batch), count - 1)
            parts.append(run({name: array[index] if array.ndim else array for name, array in feeds.items()}))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    return cut
