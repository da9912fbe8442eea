"""The one timing loop: every latency of every runtime comes from here."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, List, Tuple

import numpy as np

from targets.base import OwnClock

if TYPE_CHECKING:
    from targets.base import Runner, Tensors

# Untimed calls at the head of a block: another process ran meanwhile, and the first ones refill the caches.
SETTLE = 3
WINDOW_CALLS = 10
WINDOW_NS = 10_000_000
TOLERANCE = 0.02


@dataclass(frozen=True)
class WarmUp:
    """What the warm-up saw. `steady` is False where the limit came before the medians settled."""

    samples_ns: Tuple[int, ...]
    steady: bool
    median_ns: int  # of the last window


def block(run: Runner, feeds: Tensors, calls: int, settle: int = SETTLE) -> List[int]:
    """Time `calls` calls in nanoseconds, after `settle` untimed ones.

    The garbage collector is off meanwhile: its pauses belong to this process, not to the model.
    """
    if isinstance(run, OwnClock):
        return run.block(feeds, calls)
    samples = [0] * calls
    clock = perf_counter_ns
    for _ in range(settle):
        run(feeds)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(calls):
            start_ns = clock()
            run(feeds)
            samples[i] = clock() - start_ns
    finally:
        if collecting:
            gc.enable()
    return samples


def warm_up(run: Runner, feeds: Tensors, limit_s: float = 2.0) -> WarmUp:
    """Run until the medians of three successive windows agree within 2%, or for `limit_s` seconds.

    A window is at least 10 calls and 10 ms long, so that a fast model is not judged on timer noise.
    """
    if isinstance(run, OwnClock):  # it warms up before each block
        times_ns = run.block(feeds, WINDOW_CALLS)
        return WarmUp(tuple(times_ns), True, int(np.median(times_ns)))
    deadline_ns = perf_counter_ns() + int(limit_s * 1e9)
    samples: List[int] = []
    medians: List[float] = []
    while True:
        window = _window(run, feeds, deadline_ns)
        samples += window
        medians.append(float(np.median(window)))
        steady = _steady(medians)
        if steady or perf_counter_ns() >= deadline_ns:
            return WarmUp(tuple(samples), steady, int(medians[-1]))


def _window(run: Runner, feeds: Tensors, deadline_ns: int) -> List[int]:
    """Time one window; a slow model's window ends at the deadline, after one call at least."""
    window: List[int] = []
    total_ns = 0
    while len(window) < WINDOW_CALLS or total_ns < WINDOW_NS:
        window += block(run, feeds, 1, settle=0)
        total_ns += window[-1]
        if perf_counter_ns() >= deadline_ns:
            break
    return window


def _steady(medians: List[float]) -> bool:
    last = medians[-3:]
    return len(last) == 3 and max(last) - min(last) <= TOLERANCE * min(last)
