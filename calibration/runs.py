"""Running a model on data with onnxruntime, and how far two models' outputs are apart. Streaming: sums only."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.running import usable_cores
from calibration.saving import openable

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], Mapping[str, Array]]


@contextmanager
def opened(model: ModelProto | Path, threads: int = 0) -> Iterator[Run]:
    """Open a model on onnxruntime's CPU provider; yields a callable from inputs to outputs by name.

    Q/DQ pairs are computed as written, in float around integer rounding, and not by int8 kernels: the result
    is what the arithmetic gives, on any CPU (without VNNI, x86 kernels saturate). `threads` is onnxruntime's,
    0 for one per core.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    with openable(model) as source:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    yield lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


@dataclass(frozen=True)
class Fidelity:
    """How close one model's outputs are to another's, over all samples that were compared."""

    noise: Mapping[str, float]  # output -> power of the difference over the power of the reference; 0 is exact
    agreement: Mapping[str, float]  # class scores `(N, C)`, C > 1 -> share of samples with the same highest one
    samples: int

    @property
    def worst(self) -> float:
        """The relative noise of the output that lost most."""
        return max(self.noise.values(), default=0.0)

    def sqnr_db(self) -> dict[str, float]:
        """Signal to quantization noise ratio per output in dB; infinite where it is exact."""
        return {name: decibels(noise) for name, noise in self.noise.items()}


class Comparison:
    """Adds up what `Fidelity` is made of. Outputs that are not of a float type count by what they are worth."""

    def __init__(self) -> None:
        self._signal: dict[str, float] = {}
        self._error: dict[str, float] = {}
        self._same: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._samples = 0

    def add(self, reference: Mapping[str, Array], other: Mapping[str, Array], samples: int) -> None:
        """Take in the outputs of one call of both models."""
        self._samples += samples
        for name, wanted in reference.items():
            exact = np.asarray(wanted, np.float64)
            given = np.asarray(other[name], np.float64)
            # an output may have another shape each time, as detections do: then nothing of it is right
            error = exact - given if exact.shape == given.shape else exact
            self._signal[name] = self._signal.get(name, 0.0) + float(np.vdot(exact, exact))
            self._error[name] = self._error.get(name, 0.0) + float(np.vdot(error, error))
            if exact.ndim == 2 and exact.shape[1] > 1 and exact.shape == given.shape:
                same = int((exact.argmax(1) == given.argmax(1)).sum())
                self._same[name] = self._same.get(name, 0) + same
                self._rows[name] = self._rows.get(name, 0) + len(exact)

    def run(
        self, reference: Run, other: Run, calls: Iterable[Feeds], on_call: Callable[[], object] = lambda: None
    ) -> None:
        """Run both models on every call of `calls`, and take in what they give; `on_call` is called after each."""
        for feeds in calls:
            self.add(reference(feeds), other(feeds), size(feeds))
            on_call()

    def result(self) -> Fidelity:
        """Return what all calls so far add up to."""
        noise = {name: _share(error, self._signal[name]) for name, error in self._error.items()}
        agreement = {name: same / self._rows[name] for name, same in self._same.items() if self._rows[name]}
        return Fidelity(noise, agreement, self._samples)


def compare(
    reference: Run, other: Run, calls: Iterable[Feeds], on_call: Callable[[], object] = lambda: None
) -> Fidelity:
    """Run both models on every call of `calls`; `on_call` is called after each."""
    found = Comparison()
    found.run(reference, other, calls, on_call)
    return found.result()


def size(feeds: Feeds) -> int:
    """Return the number of samples in a call: the length of its first input that has a dimension."""
    return next((len(array) for array in feeds.values() if array.ndim), 1)


def decibels(noise: float) -> float:
    """Return the SQNR of a relative noise power, in dB."""
    return math.inf if noise == 0 else -10 * math.log10(noise)


def _share(error: float, signal: float) -> float:
    if signal:
        return error / signal
    return math.inf if error else 0.0
