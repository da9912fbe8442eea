"""What the gate and its peers say of recorded trials, and of trials drawn anew from them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.gate_load import CONDITIONS
from benchmarks.gate_models import SLOWDOWNS
from benchmarks.gate_trial import GATE, gate_says, mann_whitney_says, means_say
from pipeline.gate.remeasure import FIRST
from targets.intervals import MEDIAN, log_ratio
from targets.stats import wilson

Rows = Sequence[Mapping[str, Any]]

HEADER = (
    "condition",
    "slower by",
    "trials",
    "gate fails",
    "gate cannot tell",
    "means of 20, 5%",
    "Mann–Whitney, 1%",
    "seconds",
    "true ratio",
)
STRETCH = 2  # successive launches that are drawn together
PIECE = 20  # successive calls of the peers' that are


def cells(rows: Rows) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    """The trials of each condition and slowdown."""
    found = defaultdict(list)
    for row in rows:
        found[row["condition"], row["slowdown"]].append(row)
    return {(c, s): found[c, s] for c in CONDITIONS for s in SLOWDOWNS if found[c, s]}


def table(rows: Rows) -> str:
    """What each way said of the real trials, as Markdown."""
    lines = [_line(HEADER), _line(("---",) * len(HEADER))]
    for (condition, slowdown), of in cells(rows).items():
        said = [gate_says(log_ratios) for log_ratios in log_ratios_of(of)]
        lines.append(
            _line(
                (
                    condition,
                    f"{slowdown}%",
                    str(len(of)),
                    _share([text == "regression" for text in said]),
                    _share([text == "cannot tell" for text in said]),
                    _share([means_say(*row["sequential"]) for row in of]),
                    _share([mann_whitney_says(*row["sequential"]) for row in of]),
                    f"{np.mean([row['took_s'] for row in of]):.1f} (at most {max(row['took_s'] for row in of):.1f})",
                    f"{true_ratio(of):.3f}",
                )
            )
        )
    return "\n".join(lines) + "\n"


def true_ratio(rows: Rows) -> float:
    """The ratio of p50 by all launches of all trials."""
    return float(np.exp(np.median([log for logs in log_ratios_of(rows) for log in logs])))


def log_ratios_of(rows: Rows) -> list[list[float]]:
    """Of each trial, the log ratio of each launch."""
    return [[log_ratio(run, baseline, MEDIAN) for baseline, run in row["launches"]] for row in rows]


def resampled_table(rows: Rows, trials: int) -> str:
    """The same on `trials` trials per cell that are drawn from the recorded launches and calls."""
    header = (*HEADER[:2], "drawn", *HEADER[3:7])
    lines = ["Drawn anew from what was recorded:", "", _line(header), _line(("---",) * len(header))]
    for (condition, slowdown), of in cells(rows).items():
        rng, recorded = np.random.default_rng(0), log_ratios_of(of)
        said = [gate_says_of_drawn(recorded, rng) for _ in range(trials)]
        peers = [_drawn_calls(of[int(rng.integers(len(of)))]["sequential"], rng) for _ in range(trials)]
        shares = (
            _share([text == "regression" for text in said]),
            _share([text == "cannot tell" for text in said]),
            _share([means_say(*calls) for calls in peers]),
            _share([mann_whitney_says(*calls) for calls in peers]),
        )
        lines.append(_line((condition, f"{slowdown}%", str(trials), *shares)))
    return "\n".join(lines) + "\n"


def gate_says_of_drawn(recorded: Sequence[Sequence[float]], rng: np.random.Generator) -> str:
    """Add drawn launches as the gate does: look after each from the fourth on, stop once it is decided.

    Launches are drawn whole. To draw their rounds anew too would add the rounds' noise a second time.
    """
    most = min(GATE.launches, max(map(len, recorded)))
    logs: list[float] = []
    while True:
        launches = recorded[int(rng.integers(len(recorded)))]
        start = int(rng.integers(max(1, len(launches) - STRETCH + 1)))
        for log in launches[start : start + STRETCH]:
            logs.append(log)
            if len(logs) >= min(FIRST, most):
                said = gate_says(logs)
                if said != "cannot tell" or len(logs) >= most:
                    return said


def _drawn_calls(calls: Sequence[Sequence[int]], rng: np.random.Generator) -> list[Any]:
    """A new series of each, from stretches of its own."""
    return [[series[i] for i in _stretches(len(series), PIECE, rng)] for series in calls]


def _stretches(count: int, length: int, rng: np.random.Generator) -> list[int]:
    """Indices of stretches of a series, as many as it is long: the moving blocks bootstrap (Künsch 1989)."""
    length = min(length, count)
    starts = rng.integers(count - length + 1, size=-(-count // length))
    return [int(start) + i for start in starts for i in range(length)][:count]


def _share(found: Sequence[bool]) -> str:
    interval = wilson(sum(found), len(found))
    return f"{100 * interval.value:.1f}% ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(values) + " |"
