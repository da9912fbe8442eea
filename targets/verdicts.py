"""A plain answer to "is A slower than B?", from interleaved rounds; and what could have been found at all."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, log1p
from typing import TYPE_CHECKING, Sequence

import numpy as np

from targets.distributions import student_quantile
from targets.intervals import Launch, half_width, log_ratios, standard_error
from targets.stats import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

FASTER, SLOWER, SAME, UNCLEAR = "faster", "slower", "same", "unclear"
MOST_ROUNDS = 1_000_000


@dataclass(frozen=True)
class Verdict:
    """How A compares with B at one quantile. Shares are fractions: 0.01 is 1%."""

    kind: str  # FASTER, SLOWER, SAME or UNCLEAR
    q: float
    ratio: Interval  # A over B
    within: float  # the difference that does not matter
    detectable: float  # the least slowdown that these rounds find with 80% probability, as a fraction
    units: int  # processes, or stretches of rounds, that the interval rests on
    more_rounds: int  # about how many more rounds would tell; 0 where it is told

    @property
    def text(self) -> str:
        """The verdict in words, for people."""
        low, high = self.ratio.low - 1, self.ratio.high - 1
        if self.kind == SAME:
            return f"same within {_percent(self.within)}"
        if self.kind == UNCLEAR:
            return f"cannot tell ({_signed(low)} to {_signed(high)}): needs about {self.more_rounds} more rounds"
        return f"{self.kind} by {_span(low, high)}"


def judge(
    a: Sequence[Launch], b: Sequence[Launch], q: float = 0.5, within: float = 0.01, level: float = 0.95
) -> Verdict:
    """Judge A against B at the q-quantile.

    "same": the whole interval lies within `within` of 1 (an equivalence test). Else "slower" or "faster" where
    the interval does not hold 1, and "unclear" where it does. Raises ValueError as `intervals.ratio` does.
    """
    if within < 0:
        raise ValueError(f"a tolerance is 0 or more, got {within}")
    logs = log_ratios(a, b, q)
    middle, half = float(logs.mean()), half_width(logs, level)
    found = Interval(exp(middle), exp(middle - half), exp(middle + half), level)
    kind = _kind(middle, half, within)
    more = 0
    if kind == UNCLEAR:
        # Whichever comes first: the interval leaves 1, or shrinks into the tolerance.
        wanted = max(abs(middle), log1p(within) - abs(middle))
        more = _more_rounds(logs, wanted, sum(map(len, a)), level)
    return Verdict(kind, q, found, within, detectable(logs, level), len(logs), more)


def detectable(logs: NDArray[np.float64], level: float = 0.95, power: float = 0.8) -> float:
    """The least true slowdown that such units find with probability `power`, as a fraction of the time.

    The interval's lower end, at `level`, then lies above 1 that often.
    """
    df = len(logs) - 1
    reach = student_quantile((1 + level) / 2, df) + student_quantile(power, df)
    return exp(reach * standard_error(logs)) - 1


def _kind(middle: float, half: float, within: float) -> str:
    if max(abs(middle - half), abs(middle + half)) <= log1p(within):
        return SAME
    if middle - half > 0:
        return SLOWER
    return FASTER if middle + half < 0 else UNCLEAR


def _more_rounds(logs: NDArray[np.float64], wanted: float, rounds: int, level: float) -> int:
    """Rounds to add until the interval's half width, in logarithms, is `wanted`; 0 if it is by now."""
    spread, units = float(logs.std(ddof=1)), len(logs)
    p = (1 + level) / 2
    if wanted <= 0:
        return MOST_ROUNDS
    if student_quantile(p, units - 1) * spread / units**0.5 <= wanted:
        return 0
    needed = units
    for _ in range(8):  # Student's t falls as the units grow: it settles within a few steps
        needed = max(units, ceil(min(1e9, (student_quantile(p, min(needed, 1000) - 1) * spread / wanted) ** 2)))
    return min(MOST_ROUNDS, max(1, ceil(rounds * (needed / units - 1))))


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}%"


def _span(low: float, high: float) -> str:
    small, large = sorted((abs(low), abs(high)))
    return f"{100 * small:.1f} to {100 * large:.1f}%"
