"""The one timing loop: every latency of every runtime comes from here."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Iterator, List, Sequence, Tuple

import numpy as np

from targets.base import OwnClock
from targets.changes import likeliest

if TYPE_CHECKING:
    from targets.base import Runner, Tensors

# Untimed calls at the head of a block: another process ran meanwhile, and the first ones refill the caches.
SETTLE = 3
WINDOW_NS = 10_000_000  # of warming up: as long as the scheduler's own slices
WINDOWS = 12  # the fewest that the test for a change tells anything of
SURE = 0.05  # probability that a change which is none holds up the warm-up by a window
TOLERANCE = 0.01  # of a window's median: a smaller change is none
FEW, ROUGHLY = 3, 0.02  # windows that must agree, and how well, where the limit came before WINDOWS


@dataclass(frozen=True)
class WarmUp:
    """What the warm-up saw. `steady` is False where the limit came before the latency settled."""

    samples_ns: Tuple[int, ...]
    steady: bool
    median_ns: int  # of the last windows


@dataclass(frozen=True)
class Block:
    """Calls that were timed one by one, and how long all of them took together."""

    samples_ns: List[int]
    wall_ns: int


def block(run: Runner, feeds: Tensors, calls: int, settle: int = SETTLE) -> List[int]:
    """Time `calls` calls in nanoseconds, after `settle` untimed ones.

    The garbage collector is off meanwhile: its pauses belong to this process, not to the model.
    """
    if isinstance(run, OwnClock):
        return run.block(feeds, calls)
    for _ in range(settle):
        run(feeds)
    with _uncollected():
        return _timed(run, feeds, calls)


def together(runs: Sequence[Runner], feeds: Tensors, calls: int, settle: int = SETTLE) -> Block:
    """Call every stream of `runs` `calls` times, each from a thread of its own, all at once.

    The samples are those of the first stream, then of the second, and so on; `wall_ns` runs from the first
    call's start to the last one's end. Raises what the first failing stream raised.
    """
    samples: List[List[int]] = [[] for _ in runs]
    spans: List[Tuple[int, int]] = [(0, 0)] * len(runs)
    failures: List[BaseException] = []
    ready = threading.Barrier(len(runs))

    def work(i: int) -> None:
        try:
            for _ in range(settle):
                runs[i](feeds)
            ready.wait()
            start_ns = perf_counter_ns()
            samples[i] = _timed(runs[i], feeds, calls)
            spans[i] = start_ns, perf_counter_ns()
        except threading.BrokenBarrierError:
            pass  # another stream has failed, and says why
        except BaseException as error:  # raised again below, in the thread that asked
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(runs))]
    with _uncollected():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    wall_ns = max(end for _, end in spans) - min(start for start, _ in spans)
    return Block([ns for stream in samples for ns in stream], wall_ns)


def warm_up(run: Runner, feeds: Tensors, limit_s: float = 2.0) -> WarmUp:
    """Run until a change-point test finds the latency steady, or for `limit_s` seconds.

    The medians of windows of 10 ms, or of one call where that is longer, are steady once the last 12 of them show
    no change of more than 1% that a rank test is sure of (`changes.likeliest`). Start-up is no constant: warm-up
    may go up as well as down, and in steps (Barrett et al., "Virtual Machine Warmup Blows Hot and Cold",
    OOPSLA 2017). Where the limit leaves fewer windows than that, the last three must agree within 2%.
    """
    if isinstance(run, OwnClock):  # it warms up before each block
        times_ns = run.block(feeds, WINDOWS)
        return WarmUp(tuple(times_ns), True, int(np.median(times_ns)))
    deadline_ns = perf_counter_ns() + int(limit_s * 1e9)
    samples: List[int] = []
    medians: List[float] = []
    while True:
        window = _window(run, feeds, deadline_ns)
        samples += window
        medians.append(float(np.median(window)))
        over = perf_counter_ns() >= deadline_ns
        steady = _steady(medians, over)
        if steady or over:
            return WarmUp(tuple(samples), steady, int(np.median(medians[-FEW:])))


def clock_step_ns(readings: int = 2000) -> int:
    """The finest step that the clock was seen to make: what it cannot resolve, no median can."""
    times = np.array([perf_counter_ns() for _ in range(readings)])
    steps = np.diff(times)
    moved = steps[steps > 0]
    return int(moved.min()) if len(moved) else int(max(1, times[-1] - times[0]))


def _timed(run: Runner, feeds: Tensors, calls: int) -> List[int]:
    samples = [0] * calls
    clock = perf_counter_ns
    for i in range(calls):
        start_ns = clock()
        run(feeds)
        samples[i] = clock() - start_ns
    return samples


@contextmanager
def _uncollected() -> Iterator[None]:
    """The garbage collector off, and as it was afterwards."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _window(run: Runner, feeds: Tensors, deadline_ns: int) -> List[int]:
    """Time one window; it ends at the deadline, after one call at least."""
    window: List[int] = []
    total_ns = 0
    while total_ns < WINDOW_NS:
        window += block(run, feeds, 1, settle=0)
        total_ns += window[-1]
        if perf_counter_ns() >= deadline_ns:
            break
    return window


def _steady(medians: Sequence[float], over: bool) -> bool:
    if len(medians) >= WINDOWS:
        change = likeliest(medians[-WINDOWS:])
        return change.p > SURE or abs(change.shift) <= TOLERANCE
    last = medians[-FEW:]
    return over and len(last) == FEW and max(last) - min(last) <= ROUGHLY * min(last)
