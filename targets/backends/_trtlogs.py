"""What trtexec prints and exports, read back.

Formats as in NVIDIA/TensorRT `samples/common/sampleReporting.cpp` of 8.2 to 10, and in public logs of 8.5, 8.6, 10.3,
10.16 and 11.2 (tests/test_targets_jetson_logs.py).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from targets.base import TargetError

VERSION = re.compile(r"\[TensorRT v([\d.]+)\]")
PASSED = re.compile(r"^&&&& PASSED TensorRT\.trtexec", re.MULTILINE)
ERROR = re.compile(r"^(?:\[[^\]]*\] )?\[E\] (?:\[TRT\] )?(.+)$", re.MULTILINE)
SUMMARY = "=== Performance summary ==="
QPS = re.compile(r"Throughput: ([\d.e+-]+) qps")
FIGURES = re.compile(r"\[I\] ([A-Z][\w -]*?): (min = .+)$", re.MULTILINE)
FIGURE = re.compile(r"(min|max|mean|median|percentile\([\d.]+%\)) = ([\d.e+-]+|inf|nan) ms")
# 8.5 says "Created input binding for x with dimensions 1x3"; 8.6 and later "Input binding for x … is created."
BINDING = re.compile(r"(?:Created )?([Ii]nput|[Oo]utput) binding for (.+?) with dimensions ([\dx]+)")
UNIT = re.compile(r"\[(Dla|Gpu)Layer\] (.+?)\s*$", re.MULTILINE)
CAPABILITY = re.compile(r"Compute Capability: ([\d.]+)")
BARE = re.compile(r'("(?:[^"\\]|\\.)*")|(-?)\b(nan|inf)\b', re.IGNORECASE)  # C++ writes these, JSON has no such words


@dataclass(frozen=True)
class Summary:
    """The performance summary of a run."""

    qps: float
    ms: Mapping[str, Mapping[str, float]]  # "Latency" -> "median", "percentile(99%)" … -> milliseconds


@dataclass(frozen=True)
class LayerTime:
    """A line of the profile."""

    name: str
    median_ms: float  # the mean before 8.4, which has no median


def version(said: str) -> Optional[Tuple[int, int, int]]:
    """Major, minor and patch: "v8602" is 8.6.2, "v100300" is 10.3.0."""
    found = VERSION.search(said)
    if found is None:
        return None
    if "." in found[1]:
        parts = [*(int(part) for part in found[1].split(".") if part), 0, 0]
        return parts[0], parts[1], parts[2]
    number = int(found[1])
    width = 10_000 if number >= 100_000 else 1_000
    return number // width, number // 100 % (width // 100), number % 100


def passed(said: str) -> bool:
    """Whether the run says that it passed."""
    return PASSED.search(said) is not None


def reason(said: str) -> str:
    """The first error in one line; later ones follow from it."""
    found = ERROR.search(said)
    lines = [line for line in said.splitlines() if line.strip()]
    return " ".join((found[1] if found else lines[-1] if lines else "it said nothing").split())[:500]


def summary(said: str) -> Optional[Summary]:
    """The performance summary; None where there is none."""
    _, found, rest = said.partition(SUMMARY)
    qps = QPS.search(rest)
    if not found or qps is None:
        return None
    ms = {name: {key: float(value) for key, value in FIGURE.findall(line)} for name, line in FIGURES.findall(rest)}
    return Summary(float(qps[1]), ms)


def bindings(said: str) -> Tuple[Dict[str, Tuple[int, ...]], Dict[str, Tuple[int, ...]]]:
    """Shapes of the inputs and of the outputs by name, as a run announces them."""
    shapes: Dict[str, Dict[str, Tuple[int, ...]]] = {"input": {}, "output": {}}
    for which, name, dimensions in BINDING.findall(said):
        shapes[which.lower()][name] = tuple(int(size) for size in dimensions.split("x"))
    return shapes["input"], shapes["output"]


def units(said: str) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """The layers that the builder put on the DLA, and those on the GPU."""
    found = UNIT.findall(said)
    return tuple(n for unit, n in found if unit == "Dla"), tuple(n for unit, n in found if unit == "Gpu")


def capability(said: str) -> str:
    """Compute capability of the GPU, e.g. "8.7"; "" where it is not said."""
    found = CAPABILITY.search(said)
    return found[1] if found else ""


def times_ns(path: Path, warmup_ms: float) -> List[int]:
    """Nanoseconds of each inference that began after the warm-up, copies included, from --exportTimes."""
    told = read(path)
    # versions to 8.2 export the warm-up too
    return [round(one["latencyMs"] * 1e6) for one in told if one["startComputeMs"] >= warmup_ms]


def profile(path: Path) -> List[LayerTime]:
    """Time of each layer per inference, in the order they run, from --exportProfile."""
    layers = [one for one in read(path) if "name" in one]
    return [LayerTime(one["name"], float(one.get("medianMs", one["averageMs"]))) for one in layers]


def outputs(path: Path) -> Dict[str, NDArray[np.float32]]:
    """Arrays by name, from --exportOutput."""
    found = {}
    for one in read(path):
        shape = tuple(int(size) for size in one["dimensions"].split("x"))
        found[one["name"]] = np.asarray(one["values"], np.float32).reshape(shape)
    return found


def read(path: Path) -> Any:
    """Read an export: JSON in which C++ may have written nan and inf. Raises TargetError."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(BARE.sub(_word, text))
    except (OSError, ValueError) as error:
        raise TargetError(f"trtexec's {path.name} cannot be read: {error}") from error


def _word(found: re.Match[str]) -> str:
    if found[1]:
        return found[1]
    return "NaN" if found[3].lower() == "nan" else f"{found[2]}Infinity"
