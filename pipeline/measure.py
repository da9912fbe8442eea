"""Measuring what a stage would ship: built for the target, run over the test set, timed on the device."""

import json
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import fingerprint
from pipeline.data.base import Split
from pipeline.exporting import INPUT
from pipeline.lowering import LOWERED, lower
from pipeline.progress import Progress
from pipeline.references import DataSpec
from pipeline.report.schema import Interval
from pipeline.store import Artifact, Store
from pipeline.tasks.base import Task
from targets import intervals
from targets.base import Layer, Target
from targets.board.seen import Seen
from targets.devices.base import Device, Fingerprint, Measurement, Timing, kernel
from targets.npz import save

CHUNK_BYTES = 256_000_000  # of inputs handed to the device at once: bounds memory on both sides
FEEDS = 64  # samples handed to timing; it takes the batch it needs


@dataclass(frozen=True)
class Meter:
    """Builds and measures artifacts for one target on one device, each only once per content."""

    store: Store
    target: Target
    device: Device
    data: DataSpec
    task: Task
    timing: Timing
    progress: Progress
    why_not: str | None  # why nothing can run here, or None
    fingerprint: Fingerprint
    _code: dict[str, str] = field(default_factory=dict, repr=False)

    def in_float32(self) -> "Meter":
        """The same, with the precision of what is not quantized pinned to true float32."""
        return replace(self, target=in_float32(self.target))

    def lower(
        self, model: Path, ranges: Path | None, weights: Path | None = None, exclude: Mapping[str, str] | None = None
    ) -> Path:
        """The ONNX file that would ship, as a stored artifact, with what became of each op beside it."""
        parts = {
            "lower": fingerprint.of_file(model),
            "ranges": fingerprint.of_file(ranges) if ranges else None,
            "weights": fingerprint.of_file(weights) if weights else None,
            "scheme": asdict(self.target.scheme),
            "exclude": dict(exclude or {}),
            "code": self._code_behind("pipeline.lowering"),
        }

        def work(out: Path) -> None:
            lowered = lower(model, ranges, self.target.scheme, out / "model.onnx", weights, exclude or {})
            lowered.save(out / LOWERED)

        return self.store.make(parts, work)[0].path / "model.onnx"

    def build(self, model: Path) -> Artifact:
        """Compile an ONNX file for the target."""
        parts = {"build": fingerprint.of_file(model), **self._place()}
        return self.store.make(parts, lambda out: self.device.build(self.target, model, out))[0]

    def size(self, built: Path) -> int:
        """Bytes of the files that the device needs."""
        return sum(path.stat().st_size for path in self.target.shipped(built))

    def digest(self, built: Path) -> str:
        """Hash of the files that the device needs: equal ones need no second measurement."""
        files = {path.name: fingerprint.of_file(path) for path in self.target.shipped(built)}
        return fingerprint.of_value({"target": fingerprint.plain(self.target), "files": files})

    def metrics(self, built: Path, split: str) -> dict[str, dict[str, float]]:
        """The task's metrics over a whole split, run through the artifact on the device."""
        parts = {
            "metrics": self.digest(built),
            "split": split,
            "data": self.data.version,
            "task": fingerprint.plain(self.task),
            "task code": self._code_behind(type(self.task).__module__),
            **self._place(),
        }

        def work(out: Path) -> None:
            found = self._infer(built, self.data.load().splits[split], split)
            (out / "metrics.json").write_text(json.dumps(found))

        loaded: dict[str, dict[str, float]] = self._json(parts, work, "metrics.json")
        return loaded

    def race(self, contestants: Mapping[str, tuple[Target, Path]]) -> dict[str, Measurement]:
        """Time artifacts against each other, interleaved."""
        parts = {
            "race": {name: self.digest(path) for name, (_, path) in contestants.items()},
            "targets": {name: fingerprint.plain(target) for name, (target, _) in contestants.items()},
            "timing": asdict(self.timing),
            "board": self.device.board.as_dict(),
            "data": self.data.version,
            **self._place(),
        }

        def work(out: Path) -> None:
            with tempfile.TemporaryDirectory() as folder:
                feeds = Path(folder) / "feeds.npz"
                save(feeds, {INPUT: self.data.load().test[:FEEDS][0]})
                label = f"time {' / '.join(contestants)}"
                with self.progress.bar(label, self.timing.rounds) as bar:
                    wait = partial(bar.advance, 0)
                    result = self.device.measure(contestants, feeds, self.timing, bar.advance, wait)
            (out / "timing.json").write_text(json.dumps({n: asdict(m) for n, m in result.items()}))

        loaded = self._json(parts, work, "timing.json")
        return {name: measurement(fields) for name, fields in loaded.items()}

    def _infer(self, built: Path, split: Split, name: str) -> dict[str, dict[str, float]]:
        """Run a split through the artifact, in as many processes as the device has cores for."""

        def run(index: slice) -> tuple[NDArray[Any], NDArray[np.int64]]:
            x, y = split[index]
            with tempfile.TemporaryDirectory() as folder:
                feeds, results = Path(folder) / "feeds.npz", Path(folder) / "outputs.npz"
                save(feeds, {INPUT: x})
                self.device.infer(self.target, built, feeds, results)
                with np.load(results, allow_pickle=False) as loaded:
                    return next(iter(loaded.values())), y

        workers = self.device.boards * max(1, self.fingerprint.cores // getattr(self.target, "threads", 1))
        fits = max(1, CHUNK_BYTES // (workers * split[:1][0].nbytes))
        step = min(fits, ceil(len(split) / workers))
        outputs, labels = [], []
        with self.progress.bar(f"{name} accuracy", len(split)) as bar, ThreadPoolExecutor(workers) as pool:
            for output, y in pool.map(run, (slice(i, i + step) for i in range(0, len(split), step))):
                outputs.append(output)
                labels.append(y)
                bar.advance(len(y))
        return self.task.metrics(np.concatenate(outputs), np.concatenate(labels))

    def _place(self) -> dict[str, Any]:
        return {
            "target": {"name": self.target.name(), "fields": fingerprint.plain(self.target)},
            "versions": dict(self.fingerprint.runtime),
            "device": self.fingerprint.digest,
            "code": self._code_behind(type(self.target).__module__, type(self.device).__module__, "targets.agent"),
        }

    def _code_behind(self, *modules: str) -> dict[str, str]:
        key = " ".join(modules)
        if key not in self._code:
            self._code[key] = fingerprint.of_value(fingerprint.code_behind(modules))
        return {key: self._code[key]}

    def _json(self, parts: Mapping[str, Any], work: Callable[[Path], None], name: str) -> Any:
        return json.loads((self.store.make(parts, work)[0].path / name).read_text())


def measurement(fields: Mapping[str, Any]) -> Measurement:
    """Read a measurement back from JSON."""
    lists = {
        "blocks_ns": tuple(tuple(block) for block in fields["blocks_ns"]),
        "warmup_ns": tuple(fields["warmup_ns"]),
        "kernels": tuple(kernel(told) for told in fields["kernels"]),
        "warnings": tuple(fields["warnings"]),
        "rounds": tuple(fields["rounds"]),
        "walls_ns": tuple(fields["walls_ns"]),
        "layers": tuple(Layer(**layer) for layer in fields["layers"]),
        "board": Seen.of(fields["board"]),
    }
    return Measurement(**{**fields, **lists})


def in_float32(target: Target) -> Target:
    """Return the same target with true float32, where it could run something less."""
    return replace(target, precision="f32") if hasattr(target, "precision") else target  # type: ignore[call-arg]


def ratio_of(a: Measurement, b: Measurement) -> Interval:
    """The p50 of `a` over that of `b`, which were timed interleaved; for throughput, the time per call."""
    return Interval(**asdict(intervals.ratio(a.compared_ns, b.compared_ns)))
