"""Everything of a board's state that moves latencies, read at one moment."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from targets.board import clocks, rails, thermal
from targets.board.files import ROOT, text


@dataclass(frozen=True)
class State:
    """One reading. What a board does not tell is left out: an empty mapping, or None."""

    at_s: float  # the board's monotonic clock
    clocks_mhz: Mapping[str, float]
    limits_mhz: Mapping[str, Tuple[float, float]]  # least and most that each clock may be
    governors: Mapping[str, str]
    temperatures_c: Mapping[str, float]
    trips_c: Mapping[str, float]  # where throttling begins
    throttling: Tuple[str, ...]  # what is being slowed down
    throttle_events: Mapping[str, int]  # since boot
    rails_mw: Mapping[str, float]
    memory_available_bytes: Optional[int]
    swap_used_bytes: Optional[int]
    load: Optional[float]  # processes running or waiting, mean over a minute

    @property
    def hottest(self) -> Optional[Tuple[str, float]]:
        """The warmest sensor and its degrees Celsius."""
        if not self.temperatures_c:
            return None
        return max(self.temperatures_c.items(), key=lambda item: item[1])

    def as_dict(self) -> Dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> State:
        """Read `as_dict` back from JSON."""
        limits = {name: (float(low), float(high)) for name, (low, high) in told["limits_mhz"].items()}
        return cls(**{**told, "limits_mhz": limits, "throttling": tuple(told["throttling"])})


def read(root: Path = ROOT) -> State:
    """Read the state of the board whose file systems lie under `root`."""
    memory = _memory_bytes(root)
    load = (text(root / "proc/loadavg") or "").split(" ", 1)[0]
    swap = memory.get("SwapTotal"), memory.get("SwapFree")
    return State(
        at_s=time.monotonic(),
        clocks_mhz=clocks.clocks_mhz(root),
        limits_mhz=clocks.limits_mhz(root),
        governors=clocks.governors(root),
        temperatures_c=thermal.temperatures_c(root),
        trips_c=thermal.trips_c(root),
        throttling=thermal.throttling(root),
        throttle_events=thermal.throttle_events(root),
        rails_mw=rails.powers_mw(root),
        memory_available_bytes=memory.get("MemAvailable"),
        swap_used_bytes=swap[0] - swap[1] if swap[0] is not None and swap[1] is not None else None,
        load=float(load) if load else None,
    )


def _memory_bytes(root: Path) -> Dict[str, int]:
    found = {}
    for line in (text(root / "proc/meminfo") or "").splitlines():
        name, _, words = line.partition(":")
        found[name] = int(words.split()[0]) * 1024
    return found
