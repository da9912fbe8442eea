"""What may be asked of a board before it is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, Mapping, Union

from targets.base import TargetError

WHEN_HOT = ("warn", "fail")


@dataclass(frozen=True)
class Board:
    """How to hold a board still; the defaults leave it alone but read its state and its energy."""

    power_mode: Union[str, int, None] = None  # of nvpmodel, by name or number: "MAXN", 0
    lock_clocks: bool = False  # jetson_clocks, elsewhere the governor "performance"
    cool_below_c: Union[float, None] = None  # wait until the warmest sensor is below, before each set of processes
    cool_limit_s: float = 300.0  # of one such wait
    when_hot: str = "warn"  # after the limit: go on with a warning, or fail
    energy_s: float = 1.0  # per artifact and set of processes, where a rail measures power; 0: not at all

    def __post_init__(self) -> None:
        if self.when_hot not in WHEN_HOT:
            raise TargetError(f"board: when_hot must be one of {', '.join(WHEN_HOT)}, got {self.when_hot!r}")
        if isinstance(self.power_mode, str) and not self.power_mode.strip():
            raise TargetError("board: power_mode is empty; give a name or a number that nvpmodel knows")
        if self.cool_limit_s < 0 or self.energy_s < 0:
            raise TargetError("board: cool_limit_s and energy_s are seconds, 0 or more")

    @property
    def holds(self) -> bool:
        """Whether something is to be set, and put back afterwards."""
        return self.power_mode is not None or self.lock_clocks

    def held(self) -> Dict[str, Any]:
        """What the keeper is told."""
        return {"power_mode": self.power_mode, "lock_clocks": self.lock_clocks}

    def as_dict(self) -> Dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Board:
        """Read `as_dict` back."""
        return cls(**told)


UNHELD = Board()
