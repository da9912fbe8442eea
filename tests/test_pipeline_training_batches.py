import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.base import ArraySplit, Data
from pipeline.training.batches import Batches


def make(n, augment=None):
    split = ArraySplit(np.arange(n, dtype=np.float32)[:, None], np.arange(n))
    return Data(split, split, split, split, ("a",), augment)


@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 9))
def test_every_pass_shows_each_sample_once(n, batch_size, seed):
    batches = Batches(make(n), batch_size, seed)
    size = min(n, batch_size)
    drawn = np.concatenate([batches.indices(step) for step in range(3 * n)])
    assert len(drawn) == 3 * n * size
    for start in range(0, len(drawn), n):
        assert sorted(drawn[start : start + n]) == list(range(n))


def test_passes_are_in_different_orders():
    batches = Batches(make(30), 30, 0)
    assert not np.array_equal(batches.indices(0), batches.indices(1))
    assert not np.array_equal(batches.indices(0), Batches(make(30), 30, 1).indices(0))


def test_a_stream_from_the_middle_equals_the_whole_stream():
    data = make(23, lambda x, rng: x + rng.random(x.shape, np.float32))
    whole = list(Batches(data, 5, 0).stream(0, 9))
    late = list(Batches(data, 5, 0).stream(6, 9))
    for (x, y), (x_late, y_late) in zip(whole[6:], late, strict=True):
        assert np.array_equal(x, x_late)
        assert np.array_equal(y, y_late)
    assert not np.array_equal(whole[0][0][:, 0], whole[0][1])  # augmented


def test_each_step_draws_its_own_augmentation():
    drawn = []
    batches = Batches(make(8, lambda x, rng: drawn.append(rng.random()) or x), 4, 0)
    list(batches.stream(0, 6))
    assert len(set(drawn)) == 6


@given(n=st.integers(4, 40), batch_size=st.integers(4, 50), size=st.integers(1, 4))
def test_the_shares_of_a_batch_are_all_of_it_and_as_large_as_can_be(n, batch_size, size):
    whole = Batches(make(n), batch_size, 0)
    shares = [Batches(make(n), batch_size, 0, share=(rank, size)) for rank in range(size)]
    for step in range(3):
        drawn = [share[step][1] for share in shares]
        assert sorted(np.concatenate(drawn)) == sorted(whole[step][1])
        assert {len(part) for part in drawn} <= {whole.batch_size // size, -(-whole.batch_size // size)}


def test_each_share_draws_its_own_numbers_and_the_first_those_of_one_device():
    data = make(8, lambda x, rng: rng.random(x.shape, np.float32))
    whole, first, second = (Batches(data, 4, 0, share=share)[3][0] for share in ((0, 1), (0, 2), (1, 2)))
    assert np.array_equal(first, whole[:2])
    assert not np.array_equal(first, second)


def test_an_error_in_the_background_reaches_the_caller():
    def broken(x, rng):
        raise ZeroDivisionError("in augment")

    with pytest.raises(ZeroDivisionError, match="in augment"):
        list(Batches(make(8, broken), 4, 0).stream(0, 2))


def test_a_closed_stream_leaves_no_thread_behind():
    before = threading.active_count()
    stream = Batches(make(8), 4, 0).stream(0, 100)
    next(stream)
    stream.close()
    assert threading.active_count() == before
