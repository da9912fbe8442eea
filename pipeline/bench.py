"""Placements of one network as built for a target: built when wanted, timed on the device, each timing only once."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from calibration.graph import digest, load_model
from calibration.measured import Floats
from calibration.placement import Placement, place
from calibration.ranges import Ranges
from calibration.runs import Array, Feeds
from calibration.saving import save_model
from calibration.weights import FILE, Weights
from pipeline import fingerprint
from pipeline.lowering import MODEL, RANGES
from pipeline.measure import measurement, ratio_of
from pipeline.report.schema import Interval
from pipeline.store import Store
from targets.base import Target
from targets.devices.base import Device, Timing
from targets.npz import save


@dataclass(frozen=True)
class Network:
    """A float model with what was calibrated on it."""

    model: ModelProto
    ranges: Ranges
    weights: Weights | None = None
    exclude: Mapping[str, str] = field(default_factory=dict)  # ops in float in any placement -> by whom

    def placed(self, target: Target, floats: Floats) -> Placement:
        """The placement with `floats` in float."""
        out = {**dict.fromkeys(floats, "measured placement"), **self.exclude}
        return place(self.model, self.ranges, target.scheme, weights=self.weights, exclude=out)


@dataclass(frozen=True)
class Spot:
    """Where placements are built and timed, and how."""

    target: Target
    device: Device
    fingerprint: str  # digest of the device's
    timing: Timing


@dataclass(frozen=True)
class Bench:
    """Candidates of `network`; with all ops that int8 would have in float, it is the float model as it is."""

    network: Network
    spot: Spot
    store: Store
    feeds: Path  # .npz, of one call
    folder: Path  # scratch
    every: Floats  # the ops that would be in int8
    identity: str  # hash of the network and of all else that a timing depends on

    def race(self, floats: Floats, against: Floats, repetition: int) -> Interval:
        """The p50 of the first placement over that of the second, timed in fresh processes, interleaved.

        The first time, which only sorts out what is worth a second look, in one set of processes.
        """
        full = self.spot.timing
        timing = replace(full, seed=full.seed + 1000 * repetition, launches=full.launches if repetition else 1)
        parts = {"race of placements": self.identity, "floats": sorted(floats), "against": sorted(against)}

        def work(out: Path) -> None:
            built = {"a": (self.spot.target, self.built(floats)), "b": (self.spot.target, self.built(against))}
            found = self.spot.device.measure(built, self.feeds, timing)
            (out / "timing.json").write_text(json.dumps({name: asdict(m) for name, m in found.items()}))

        path = self.store.make({**parts, "timing": asdict(timing)}, work)[0].path / "timing.json"
        raced = {name: measurement(told) for name, told in json.loads(path.read_text()).items()}
        return ratio_of(raced["a"], raced["b"])

    def value(self, name: str, floats: Floats, ask: Callable[[Path], float]) -> float:
        """What `ask` says of a built placement, asked once; `name` has all that the answer depends on else."""
        parts = {name: self.identity, "floats": sorted(floats)}

        def work(out: Path) -> None:
            (out / "value.json").write_text(json.dumps(ask(self.built(floats))))

        found: float = json.loads((self.store.make(parts, work)[0].path / "value.json").read_text())
        return found

    def built(self, floats: Floats) -> Path:
        """The folder of a placement, built when first asked for."""
        out = self.folder / fingerprint.of_value(sorted(floats))[:16]
        if not out.exists():
            source, beside = out.with_suffix(".onnx"), out.with_suffix(".new")
            beside.mkdir()
            placed = floats < self.every
            save_model(self.network.placed(self.spot.target, floats).model if placed else self.network.model, source)
            self.spot.device.build(self.spot.target, source, beside)
            beside.rename(out)
        return out


@contextmanager
def bench(network: Network, spot: Spot, store: Store, feeds: Feeds) -> Iterator[Bench]:
    """A bench with a scratch folder of its own; every timed call gets `feeds`."""
    every = frozenset(network.placed(spot.target, frozenset()).quantized)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "feeds.npz"
        save(path, feeds)
        identity = fingerprint.of_value(
            {
                "model": digest(network.model),
                "ranges": asdict(network.ranges),
                "weights": _of_weights(network.weights),
                "exclude": sorted(network.exclude),
                "feeds": {name: [str(array.dtype), list(array.shape)] for name, array in feeds.items()},
                "target": {"name": spot.target.name(), "fields": fingerprint.plain(spot.target)},
                "scheme": asdict(spot.target.scheme),
                "device": spot.fingerprint,
                "code": fingerprint.code_behind(_modules(spot)),
            }
        )
        yield Bench(network, spot, store, path, Path(folder), every, identity)


def network_in(folder: Path) -> Network:
    """The network of a calibrated artifact."""
    weights = folder / FILE
    chosen = Weights.load(weights) if weights.is_file() else None
    return Network(load_model(folder / MODEL), Ranges.load(folder / RANGES), chosen)


def _modules(spot: Spot) -> tuple[str, ...]:
    return ("calibration.placement", type(spot.target).__module__, type(spot.device).__module__, "targets.agent")


def _of_weights(weights: Weights | None) -> Any:
    """What identifies them; not the bytes of their file, whose header has no fixed order."""
    if weights is None:
        return None
    tensors = {
        name: [_of_array(weight.scale), weight.axis, None if weight.integers is None else _of_array(weight.integers)]
        for name, weight in weights.tensors.items()
    }
    return {"tensors": tensors, "biases": {name: _of_array(bias) for name, bias in weights.biases.items()}}


def _of_array(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
