"""What the board's state says against the figures measured meanwhile."""

from __future__ import annotations

from typing import List, Sequence, Tuple

from targets.board.clocks import is_core
from targets.board.state import State

DRIFT = 0.1  # of the fastest core's clock; boost steps of a few percent are ordinary
NEAR_C = 5.0  # below a trip point: the next seconds may throttle
SWAP_GROWTH_BYTES = 1 << 20  # a page or two is the kernel's housekeeping


def doubts(states: Sequence[State]) -> Tuple[str, ...]:
    """Say what went wrong between the first reading and the last; each in one clause, none twice."""
    if len(states) < 2:
        return ()
    found = [*_throttled(states), *_clocks(states), *_hot(states), *_swapped(states)]
    return tuple(dict.fromkeys(found))


def _throttled(states: Sequence[State]) -> List[str]:
    names = sorted({name for state in states for name in state.throttling})
    found = [f"throttled: {', '.join(names)}"] if names else []
    first, last = states[0].throttle_events, states[-1].throttle_events
    for name, count in last.items():
        more = count - first.get(name, count)
        if more > 0:
            found.append(f"throttled: {name} rose by {more}")
    return found


def _clocks(states: Sequence[State]) -> List[str]:
    """Compare the fastest core of each reading, which is the one that worked; and what is under its own minimum."""
    found = []
    tops = [max((v for n, v in s.clocks_mhz.items() if is_core(n)), default=0.0) for s in states]
    if min(tops) > 0 and max(tops) / min(tops) - 1 > DRIFT:
        found.append(f"the clock changed from {tops[0]:.0f} to {_farthest(tops):.0f} MHz")
    for state in states:
        for name, mhz in state.clocks_mhz.items():
            least = state.limits_mhz.get(name, (0.0, 0.0))[0]
            if mhz < least * (1 - DRIFT):
                found.append(f"{name} ran at {mhz:.0f} MHz, below its minimum of {least:.0f}")
    return found


def _farthest(values: Sequence[float]) -> float:
    return max(values, key=lambda value: abs(value - values[0]))


def _hot(states: Sequence[State]) -> List[str]:
    found = []
    for name in states[-1].temperatures_c:
        seen = [s.temperatures_c[name] for s in states if name in s.temperatures_c]
        limit = states[-1].trips_c.get(name)
        if limit is not None and max(seen) >= limit - NEAR_C:
            found.append(f"{name} reached {max(seen):.0f} °C, where throttling begins at {limit:.0f} °C")
    return found


def _swapped(states: Sequence[State]) -> List[str]:
    used = [s.swap_used_bytes for s in states if s.swap_used_bytes is not None]
    if len(used) < 2 or max(used) - used[0] < SWAP_GROWTH_BYTES:
        return []
    return [f"memory was short: {(max(used) - used[0]) / 1e6:.0f} MB went to swap"]
