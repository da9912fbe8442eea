"""trtexec: where it is, which version it is, and the options that make its versions do the same.

What changed between 8.6, 10 and 11 is set here, once, for the agent on the board and for the bundle's build.sh:
NVIDIA's pages "Migrating trtexec Usage" (8.x to 10.x, 10.x to 11.x) and `sampleOptions.cpp`. 11 made CUDA graphs and
spin-wait the default and left the copies out; it knows no precision options, as every network is strongly typed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from targets.backends import _trtlogs
from targets.base import TargetError

VARIABLE = "TRTEXEC"  # names another one than those below
JETPACK = Path("/usr/src/tensorrt/bin/trtexec")
MAJORS = (8, 10, 11)
LIMIT_S = 3600.0  # of one build: tactics are timed, on a slow board for many layers
WARMUP_MS = 500
# Of a model with Q/DQ pairs. 8: weak typing, which refuses them without; of a float model --int8 would quantize it
# with made-up ranges. 10: --int8 would let the builder choose int8 by itself besides.
INT8 = {8: ("--int8",), 10: ("--stronglyTyped",), 11: ()}
FLOAT = {8: (), 10: ("--stronglyTyped",), 11: ()}
# A DLA takes int8 and f16 alone, and no strong typing; what it cannot run goes to the GPU.
DLA = ("--fp16", "--allowGPUFallback")
BUILD_IF_KNOWN = ("--noTF32", "--skipInference")
# One call at a time, copies included, with as little of the host in it as the version can.
CALLS = {8: ("--useCudaGraph", "--useSpinWait"), 10: ("--useCudaGraph", "--useSpinWait"), 11: ()}
CALLS_IF_KNOWN = {8: (), 10: (), 11: ("--includeDataTransfers",)}
PROFILE_IF_KNOWN = {8: (), 10: (), 11: ("--noCudaGraph",)}  # a graph hides its layers


@dataclass(frozen=True)
class Trtexec:
    """A trtexec that was found."""

    path: Path
    version: Tuple[int, int, int]
    usage: str = field(repr=False)  # what --help prints

    @property
    def major(self) -> int:
        """8, 10 or 11."""
        return self.version[0]

    @property
    def name(self) -> str:
        """E.g. "10.3.0"."""
        return ".".join(map(str, self.version))

    def known(self, options: Sequence[str]) -> Tuple[str, ...]:
        """Those of `options` that it has."""
        return tuple(option for option in options if option in self.usage)


@dataclass(frozen=True)
class Build:
    """What to build, from files beside each other."""

    onnx: Path
    engine: Path
    cache: Path
    layers: Path
    dla: Optional[int] = None


def quantized(onnx: Path) -> bool:
    """Whether an ONNX file has Q/DQ pairs. Boards have no onnx package: the operator's name is in the bytes."""
    return b"QuantizeLinear" in onnx.read_bytes()


def precision(major: int, int8: bool, dla: Optional[int]) -> Tuple[str, ...]:
    """The options of the build that say what may run in which precision, and where."""
    if dla is None:
        return (INT8 if int8 else FLOAT)[major]
    return (f"--useDLACore={dla}", *DLA, *(("--int8",) if int8 else ()))


def build_arguments(tool: Trtexec, build: Build, int8: bool) -> List[str]:
    """The arguments that build an engine, of a model with Q/DQ pairs or without.

    Raises TargetError for a DLA that this version does not know.
    """
    if build.dla is not None and not tool.known(("--useDLACore",)):
        raise TargetError(f"target jetson: TensorRT {tool.name} has no DLA; leave dla out")
    return [
        *precision(tool.major, int8, build.dla),
        *tool.known(BUILD_IF_KNOWN),
        f"--onnx={build.onnx}",
        f"--saveEngine={build.engine}",
        f"--timingCacheFile={build.cache}",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={build.layers}",
    ]


def call_arguments(tool: Trtexec, engine: Path, calls: int) -> List[str]:
    """The arguments that time `calls` inferences, at least."""
    return [
        *CALLS[tool.major],
        *tool.known(CALLS_IF_KNOWN[tool.major]),
        f"--loadEngine={engine}",
        f"--warmUp={WARMUP_MS}",
        "--duration=0",
        f"--iterations={calls}",
        "--avgRuns=1",
    ]


def once_arguments(tool: Trtexec, engine: Path) -> List[str]:
    """The arguments that run one inference."""
    copies = tool.known(CALLS_IF_KNOWN[tool.major])
    return [*copies, f"--loadEngine={engine}", "--warmUp=0", "--duration=0", "--iterations=1"]


def profile_arguments(tool: Trtexec, engine: Path, calls: int) -> List[str]:
    """The arguments that profile layers, in a run of their own: it slows every layer."""
    plain = tool.known(PROFILE_IF_KNOWN[tool.major])
    times = [f"--warmUp={WARMUP_MS}", "--duration=0", f"--iterations={calls}"]
    return [*plain, f"--loadEngine={engine}", *times, "--profilingVerbosity=detailed"]


def run(tool: Trtexec, arguments: Sequence[str], cwd: Path) -> str:
    """Run it and return what it said. Raises TargetError with its first error unless it says that it passed."""
    command = [str(tool.path), *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=str(cwd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TargetError(f"trtexec did not end within {LIMIT_S:g} s: {' '.join(command)}") from None
    said = done.stdout.decode(errors="replace")
    if done.returncode != 0 or not _trtlogs.passed(said):
        raise TargetError(f"trtexec {tool.name} failed (exit code {done.returncode}): {_trtlogs.reason(said)}")
    return said


def named() -> str:
    """The trtexec that the environment names; "" for none."""
    return os.environ.get(VARIABLE, "")


def find() -> Optional[Trtexec]:
    """The trtexec of this machine; None without one. Raises TargetError for one that cannot be used."""
    path = named() or shutil.which("trtexec") or str(JETPACK)
    if not Path(path).is_file():
        if named():
            raise TargetError(f"{VARIABLE}={named()}: there is no such file")
        return None
    return _ask(path)


@lru_cache(maxsize=8)
def _ask(path: str) -> Trtexec:
    # its exit code differs between versions
    asked = subprocess.run([path, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    said = asked.stdout.decode(errors="replace")
    found = _trtlogs.version(said)
    if found is None:
        raise TargetError(f"{path} does not say its version: is it NVIDIA's?")
    if found[0] not in MAJORS:
        raise TargetError(f"TensorRT {found[0]} is not supported: have 8.6, 10 and 11")
    return Trtexec(Path(path), found, said)
