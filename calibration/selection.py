"""Which rule for ranges suits a model: all are tried on samples that they were not chosen on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from calibration import observers
from calibration.observations import Observations, merge
from calibration.ranges import Ranges

AUTO = "auto"
# A network whose outliers carry the answer wants all of them, one whose outliers do not wants none, and no figure
# of the tensors alone tells which: of eight public models each was best on some, and the worst was 17 dB behind on one.
RIVALS = ("minmax", "percentile", "mse")
REMEMBERS = "mse"  # whose histograms are all that the rivals need


@dataclass(frozen=True)
class Selected:
    """The ranges that were best, and what each rule came to: its name -> the judge's figure, greater is better."""

    ranges: Ranges
    tried: Mapping[str, float]


def select(seen: Observations, rest: Observations | None, judge: Callable[[Ranges], float]) -> Selected:
    """Return the ranges that the rule suits best, of `RIVALS`, chooses of all that was observed.

    The rules are compared by what `judge` gives for the ranges that they choose of `seen`, so that the samples of
    `rest` are there to judge on: thresholds look better than they are on samples that they were fitted to. Both are
    those of an observer that remembers histograms. Of equal rules the first is taken.
    """
    tried = {name: judge(_by(name, seen)) for name in RIVALS}
    whole = merge([seen, rest]) if rest is not None else seen
    return Selected(_by(max(tried, key=lambda name: tried[name]), whole), tried)


def _by(name: str, seen: Observations) -> Ranges:
    return replace(seen, observer=observers.make(name)).ranges()
