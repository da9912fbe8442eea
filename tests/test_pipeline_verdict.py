import pytest

from pipeline.report.schema import Interval, Proportion
from pipeline.verdict import Evidence, judge


def share(value: float) -> Proportion:
    return Proportion(value=value, low=value - 0.01, high=value + 0.01, n=1000)


def evidence(
    ratio: tuple[float, float, float] | None = (0.5, 0.48, 0.52),
    accuracy: float | None = 0.9,
    size: int = 50,
    before: float = 0.9,
) -> Evidence:
    interval = Interval(value=ratio[0], low=ratio[1], high=ratio[2]) if ratio else None
    found = share(accuracy) if accuracy is not None else None
    return Evidence(
        previous="finetune",
        fallback="source",
        accuracy=found,
        previous_accuracy=share(before) if found else None,
        source_accuracy=share(0.9) if found else None,
        ratio=interval,
        size=size,
        previous_size=100,
        not_run=None if interval else "no device",
    )


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (evidence(), "pays", "2.00× faster than finetune"),
        (evidence((1.2, 1.1, 1.3)), "slower", "slower than finetune"),
        (evidence((1.0, 0.97, 1.03)), "same", "2.0× smaller, not faster"),
        (evidence((1.0, 0.97, 1.03), size=100), "same", "does not pay"),
        (evidence((1.0, 0.97, 1.03), before=0.6), "pays", "more accurate than finetune, as fast"),
        (evidence((1.2, 1.1, 1.3), before=0.6), "slower", "slower than finetune"),
        (evidence(accuracy=0.88), "inaccurate", "−2.00 points"),
        (evidence((1.2, 1.1, 1.3), accuracy=0.88), "inaccurate", "−2.00 points"),
        (evidence(None, None), "unmeasured", "no device"),
    ],
)
def test_verdicts(given: Evidence, kind: str, words: str) -> None:
    verdict = judge(given, max_drop=1.0, policy="warn")
    assert verdict.kind == kind
    assert words in verdict.text
    assert not verdict.rejected


@pytest.mark.parametrize("given", [evidence((1.2, 1.1, 1.3)), evidence(accuracy=0.88)])
def test_a_regression_is_rejected_where_the_recipe_says_so(given: Evidence) -> None:
    verdict = judge(given, max_drop=1.0, policy="reject")
    assert verdict.rejected
    assert "rejected, source goes on" in verdict.text


@pytest.mark.parametrize("given", [evidence(), evidence((1.0, 0.97, 1.03)), evidence(None, None)])
def test_what_is_no_regression_is_never_rejected(given: Evidence) -> None:
    assert not judge(given, max_drop=1.0, policy="reject").rejected


def test_the_floor_itself_is_allowed() -> None:
    """0.9 - 0.89 is a little more than a point in floating point."""
    assert judge(evidence(accuracy=0.89), max_drop=1.0, policy="reject").kind == "pays"
