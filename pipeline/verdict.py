"""Does a stage pay on this device? Judged against what would ship without it."""

from dataclasses import dataclass
from typing import Literal

from pipeline.core import Policy
from pipeline.report.schema import Interval, Proportion, Verdict

ROUNDING = 1e-9  # of a difference of shares, in points


@dataclass(frozen=True)
class Evidence:
    """What is known of a stage's result, beside the artifact that it would replace."""

    previous: str  # the stage whose artifact it would replace
    fallback: str  # the stage whose artifact goes on if this one is rejected
    accuracy: Proportion | None  # on validation: test is reported, never decided on
    previous_accuracy: Proportion | None
    source_accuracy: Proportion | None
    ratio: Interval | None  # p50 over that of `previous`, interleaved
    size: int
    previous_size: int
    not_run: str | None = None  # why there is no ratio


def judge(evidence: Evidence, max_drop: float, policy: Policy) -> Verdict:
    """Return the verdict; `max_drop` in points of the metric, `policy` says which regressions must not ship."""
    reject = policy == "reject"
    if policy == "reject_slower" and evidence.ratio is not None and evidence.ratio.low > 1:
        return _timed(evidence, evidence.ratio, reject=True)
    lost = drop(evidence)
    if lost is not None and lost > max_drop + ROUNDING:
        text = f"validation accuracy −{lost:.2f} points, more than {max_drop:g}"
        return _regression("inaccurate", text, evidence.fallback, reject)
    if evidence.ratio is None:
        return Verdict(kind="unmeasured", text=evidence.not_run or "not measured")
    return _timed(evidence, evidence.ratio, reject)


def _timed(evidence: Evidence, ratio: Interval, reject: bool) -> Verdict:
    """Judge what is accurate enough, or slower than what its recipe lets pass."""
    spread = f"{1 / ratio.high:.2f}–{1 / ratio.low:.2f}×"
    if ratio.low > 1:
        text = f"slower than {evidence.previous}: {spread}"
        return _regression("slower", text, evidence.fallback, reject)
    if ratio.high < 1:
        return Verdict(kind="pays", text=f"{1 / ratio.value:.2f}× faster than {evidence.previous}")
    if gained(evidence):
        return Verdict(kind="pays", text=f"more accurate than {evidence.previous}, as fast ({spread})")
    smaller = evidence.size < 0.99 * evidence.previous_size
    gain = f"{evidence.previous_size / evidence.size:.1f}× smaller, not faster" if smaller else "does not pay"
    return Verdict(kind="same", text=f"{gain} ({spread} of {evidence.previous})")


def drop(evidence: Evidence) -> float | None:
    """Return the validation accuracy lost since the source, in points."""
    if evidence.accuracy is None or evidence.source_accuracy is None:
        return None
    return 100 * (evidence.source_accuracy.value - evidence.accuracy.value)


def gained(evidence: Evidence) -> bool:
    """Whether the validation accuracy rose beyond both intervals."""
    now, before = evidence.accuracy, evidence.previous_accuracy
    return now is not None and before is not None and now.low > before.high


def _regression(kind: Literal["slower", "inaccurate"], text: str, fallback: str, reject: bool) -> Verdict:
    if reject:
        text += f"; rejected, {fallback} goes on"
    return Verdict(kind=kind, text=text, rejected=reject)
