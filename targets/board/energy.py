"""Energy of a call, where a rail measures power: from a counter, or from power sampled meanwhile.

Taken over calls of their own, which are not timed: what reads a rail meanwhile would disturb their latencies.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from targets.board import rails
from targets.board.files import ROOT

SAMPLE_S = 0.05  # between readings: an INA3221 averages over milliseconds, a reading takes up to one


@dataclass(frozen=True)
class Energy:
    """What `calls` calls took on each rail, idle power of the board included."""

    rails_mj: Mapping[str, float]  # millijoules of all calls together
    calls: int
    duration_s: float
    source: str  # "counter", or "sampled"

    @property
    def rail(self) -> Optional[str]:
        """The rail that holds the others; None where the board has only parts."""
        return rails.total(self.rails_mj)

    def per_call_mj(self) -> Dict[str, float]:
        """Millijoules of one call, by rail."""
        return {name: spent / self.calls for name, spent in self.rails_mj.items()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Energy:
        """Read one back from JSON."""
        return cls(dict(told["rails_mj"]), int(told["calls"]), float(told["duration_s"]), str(told["source"]))


def measure(call: Callable[[], object], least_s: float, root: Path = ROOT) -> Optional[Energy]:
    """Call for at least `least_s` seconds; return what that took, or None where nothing measures power."""
    if rails.counters_uj(root):
        before = rails.counters_uj(root)
        calls, duration_s = _repeat(call, least_s)
        spent = rails.spent_uj(before, rails.counters_uj(root))
        return Energy({name: uj / 1e3 for name, uj in spent.items()}, calls, duration_s, "counter")
    if not rails.powers_mw(root):
        return None
    with _Sampler(root) as sampler:
        calls, duration_s = _repeat(call, least_s)
    return Energy(sampler.spent_mj(duration_s), calls, duration_s, "sampled")


def _repeat(call: Callable[[], object], least_s: float) -> Tuple[int, float]:
    start_s = time.perf_counter()
    calls = 0
    while True:
        call()
        calls += 1
        duration_s = time.perf_counter() - start_s
        if duration_s >= least_s:
            return calls, duration_s


class _Sampler:
    """Reads every rail from a thread until the context closes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._seen: List[Tuple[float, Dict[str, float]]] = []

    def __enter__(self) -> _Sampler:
        self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._read()

    def spent_mj(self, duration_s: float) -> Dict[str, float]:
        """Integrate each rail by trapezoids, and scale to the calls' own duration."""
        times = [at_s for at_s, _ in self._seen]
        spent: Dict[str, float] = dict.fromkeys(self._seen[0][1], 0.0)
        for (start_s, before), (end_s, after) in zip(self._seen, self._seen[1:]):
            for name in spent:
                mean_mw = (before.get(name, 0.0) + after.get(name, 0.0)) / 2
                spent[name] += mean_mw * (end_s - start_s)
        span_s = times[-1] - times[0]
        return {name: mj / span_s * duration_s for name, mj in spent.items()}

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self._read()

    def _read(self) -> None:
        self._seen.append((time.perf_counter(), rails.powers_mw(self._root)))
