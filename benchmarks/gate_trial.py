"""One trial: a condition, a true slowdown, what the gate measures, and what its peers would have."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.gate.evidence import of_launches
from pipeline.gate.judge import Timed, judged_latency
from pipeline.gate.remeasure import BASELINE, RUN, Rival, decided, launches
from pipeline.gate.tolerances import Gate
from targets.backends.cpu import Cpu
from targets.devices.base import Timing
from targets.devices.local import Local

GATE = Gate(max_s=13.3, launches=10)  # as `edgesmith check` has it, but for time and launches: about 15 s a trial
SEQUENTIAL = 100  # calls of each, one after the other, for the peers
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Trial:
    """What is tried."""

    condition: str
    slowdown: int  # percent of true extra work
    seed: int

    @property
    def key(self) -> str:
        """How it is known in the results."""
        return f"{self.condition}/{self.slowdown}/{self.seed}"


@contextmanager
def loaded(trial: Trial) -> Iterator[None]:
    """Keep the machine as busy as the condition says."""
    if trial.condition == "quiet":
        yield
        return
    command = [sys.executable, str(Path(__file__).with_name("gate_load.py")), trial.condition, str(trial.seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is None or process.stdout.readline() != b"started\n":
                raise RuntimeError("the load did not start")
            yield
        finally:
            if process.stdin is not None:
                process.stdin.close()


def run(trial: Trial, files: Mapping[str, Path]) -> dict[str, Any]:
    """Carry out a trial; return its line of results. The peers have their turn first in every other trial."""
    start_s = time.monotonic()
    built = {BASELINE: (Cpu(), files["baseline"]), RUN: (Cpu(), files[str(trial.slowdown)])}
    rival = Rival(built, files["feeds"], Local(timeout_s=TIMEOUT_S))
    with loaded(trial):
        if trial.seed % 2:
            one_after_the_other = sequential(trial, files)
            found = launches(rival, GATE)
        else:
            found = launches(rival, GATE)
            one_after_the_other = sequential(trial, files)
    return {
        **vars(trial),
        "launches": [launch.pair for launch in found],
        "decided": decided(found, GATE),
        "sequential": one_after_the_other,
        "took_s": round(time.monotonic() - start_s, 2),
        "realtime": os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
        "load_average": round(float(Path("/proc/loadavg").read_text().split()[0]), 2),
    }


def sequential(trial: Trial, files: Mapping[str, Path]) -> list[list[int]]:
    """All calls of one, then, in another process, all calls of the other: as scripts do it."""
    timing = Timing(
        samples=SEQUENTIAL,
        rounds=1,
        launches=1,
        max_s=2.0,
        seed=trial.seed,
        block_s=0.0,
        precision=0.0,
        retries=0,
        cold=False,
    )
    built = {name: (Cpu(), files[name]) for name in ("baseline", str(trial.slowdown))}
    measured = Local(timeout_s=TIMEOUT_S).measure(built, files["feeds"], timing)
    return [list(measured[name].blocks_ns[0]) for name in built]


def gate_says(log_ratios: Sequence[float]) -> str:
    """The outcome of p50 on the log ratios of launches, as the gate has it."""
    if GATE.p50 is None:
        raise ValueError("the gate judges p50")
    return judged_latency("p50", Timed(1.0, 1.0, of_launches(log_ratios)), GATE.p50).outcome


def means_say(a: Any, b: Any) -> bool:
    """Whether the mean of 20 runs is more than 5% above that of 20 others."""
    return bool(np.mean(b[:20]) > 1.05 * np.mean(a[:20]))


def mann_whitney_says(a: Any, b: Any) -> bool:
    """Whether calls of the second take longer, by the test of Mann and Whitney at 1%, which wants them independent."""
    from scipy.stats import mannwhitneyu

    return bool(mannwhitneyu(b, a, alternative="greater").pvalue < 0.01)
