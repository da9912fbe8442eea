import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.tasks.classification import Classification, hits

metrics = Classification().metrics


def slow_hit(row, label, k):
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))
    return label in order[:k]


@given(
    logits=arrays(np.float32, (7, 6), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    labels=arrays(np.int64, 7, elements=st.integers(0, 5)),
    k=st.integers(1, 6),
)
def test_hits_equal_a_sort_of_every_row_ties_included(logits, labels, k):
    expected = [slow_hit(row, label, k) for row, label in zip(logits, labels, strict=True)]
    assert hits(logits, labels, k).tolist() == expected


def test_a_model_that_answers_the_same_for_everything_is_at_chance():
    labels = np.repeat(np.arange(10), 5)
    assert metrics(np.zeros((50, 10), np.float32), labels)["top1"]["value"] == pytest.approx(0.1)


def test_a_row_with_nan_is_a_miss():
    logits = np.array([[np.nan, 1, 0], [0, 1, np.nan], [0, 1, 0]], np.float32)
    assert hits(logits, np.array([1, 1, 1]), 3).tolist() == [False, False, True]


def test_top1_carries_its_wilson_interval():
    logits = np.eye(10, dtype=np.float32)[np.zeros(100, int)]
    labels = np.array([0] * 93 + [1] * 7)
    top1 = metrics(logits, labels)["top1"]
    # 93 of 100 at 95%: the score interval worked out by hand with z = 1.959964
    assert top1 == pytest.approx({"value": 0.93, "low": 0.862505, "high": 0.965681, "n": 100}, abs=1e-6)
    assert next(iter(metrics(logits, labels))) == Classification.primary


def test_top5_is_reported_only_where_there_are_more_than_five_classes():
    labels = np.array([0, 1])
    assert list(metrics(np.zeros((2, 6), np.float32), labels)) == ["top1", "top5"]
    assert list(metrics(np.zeros((2, 5), np.float32), labels)) == ["top1"]
