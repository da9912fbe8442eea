"""Which rule for ranges suits a model: all are tried on samples that they were not chosen on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from calibration import observers
from calibration.observations import Observations, merge
from calibration.ranges import Ranges

AUTO = "auto"
# A network whose outliers carry the answer wants all of them, one whose outliers do not wants none, and no figure
# of the tensors alone tells which: of eight public models each was best on some, and the worst was 17 dB behind on one.
RIVALS = ("minmax", "mean_minmax", "percentile", "mse")
REMEMBERS = "mse"  # whose histograms are all that the rivals need


@dataclass(frozen=True)
class Selected:
    """The ranges that were best, and what each rule came to: its name -> the judge's figure, greater is better."""

    ranges: Ranges
    tried: Mapping[str, float]


def select(
    held: Sequence[Observations], rest: Sequence[Observations], judge: Callable[[Sequence[Ranges]], float]
) -> Selected:
    """Return the ranges that the rule suits best, of `RIVALS`, chooses of all that was observed.

    Cross-validation (Stone, "Cross-validatory choice and assessment of statistical predictions", 1974), as
    thresholds look better than they are on samples that they were fitted to: `judge` gets, for each part of
    `held`, the ranges that a rule chooses of all but that part, to judge them on it. It gives one figure for
    all parts together: one of a few dozen samples changes more with the samples than with the rule. Without
    parts to hold out it gets the ranges of everything, once. The observations are disjoint, at least two if any
    is held out, and those of an observer that remembers histograms. Of equal rules the first is taken.
    """
    parts = [*held, *rest]
    # ranges at once, as they are small beside the histograms that they are chosen of
    whole = _rivals(merge(parts))
    folds = [_filled(_rivals(merge([part for part in parts if part is not fold])), whole) for fold in held]
    tried = {name: judge([fold[name] for fold in folds or [whole]]) for name in RIVALS}
    return Selected(whole[max(tried, key=lambda name: tried[name])], tried)


def _filled(fold: Mapping[str, Ranges], whole: Mapping[str, Ranges]) -> dict[str, Ranges]:
    """The fold's ranges, and those of all samples for tensors that were empty in what the fold saw."""
    return {name: replace(found, tensors={**whole[name].tensors, **found.tensors}) for name, found in fold.items()}


def _rivals(seen: Observations) -> dict[str, Ranges]:
    return {name: _by(name, seen) for name in RIVALS}


def _by(name: str, seen: Observations) -> Ranges:
    return replace(seen, observer=observers.make(name)).ranges()
