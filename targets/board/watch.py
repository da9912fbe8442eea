"""The orders about the board that a race gives: cool down, look, take the energy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Callable, Mapping, Optional

from targets.board import cooling
from targets.board.energy import Energy
from targets.board.options import Board
from targets.board.seen import Seen
from targets.board.state import State

if TYPE_CHECKING:
    from targets.devices.base import Agent


class Watch:
    """Looks at the board before and after the rounds of one set of processes."""

    def __init__(self, agents: Mapping[str, Agent], board: Board, timeout_s: float) -> None:
        self._agents, self._board, self._timeout_s = agents, board, timeout_s
        self._cooled: Optional[str] = None
        self._before: Optional[State] = None
        self._rails = board.energy_s > 0

    def cool(self, tell: Callable[[str], object]) -> None:
        """Wait for the board to cool, where that is asked for. Raises TargetError."""
        self._cooled = cooling.wait(self._board, self._look, tell)

    def begin(self) -> None:
        """Look just before the first timed call, when clocks have risen."""
        self._before = self._look()

    def end(self) -> Seen:
        """Look just after the last one."""
        after = self._look()
        return Seen.around(self._before or after, after, self._cooled)

    def of(self, name: str, seen: Seen) -> Seen:
        """What was seen, with the energy of one artifact and what its times need said of them."""
        notes = self._agents[name].call("notes", self._timeout_s)
        return replace(seen.spending(self._energy(name)), warnings=(*seen.warnings, *notes))

    def _energy(self, name: str) -> Optional[Energy]:
        """What calls of one artifact take; None where nothing measures power, which is asked only once."""
        if not self._rails:
            return None
        told = self._agents[name].call("energy", self._timeout_s, least_s=self._board.energy_s)
        self._rails = told is not None
        return Energy.of(told) if told is not None else None

    def _look(self) -> State:
        """Ask all of them, so that none is unlike the others; the last one's answer is the board's."""
        *_, told = [agent.call("state", self._timeout_s) for agent in self._agents.values()]
        return State.of(told)
