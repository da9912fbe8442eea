"""Several devices that train one model: a process for each, which lightning-fabric joins.

Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020.
"""

import logging
import os
import pickle
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import Pipe, resource_tracker, set_forkserver_preload
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from pipeline import references
from pipeline.errors import UserError
from pipeline.progress import SILENT, Progress
from pipeline.training.config import unready
from pipeline.training.relay import Listener, Relay
from pipeline.training.team import Team

Work = Callable[[Team, Progress], object]

_PATIENCE = timedelta(days=7)  # the others wait while the first validates, however long that takes
_LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"


@dataclass(frozen=True)
class _Meeting:
    """Where the processes find each other."""

    kind: str
    count: int
    port: int


@dataclass(frozen=True)
class _Parcel:
    """Work on its way to another process, and the users' files that its classes come from."""

    content: bytes
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Member:
    """The team as lightning-fabric's."""

    fabric: Any

    @property
    def rank(self) -> int:
        return int(self.fabric.global_rank)

    @property
    def size(self) -> int:
        return int(self.fabric.world_size)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.fabric.device
        return device

    def joined(self, loss: nn.Module) -> nn.Module:
        wrapped: nn.Module = self.fabric.setup_module(loss, move_to_device=False)
        return wrapped

    def mean(self, value: Tensor) -> Tensor:
        reduced: Tensor = self.fabric.all_reduce(value, reduce_op="mean")
        return reduced


def together(work: Work, count: int, kind: str, progress: Progress = SILENT) -> None:
    """Call `work` in `count` new processes, a team with one device each, of a kind: "cpu" or "cuda".

    Every process gets a copy of `work` and what it holds, through a pipe; what it changes there stays there. The
    first one's bars are shown on `progress`. However this ends, Ctrl-C included, no process is left. Raises UserError
    where lightning-fabric is not installed, where `work` cannot be copied, for a UserError in any of the processes, and
    if one of them is killed.
    """
    if lacking := unready(count):
        raise UserError(lacking)
    parcel = _Parcel(_packed(work, count), references.imported_files())
    ends = [Pipe(duplex=False) for _ in range(count)]
    readers, writers = [reader for reader, _ in ends], [writer for _, writer in ends]
    processes: list[Any] = []
    try:
        with _uninterrupted(), _starting():
            place = _Meeting(kind, count, _free_port())
            context = start_processes(  # type: ignore[no-untyped-call]
                _attend, (place, parcel, writers), count, join=False, start_method="forkserver"
            )
            processes += context.processes
        with Listener(progress, readers) as listener:
            _watch(context, listener, count)
    finally:
        for process in processes:
            process.kill()
            process.join()
        for end in (*readers, *writers):
            end.close()


def _watch(context: ProcessContext, listener: Listener, count: int) -> None:
    """Show what the processes tell until all have ended well."""
    ended = False
    while not ended:
        wait([*listener.connections, *context.sentinels])
        listener.catch_up()
        try:
            ended = bool(context.join(timeout=0))
        except (ProcessRaisedException, ProcessExitedException) as error:
            listener.catch_up()  # what ended the first of them is the reason; the others miss it
            if isinstance(error, ProcessExitedException) and error.signal_name:
                raise UserError(
                    f"training on {count} devices: {error}; where memory ran out, lower batch_size or devices"
                ) from error
            raise
    listener.catch_up()


def _packed(work: Work, count: int) -> bytes:
    """Return `work` as bytes: as arguments of a process its tensors would be shared, and written to by all."""
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
        raise _not_copied(error, f"devices: {count} cannot") from error


def _unpacked(parcel: _Parcel) -> Work:
    for path in parcel.files:
        references.import_file(path)
    try:
        work: Work = pickle.loads(parcel.content)  # noqa: S301 - bytes of the process that started this one
    except (AttributeError, ImportError) as error:
        raise _not_copied(error, "devices: a new process cannot") from error
    return work


def _not_copied(error: Exception, who: str) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(
        f"{who} copy the model, the data and its augmentation to a process per device ({reason}); define their "
        "classes and functions at the top level of a module, or set devices: 1"
    )


def _attend(rank: int, meeting: _Meeting, parcel: _Parcel, writers: list[Connection]) -> None:
    """Be one of the processes."""
    # From here on Ctrl-C, which a terminal sends to all, and the end of the parent end it without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    warnings.filterwarnings("ignore", r".isinstance\(treespec, LeafSpec\)", FutureWarning)  # torch's, of its own graphs
    relay = Relay(writers[rank])
    try:
        work = _unpacked(parcel)
        with _met(meeting, rank) as team:
            work(team, SILENT if rank else relay)
    except UserError as error:
        relay.failed(error)


@contextmanager
def _met(meeting: _Meeting, rank: int) -> Iterator[Team]:
    """Join the others."""
    # What lightning-fabric reads; set by another launcher, they would be about other processes.
    place = {"LOCAL_RANK": rank, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meeting.port}
    os.environ.update({name: str(value) for name, value in place.items()})
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy = DDPStrategy(find_unused_parameters=True, timeout=_PATIENCE)
    fabric = Fabric(
        accelerator=meeting.kind, devices=meeting.count, strategy=strategy, plugins=[LightningEnvironment()]
    )
    fabric.launch()
    yield _Member(fabric)
    torch.distributed.destroy_process_group()


@contextmanager
def _starting() -> Iterator[None]:
    """Set what processes take over that are started meanwhile."""
    set_forkserver_preload(["lightning_fabric", __name__])  # imported once for all processes, and for those of later
    resource_tracker.ensure_running()  # its start would change the mask
    before, level = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}), os.environ.get(_LOG_LEVEL)
    # DDP warns of every network that uses all of its parameters; which one does is not known before.
    os.environ.setdefault(_LOG_LEVEL, "ERROR")
    try:
        yield
    finally:
        if level is None:
            del os.environ[_LOG_LEVEL]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back: other threads would receive it although this one masks it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
