"""Several boards of one kind as one device: they work side by side, and one that dies is replaced by the others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

from targets.base import Target, TargetError
from targets.board.options import UNHELD, Board
from targets.board.seen import Seen
from targets.comparison import shares
from targets.devices.base import (
    SILENT,
    Contestant,
    Device,
    DeviceLostError,
    Fingerprint,
    Measurement,
    Run,
    Tell,
    Timing,
)
from targets.differences import differences

T = TypeVar("T")


class _Crew:
    """Which boards are alive, and how busy each is."""

    def __init__(self, boards: Sequence[Device]) -> None:
        self._busy = dict.fromkeys(range(len(boards)), 0)
        self._lock = threading.Condition()
        self.last: Optional[DeviceLostError] = None

    def take(self, alone: bool) -> Optional[int]:
        """The least busy board, to be given back; `alone`: once one has no other work. None where all are gone."""
        with self._lock:
            while self._busy:
                found = min(self._busy, key=lambda i: self._busy[i])
                if not alone or not self._busy[found]:
                    self._busy[found] += 1
                    return found
                self._lock.wait()
            return None

    def give_back(self, board: int) -> None:
        """Say that a piece of work is over."""
        with self._lock:
            if board in self._busy:
                self._busy[board] -= 1
            self._lock.notify_all()

    def retire(self, board: int, error: DeviceLostError) -> bool:
        """Use a board no more; False where another thread has said so already."""
        with self._lock:
            self.last = error
            self._lock.notify_all()
            return self._busy.pop(board, None) is not None

    def alive(self) -> List[int]:
        """The boards in use."""
        with self._lock:
            return list(self._busy)


@dataclass(frozen=True)
class Pool(Device):
    """Boards whose fingerprints are equal; work goes to whichever is least busy.

    Each set of processes of a comparison runs on one board, so that every ratio is of times from the same board.
    """

    name: str
    members: Tuple[Device, ...]
    tell: Tell = SILENT
    board: Board = UNHELD
    _crew: _Crew = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_crew", _Crew(self.members))

    @property
    def boards(self) -> int:  # type: ignore[override]
        """How many are alive."""
        return max(1, len(self._crew.alive()))

    @classmethod
    def at(cls, where: str, options: Mapping[str, str], name: str = "", tell: Tell = SILENT) -> Pool:
        """Raise TargetError: pools have names."""
        raise TargetError(f"DEVICE={where}: a pool is named in devices.yaml, under pools, and used by that name")

    def on(self, board: Board) -> Pool:
        """Hold every board so."""
        return replace(self, members=tuple(member.on(board) for member in self.members), board=board)

    def fingerprint(self, target: Target) -> Fingerprint:
        """What all boards that answer have in common. Raises TargetError where they differ."""
        found = self._everywhere(lambda board: board.fingerprint(target))
        (first, one), *others = found
        for other, two in others:
            if two.digest != one.digest:
                raise TargetError(
                    f"pool {self.name}: {self.members[first].name} and {self.members[other].name} are not alike:"
                    f" {'; '.join(differences(asdict(one), asdict(two)))}; a pool has boards of one kind"
                )
        return one

    def why_not(self, target: Target) -> Optional[str]:
        """As the first board says: they are alike."""
        return self._on_one(lambda board: board.why_not(target))

    def build(self, target: Target, onnx: Path, out: Path) -> None:
        """Compile on one board."""
        self._on_one(lambda board: board.build(target, onnx, out))

    def infer(self, target: Target, built: Path, feeds: Path, out: Path) -> None:
        """Run samples on the least busy board; several threads keep them all at work."""
        self._on_one(lambda board: board.infer(target, built, feeds, out))

    def opened(self, target: Target, built: Path) -> AbstractContextManager[Run]:
        """Load an artifact on the first board."""
        return self.members[self._crew.alive()[0]].opened(target, built)

    def measure(
        self,
        built: Mapping[str, Contestant],
        feeds: Path,
        timing: Timing,
        on_round: Callable[[], object] = lambda: None,
        on_wait: Callable[[str], object] = lambda _: None,
    ) -> Dict[str, Measurement]:
        """Spread the sets of processes over the boards; what a dying board leaves is done again on another."""
        # Launches are as many as were asked for: that all of them together know too little, no board sees.
        parts = [
            replace(
                share,
                launches=1,
                precision=0.0,
                retries=int(number < timing.retries),
                cold=timing.cold and not number,
            )
            for number, share in enumerate(shares(timing))
        ]
        with ThreadPoolExecutor(self.boards) as threads:
            measured = threads.map(
                lambda part: self._on_one(lambda b: b.measure(built, feeds, part, on_round, on_wait), alone=True), parts
            )
            found = list(measured)
        return {name: joined([part[name] for part in found]) for name in built}

    def _on_one(self, work: Callable[[Device], T], alone: bool = False) -> T:
        """Do a piece of work on a board; on another where that one dies. Raises DeviceLostError where none is left.

        `alone`: on a board that does nothing else meanwhile, as a timing must be.
        """
        while True:
            board = self._crew.take(alone)
            if board is None:
                raise DeviceLostError(f"pool {self.name}: no board is left; the last one: {self._crew.last}")
            try:
                return work(self.members[board])
            except DeviceLostError as error:
                self._retire(board, error)
            finally:
                self._crew.give_back(board)

    def _everywhere(self, work: Callable[[Device], T]) -> List[Tuple[int, T]]:
        def attempt(board: int) -> Optional[Tuple[int, T]]:
            try:
                return board, work(self.members[board])
            except DeviceLostError as error:
                self._retire(board, error)
                return None

        with ThreadPoolExecutor(max(1, len(self.members))) as threads:
            found = [one for one in threads.map(attempt, self._crew.alive()) if one is not None]
        if not found:
            raise DeviceLostError(f"pool {self.name}: no board is left; the last one: {self._crew.last}")
        return found

    def _retire(self, board: int, error: DeviceLostError) -> None:
        if self._crew.retire(board, error):
            left = len(self._crew.alive())
            self.tell.warn(f"pool {self.name}: {self.members[board].name} is retired, {left} left: {error}")


def joined(parts: Sequence[Measurement]) -> Measurement:
    """What several boards measured of one artifact, as one measurement."""
    return replace(
        parts[0],
        blocks_ns=tuple(chain.from_iterable(part.blocks_ns for part in parts)),
        warmup_ns=tuple(chain.from_iterable(part.warmup_ns for part in parts)),
        memory_peak_bytes=max(part.memory_peak_bytes for part in parts),
        rounds=tuple(n for part in parts for n in part.rounds or (len(part.blocks_ns),)),
        walls_ns=tuple(chain.from_iterable(part.walls_ns for part in parts)),
        retried=sum(part.retried for part in parts),
        warnings=tuple(dict.fromkeys(chain.from_iterable(part.warnings for part in parts))),
        board=Seen.joined([part.board for part in parts]),
    )
