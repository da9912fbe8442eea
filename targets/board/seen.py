"""What was seen of the board while artifacts were timed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from targets.board.doubts import doubts
from targets.board.energy import Energy
from targets.board.state import State


@dataclass(frozen=True)
class Seen:
    """Readings in order, two for each set of processes: before and after its rounds."""

    states: Tuple[State, ...] = ()
    energy: Tuple[Energy, ...] = ()  # of one artifact, one for each set of processes; none without a rail
    warnings: Tuple[str, ...] = field(default=())

    def spending(self, energy: Optional[Energy]) -> Seen:
        """The same with an artifact's energy."""
        return replace(self, energy=() if energy is None else (energy,))

    @classmethod
    def around(cls, before: State, after: State, cooled: Optional[str]) -> Seen:
        """What two readings tell; `cooled` is what the wait for a cool board has to say."""
        return cls((before, after), (), (*((cooled,) if cooled else ()), *doubts((before, after))))

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """Several sets of processes as one."""
        warnings: List[str] = [warning for part in parts for warning in part.warnings]
        return cls(
            tuple(state for part in parts for state in part.states),
            tuple(energy for part in parts for energy in part.energy),
            tuple(dict.fromkeys(warnings)),
        )

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Seen:
        """Read one back from JSON."""
        return cls(
            tuple(State.of(state) for state in told["states"]),
            tuple(Energy.of(energy) for energy in told["energy"]),
            tuple(told["warnings"]),
        )


UNSEEN = Seen()
