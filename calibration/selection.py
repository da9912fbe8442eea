"""Which rule for ranges suits a model: all are tried on what one pass over the data remembered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from calibration import observers
from calibration.observations import Observations
from calibration.ranges import Ranges

AUTO = "auto"
# A network whose outliers carry the answer wants all of them, one whose outliers do not wants none, and no figure
# of the tensors alone tells which: on seven public models each was best on some, by up to 9 dB.
RIVALS = ("minmax", "percentile", "mse")
REMEMBERS = "mse"  # whose histograms are all that the rivals need


@dataclass(frozen=True)
class Selected:
    """The ranges that were best, and what each rule came to: its name -> the judge's figure, greater is better."""

    ranges: Ranges
    tried: Mapping[str, float]


def select(seen: Observations, judge: Callable[[Ranges], float]) -> Selected:
    """Return the ranges, of those that `RIVALS` choose of the same observations, that `judge` gives most for.

    `seen` are those of an observer that remembers histograms. Of equal ones the first is taken.
    """
    chosen = {name: replace(seen, observer=observers.make(name)).ranges() for name in RIVALS}
    tried = {name: judge(ranges) for name, ranges in chosen.items()}
    return Selected(chosen[max(tried, key=lambda name: tried[name])], tried)
