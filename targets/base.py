"""The contract every target fulfils: build an ONNX file, open what was built, run it.

This package also runs on the device itself, on Python 3.8 upwards with numpy and the target's own runtime:
nothing here may import the pipeline, torch, or anything else.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Protocol,
    Tuple,
    runtime_checkable,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from targets.devices.base import Fingerprint

    Tensors = Mapping[str, NDArray[Any]]


class TargetError(Exception):
    """A build or a run that cannot go on for a reason the user can act on, in one line."""


class NoDeviceError(TargetError):
    """What was built cannot run on the machine asked to run it; nothing is wrong with the build."""


@dataclass(frozen=True)
class Int8Scheme:
    """The int8 dialect that a runtime's kernels run fast. Data only: each value states its source where set.

    `weighted` ops get a pair on the data input and one on the weight; `joined` ops (residual adds, concats,
    pools) get one on every input, except that without output pairs a sum keeps the input that is computed
    last in float: runtimes then add it to the accumulator. `quantize_outputs` puts a pair behind
    each quantized op too, for runtimes whose fused kernels write int8; `quantize_bias` stores the bias as
    int32 with scale input * weight. GEMMs with K or N below `min_gemm` stay in float. `reduced_range` is set by
    targets for CPUs whose int8 kernels saturate (`cpuinfo.saturates_int8`).
    """

    activation: str = "uint8"  # "uint8" or "int8"
    symmetric: bool = False  # activations: zero point fixed (0 for int8, 128 for uint8)
    per_channel: bool = True  # weights are always symmetric int8
    weighted: Tuple[str, ...] = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    joined: Tuple[str, ...] = ("Add",)
    quantize_outputs: bool = False
    quantize_bias: bool = False
    min_gemm: int = 1
    reduced_range: bool = False  # weights in -64…64: CPUs that add pairs of products in int16 saturate above
    centred: float = 1.0  # a range no more than so many times longer with its zero point in the middle has it there


@dataclass(frozen=True)
class Kernel:
    """A compute kernel that a runtime runs, with what it says of where it comes from."""

    kind: str  # the runtime's own word, e.g. "Convolution"
    precision: str  # of its data input: "i8", "f32", "bf16" …
    names: Tuple[str, ...]  # of ONNX nodes it computes or tensors it writes, as far as the runtime tells


@dataclass(frozen=True)
class Layer:
    """What one layer of a compiled model took, as the runtime's own profiler tells."""

    name: str  # of the ONNX node, or of what the runtime made of several
    kind: str  # the runtime's own word, e.g. "Convolution"
    kernel: str  # the code that ran it, e.g. "brgemm_avx512_i8"; "" where the runtime does not say
    precision: str  # "i8", "f32" …; "" where the runtime does not say
    time_ns: int  # median over the profiled calls


def precisions(kernels: Iterable[Kernel]) -> Dict[str, int]:
    """Count kernels by precision."""
    return dict(sorted(Counter(kernel.precision for kernel in kernels).items()))


class Runner(Protocol):
    """A loaded model. A call returns when every output is on the host."""

    def __call__(self, feeds: Tensors, /) -> Tensors:
        """Run one batch: input name to array in, output name to array out."""

    @property
    def inputs(self) -> Mapping[str, Tuple[int, ...]]:
        """Input shapes by name; a dynamic dimension reads -1."""

    def kernels(self) -> Tuple[Kernel, ...]:
        """The compute kernels (convolutions, matrix products, recurrent cells), as they run.

        Read from what the runtime compiled, not from what was asked for.
        """

    def precision(self) -> Dict[str, int]:
        """How many of `kernels` run in each precision, e.g. {"i8": 21}."""


@runtime_checkable
class Streaming(Protocol):
    """A runner that can run several calls at once."""

    def stream(self) -> Runner:
        """Another runner of the same loaded model, to call from another thread at the same time."""


@runtime_checkable
class Profiled(Protocol):
    """A runner whose runtime can say what each layer takes."""

    def layers(self, feeds: Tensors, calls: int) -> Tuple[Layer, ...]:
        """Median time of each layer over `calls` calls, in the order they run.

        Measured on a second copy of the model: a profiler slows down what it watches.
        """


@runtime_checkable
class Noted(Protocol):
    """A runner of whose times the report must say something."""

    notes: Tuple[str, ...]


@runtime_checkable
class OwnClock(Protocol):
    """A runner that only its runtime can time: calls from here would time something else, such as a process's start."""

    def block(self, feeds: Tensors, calls: int) -> List[int]:
        """Nanoseconds of each of `calls` calls, warmed up before."""


@dataclass(frozen=True)
class Target(ABC):
    """A compiler and its runtime. Its fields are its whole configuration, given by the recipe.

    The file `targets/backends/NAME.py` holds one subclass; NAME is what users type.
    """

    scheme: ClassVar[Int8Scheme]
    uses: ClassVar[Tuple[str, ...]]  # distributions that build and run it; their versions enter cache keys
    extra: ClassVar[Optional[str]] = None  # the edgesmith extra that installs them
    remote: ClassVar[bool] = False  # built only on a device of its own kind, never on the machine at hand
    align: ClassVar[int] = 1  # channel multiple its kernels like: what a recipe's round_to should be

    @classmethod
    def name(cls) -> str:
        """The name users type: the file's."""
        return cls.__module__.rpartition(".")[2]

    @abstractmethod
    def build(self, onnx: Path, out: Path) -> None:
        """Compile `onnx` into the existing, empty folder `out`. Raises TargetError."""

    @abstractmethod
    def open(self, built: Path) -> AbstractContextManager[Runner]:
        """Load what `build` wrote. Raises NoDeviceError where this machine cannot run it."""

    @abstractmethod
    def shipped(self, built: Path) -> Tuple[Path, ...]:
        """The files of `built` that the device needs to run the model; their bytes are its size."""

    def prepare(self) -> None:  # noqa: B027 - not abstract: a target may have nothing to do
        """Import the runtime, where that takes a while. Starts no threads that compute: no cores are chosen yet."""

    def versions(self) -> Dict[str, str]:
        """Versions of the distributions in `uses`. Raises TargetError naming the extra for a missing one."""
        found = {}
        for name in self.uses:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                needs = f"target {self.name()} needs {name}, which is not installed"
                raise TargetError(f"{needs}: {_install(name, self.extra)}") from None
        return found

    def compiled(self, built: Path) -> Optional[Tuple[Kernel, ...]]:
        """The compute kernels that the compiler wrote down, for where nothing can run; None if it did not."""
        return None

    def runs_here(self) -> Optional[str]:
        """Return None if this machine can run what it builds, else why not, in a few words."""
        return None

    def is_native(self, device: Fingerprint) -> bool:
        """Whether `device` is the kind of machine this target is for; elsewhere latencies are a proxy."""
        return True


def _install(name: str, extra: Optional[str]) -> str:
    """The command that installs a distribution; on a board this package is a zip file and has no extras."""
    if ".pyz" in __file__:
        return f"{sys.executable} -m pip install {name}"
    return f"pip install '.[{extra}]'" if extra else f"pip install {name}"
