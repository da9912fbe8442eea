"""What each layer's int8 costs: noise at the model's outputs when it alone is in int8, or it alone is not."""

import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from onnx import ModelProto

from calibration.kernels import Layer, layers
from calibration.placement import Placement
from calibration.runs import Array, Comparison, Feeds, Fidelity, Run, opened, size
from calibration.scheme import Scheme

SCHEMA = "edgesmith.int8_sensitivity/1"
Mode = Literal["alone", "rest"]
Metric = Callable[[Run], float]


class Placer(Protocol):
    """What places the model with ops left in float: `place` with everything but `exclude` given."""

    def __call__(self, exclude: Collection[str], /) -> Placement:
        """Return the placement without the ops of these names."""


@dataclass(frozen=True)
class LayerCost:
    """What one layer in int8 does to the outputs."""

    layer: Layer
    noise: Mapping[str, float]  # output -> noise power over signal power
    metric: float | None = None

    @property
    def total(self) -> float:
        """Relative noise summed over the outputs; finite."""
        return float(min(sum(self.noise.values()), 1e30))


@dataclass(frozen=True)
class Sensitivity:
    """Every layer's cost, in graph order. Noise that layers add independently adds up in power."""

    mode: Mode  # alone: only the layer is in int8; rest: only the layer is in float
    samples: int
    whole: Mapping[str, float]  # output -> relative noise with all layers in int8
    layers: tuple[LayerCost, ...]
    metric_float: float | None = None
    metric_whole: float | None = None

    def save(self, path: Path) -> None:
        """Write JSON; infinite noise, of an output that is all zeros in float, is null."""
        told = {"schema": SCHEMA, **asdict(self)}
        path.write_text(json.dumps(_finite(told), indent=1, allow_nan=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Question:
    """What to find out, and how: `metric`, larger is better, is asked once per layer beside the noise."""

    mode: Mode = "alone"
    metric: Metric | None = None
    threads: int = 0  # onnxruntime's, 0 for one per core


def sensitivity(
    model: ModelProto,
    scheme: Scheme,
    placer: Placer,
    calls: Iterable[Feeds],
    question: Question = Question(),
    on_step: Callable[[int, int], object] = lambda done, total: None,
) -> Sensitivity:
    """Measure the noise that each layer of the float `model` puts on its outputs, on `calls`.

    Costs one run of the data in float and one for every layer and for the whole in int8, all on onnxruntime
    (`runs.opened`). One model is open at a time; the outputs of the float one wait on disk, and of a call only
    sums are kept, so memory does not grow with the data. `calls` is iterated once per run and must give the
    same each time. `on_step(done, total)` is called after each of the runs.
    """
    whole = placer(())
    parts = layers(model, whole, scheme)
    names = frozenset(op for layer in parts for op in layer.ops)
    total = len(parts) + 2
    with _reference(model, calls, question) as (known, metric_float):
        on_step(1, total)
        noise, metric_whole = _asked(whole.model, known, calls, question)
        on_step(2, total)
        found: list[LayerCost] = []
        for layer in parts:
            left = names - frozenset(layer.ops) if question.mode == "alone" else frozenset(layer.ops)
            cost, metric = _asked(placer(left).model, known, calls, question)
            found.append(LayerCost(layer, cost.noise, metric))
            on_step(len(found) + 2, total)
    return Sensitivity(question.mode, noise.samples, noise.noise, tuple(found), metric_float, metric_whole)


@contextmanager
def _reference(
    model: ModelProto, calls: Iterable[Feeds], question: Question
) -> Iterator[tuple[Sequence[Path], float | None]]:
    """The float model's outputs, a file per call, and its metric."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        with opened(model, question.threads) as run:
            for i, feeds in enumerate(calls):
                files.append(Path(folder) / f"{i}.npz")
                # numbered: an output's name may be no file name
                np.savez(files[-1], *run(feeds).values())
            metric = None if question.metric is None else question.metric(run)
        yield files, metric


def _asked(
    model: ModelProto, known: Sequence[Path], calls: Iterable[Feeds], question: Question
) -> tuple[Fidelity, float | None]:
    found = Comparison()
    with opened(model, question.threads) as run:
        for path, feeds in zip(known, calls, strict=True):
            outputs = run(feeds)
            found.add(_stored(path, list(outputs)), outputs, size(feeds))
        return found.result(), None if question.metric is None else question.metric(run)


def _stored(path: Path, names: Sequence[str]) -> dict[str, Array]:
    with np.load(path) as file:
        return {name: file[f"arr_{i}"] for i, name in enumerate(names)}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
