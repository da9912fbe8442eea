"""The contract of a device: the machine where a target is built and timed."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Protocol, Tuple

from targets.base import Kernel, Layer, Target, TargetError, precisions
from targets.board.options import UNHELD, Board
from targets.board.seen import UNSEEN, Seen
from targets.intervals import cut

if TYPE_CHECKING:
    from targets.base import Tensors


class DeviceLostError(TargetError):
    """A device, or the process for this work on it, is gone: nothing is wrong with the work, another may do it."""


Run = Callable[["Tensors"], "Tensors"]
Contestant = Tuple[Target, Path]  # what was built, and the target that built it


@dataclass(frozen=True)
class Fingerprint:
    """What a latency depends on besides the model. Two runs compare only where their digests are equal."""

    machine: str  # e.g. x86_64
    cpu: str  # model name
    cores: int  # that this process may use
    features: Tuple[str, ...]  # instruction sets that matter for int8 and bf16
    governor: str  # cpufreq governor, "unknown" where the system does not say
    system: str  # kernel and C library
    python: str
    runtime: Mapping[str, str]  # distribution -> version
    accelerator: str = ""  # name of the GPU or of the Jetson module, "" for none
    power_mode: str = ""  # of nvpmodel, "" without
    clocks: Mapping[str, str] = field(default_factory=dict)  # range that each may take: "cpu0-5": "729-1510 MHz"
    emulator: str = ""  # what stands in for the processor: "qemu", "" for none

    @property
    def digest(self) -> str:
        """Sha256 over every field, canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


MODES = ("latency", "throughput")


@dataclass(frozen=True)
class Timing:
    """How to time. One call is one inference of the batch the artifact was built with.

    Defaults: from 8 processes a p50's interval is 1.7 times the standard error between them, which more rounds
    in fewer processes cannot buy; 2000 calls bound a p99 at 95% where up to 3 of them tell as much as one.
    """

    samples: int = 2000  # calls timed per artifact, at least
    rounds: int = 24  # interleaved blocks they are spread over
    launches: int = 8  # sets of fresh processes that the rounds are spread over: their memory lies elsewhere
    max_s: float = 60.0  # time limit of one comparison; fewer samples then, and a warning
    patience: float = 1.0  # times `max_s`, by which calls are planned, that rounds may go on if the machine stalls
    seed: int = 0  # order of artifacts, in starting and within each round
    mode: str = "latency"  # or "throughput": the target's `streams` call at once
    quantile: float = 0.5  # the one that is to be known to `precision`
    precision: float = 0.01  # half its interval, as a share of it: launches are added until it is met; 0: never
    retries: int = 2  # launches that are timed again, in all, where something disturbed them
    layers: bool = False  # take the time of each layer too
    cold: bool = True  # take the times of a cold start, of the first launch; without, runtimes are imported at once
    block_s: float = 0.02  # that a block of a fast model lasts, at least

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise TargetError(f"timing: mode must be {' or '.join(MODES)}, got {self.mode!r}")
        if not 0 < self.quantile < 1:
            raise TargetError(f"timing: quantile must lie between 0 and 1, got {self.quantile}")


@dataclass(frozen=True)
class Measurement:
    """What one artifact did on one device. Raw; every summary is derived from `blocks_ns`."""

    blocks_ns: Tuple[Tuple[int, ...], ...]  # one tuple of call times per round
    warmup_ns: Tuple[int, ...]
    load_s: float
    memory_peak_bytes: int  # peak resident set of the process that ran it
    kernels: Tuple[Kernel, ...]  # as Runner.kernels
    warnings: Tuple[str, ...] = field(default=())
    rounds: Tuple[int, ...] = ()  # of each launch, in order: how `blocks_ns` is cut into processes; () is one
    first_call_s: float = 0.0  # of a cold process, after `load_s`
    walls_ns: Tuple[int, ...] = ()  # of each block, first start to last end
    mode: str = "latency"
    batch: int = 1  # samples of one call
    layers: Tuple[Layer, ...] = ()
    board: Seen = UNSEEN
    retried: int = 0  # launches that were disturbed, and replaced by others

    @property
    def launches_ns(self) -> Tuple[Tuple[Tuple[int, ...], ...], ...]:
        """The blocks of each process."""
        return cut(self.blocks_ns, self.rounds)

    @property
    def compared_ns(self) -> Tuple[Tuple[Tuple[float, ...], ...], ...]:
        """What comparisons go by, cut as `launches_ns`: call times; for throughput, time per call of each block."""
        if self.mode == "latency":
            return self.launches_ns
        per_call = tuple((wall / len(block),) for wall, block in zip(self.walls_ns, self.blocks_ns))
        return cut(per_call, self.rounds)

    @property
    def precision(self) -> Dict[str, int]:
        """How many kernels ran in each precision."""
        return precisions(self.kernels)


def kernel(fields: Mapping[str, Any]) -> Kernel:
    """Read a kernel back from JSON."""
    return Kernel(fields["kind"], fields["precision"], tuple(fields["names"]))


class Bar(Protocol):
    """One running task."""

    def advance(self, steps: int = 1) -> object:
        """Count `steps` as done."""


@dataclass(frozen=True)
class Tell:
    """How a device tells what it does: `bar(label, total)` for what takes time, `warn(line)` for what went wrong."""

    bar: Callable[[str, int], AbstractContextManager[Bar]]
    warn: Callable[[str], object]


class _NoBar:
    def advance(self, steps: int = 1) -> None:
        pass


SILENT = Tell(lambda label, total: nullcontext(_NoBar()), logging.getLogger("edgesmith.devices").warning)


class Agent(Protocol):
    """A process on the device that serves one artifact."""

    def call(self, do: str, timeout_s: float, **arguments: Any) -> Any:
        """Give an order and return what it yields. Raises TargetError."""

    def tell(self, do: str, **arguments: Any) -> None:
        """Give an order and go on; what it yields, or raises, is not asked for. It names no files."""


class Device(ABC):
    """Where a target is built and timed. `targets/devices/NAME.py` holds one subclass.

    NAME is the scheme of its URL, or what users type where it needs none.
    """

    name: str
    boards: int = 1  # machines that work side by side
    board: Board = UNHELD  # how the device is held still meanwhile

    @property
    def where(self) -> str:
        """Its address, for people."""
        return self.name

    @classmethod
    def at(cls, where: str, options: Mapping[str, str], name: str = "", tell: Tell = SILENT) -> Device:
        """Make the device that a URL describes, without reaching it; `options` add to those of the URL.

        `name` is what messages call it, the URL without options by default. Raises TargetError.
        """
        raise TargetError(f"{where}: device {cls.__name__.lower()} takes no address")

    def on(self, board: Board) -> Device:
        """The same device, held as `board` says."""
        return replace(self, board=board)  # type: ignore[type-var]

    def why_not(self, target: Target) -> Optional[str]:
        """Return None if what `target` builds can be run there, else why not, in a few words."""
        return target.runs_here()

    @abstractmethod
    def fingerprint(self, target: Target) -> Fingerprint:
        """Describe this device and the runtime `target` uses on it."""

    @abstractmethod
    def build(self, target: Target, onnx: Path, out: Path) -> None:
        """Compile on the device; the result ends up in the local folder `out`."""

    @abstractmethod
    def infer(self, target: Target, built: Path, feeds: Path, out: Path) -> None:
        """Run every sample of the `.npz` file `feeds` (input name -> `(n, ...)`) through the artifact.

        Writes the outputs, concatenated over samples in order, to the `.npz` file `out`.
        """

    @abstractmethod
    def opened(self, target: Target, built: Path) -> AbstractContextManager[Run]:
        """Load an artifact once, to run batches through it as they come: input name to array in, outputs out."""

    @abstractmethod
    def measure(
        self,
        built: Mapping[str, Contestant],
        feeds: Path,
        timing: Timing,
        on_round: Callable[[], object] = lambda: None,
        on_wait: Callable[[str], object] = lambda _: None,
    ) -> Dict[str, Measurement]:
        """Time artifacts against each other: fresh process each, interleaved blocks in random order.

        Each comes with its target, as the same runtime may be set up differently. `on_round` is called after
        each round, `on_wait` with what it waits for."""
