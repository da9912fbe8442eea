"""An engine run by trtexec, where the board has no `tensorrt` package: each order is a process of its own.

Times are trtexec's own, one call at a time with copies to and from the GPU. Untested on a board.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from targets.backends import _tensorrt, _trtexec, _trtlogs
from targets.backends._trtexec import Trtexec
from targets.base import Kernel, Layer, TargetError, precisions

if TYPE_CHECKING:
    from targets.base import Tensors

CLOCK = "timed by trtexec's own clock: the copies and the GPU, without a call from Python"
AGREES = 0.02  # of the exported times' median with the printed one: else one of them was misread


class TrtexecRunner:
    """Loads nothing itself: every call starts trtexec, which loads the engine. Seconds, not milliseconds."""

    def __init__(self, tool: Trtexec, built: Path, notes: Sequence[str] = ()) -> None:
        self.notes: Tuple[str, ...] = (CLOCK, *notes)
        self._tool, self._built = tool, built
        self._engine = (built / "model.engine").resolve()
        with tempfile.TemporaryDirectory() as scratch:
            said = _trtexec.run(tool, _trtexec.once_arguments(tool, self._engine), Path(scratch))
        self._inputs, _ = _trtlogs.bindings(said)
        if not self._inputs:
            raise TargetError(f"trtexec {tool.name} names no input of {self._engine}")

    def __call__(self, feeds: Tensors, /) -> Tensors:
        """Run one inference on the arrays as they lie in memory; outputs come back as float32."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            files = []
            for i, name in enumerate(self._inputs):
                np.ascontiguousarray(feeds[name]).tofile(folder / f"{i}.bin")
                files.append(f"{name}:{i}.bin")
            arguments = _trtexec.once_arguments(self._tool, self._engine)
            wanted = [f"--loadInputs={','.join(files)}", "--exportOutput=outputs.json"]
            _trtexec.run(self._tool, [*arguments, *wanted], folder)
            return _trtlogs.outputs(folder / "outputs.json")

    @property
    def inputs(self) -> Mapping[str, Tuple[int, ...]]:
        """Input shapes by name."""
        return self._inputs

    def block(self, feeds: Tensors, calls: int) -> List[int]:
        """Nanoseconds of each of `calls` inferences, by trtexec's own clock, on random input."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            arguments = _trtexec.call_arguments(self._tool, self._engine, calls)
            said = _trtexec.run(self._tool, [*arguments, "--exportTimes=times.json"], folder)
            times_ns = _trtlogs.times_ns(folder / "times.json", _trtexec.WARMUP_MS)
        printed = _trtlogs.summary(said)
        if len(times_ns) < calls or printed is None:
            raise TargetError(f"trtexec {self._tool.name} exported {len(times_ns)} of {calls} times")
        said_ms, found_ms = printed.ms["Latency"]["median"], median(times_ns) / 1e6
        if abs(found_ms - said_ms) > AGREES * said_ms:
            raise TargetError(f"trtexec says a median of {said_ms} ms, its exported times have {found_ms:.4g} ms")
        return times_ns[:calls]

    def layers(self, feeds: Tensors, calls: int) -> Tuple[Layer, ...]:
        """Median time of each layer over `calls` inferences, in the order they run."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            arguments = _trtexec.profile_arguments(self._tool, self._engine, calls)
            _trtexec.run(self._tool, [*arguments, "--exportProfile=profile.json"], folder)
            found = _trtlogs.profile(folder / "profile.json")
        return _tensorrt.timed(self._information(), ((one.name, one.median_ms) for one in found))

    def kernels(self) -> Tuple[Kernel, ...]:
        """Compute layers, as the builder exported them."""
        return _tensorrt.kernels(self._information())

    def precision(self) -> Dict[str, int]:
        """Compute layers by type."""
        return precisions(self.kernels())

    def _information(self) -> Mapping[str, object]:
        told: Mapping[str, object] = json.loads((self._built / "layers.json").read_text())
        return told
