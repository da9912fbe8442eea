"""Which placements were timed on the device, as rows of text."""

from collections.abc import Iterator

from pipeline.report.schema import Interval, MeasuredPlacement, Report

HEADER = ("placement", "against", "time, as a ratio", "", "kept")
AGAINST = {"int8": "everything in int8", "float": "everything in float"}


def measured(report: Report) -> tuple[str, MeasuredPlacement] | None:
    """The stage that measured a placement, and what it found; None where none did."""
    return next(((row.stage, row.placement) for row in report.stages if row.placement), None)


def rows(found: MeasuredPlacement) -> Iterator[tuple[str, ...]]:
    """One row per comparison, as wide as HEADER, in the order they were made."""
    for trial in found.trials:
        why = trial.why if trial.accuracy is None else f"{trial.why}; accuracy {trial.accuracy:g}"
        against = AGAINST.get(trial.against, trial.against)
        yield trial.change, against, ratio(trial.ratio), why, "kept" if trial.kept else ""


def ratio(found: Interval) -> str:
    """A ratio of times with its interval."""
    return f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f})"
