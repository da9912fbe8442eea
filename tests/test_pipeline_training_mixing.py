from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_runs import DATA, QUICK

from pipeline.errors import UserError
from pipeline.training.batches import Batches
from pipeline.training.config import Training
from pipeline.training.mixing import cutmix, mixer, mixup

X = np.random.default_rng(0).normal(size=(6, 2, 5, 7)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 3, 1])
stay = st.floats(0, 1)


def batches(**given):
    return Batches(DATA, 16, 3, mixer(replace(QUICK, **given), 4))


def test_nothing_wanted_mixes_nothing():
    assert mixer(Training(), 4) is None
    assert batches()[0][1].dtype == np.int64


@given(stay)
def test_mixup_is_the_weighted_mean(stays):
    mixed, share = mixup(X, X[::-1], stays, np.random.default_rng(0))
    assert share == stays
    assert mixed.dtype == np.float32
    for n in range(6):
        assert np.allclose(mixed[n], stays * X[n].astype(np.float64) + (1 - stays) * X[5 - n], atol=1e-5)


@given(stay, st.integers(0, 50))
def test_cutmix_pastes_one_box_and_its_share_counts_pixels(stays, seed):
    other = X + 100  # told apart everywhere
    mixed, share = cutmix(X, other, stays, np.random.default_rng(seed))
    pasted = mixed[0, 0] == other[0, 0]
    for n in range(6):
        for c in range(2):
            for i in range(5):
                for j in range(7):
                    assert mixed[n, c, i, j] == (other if pasted[i, j] else X)[n, c, i, j]
    assert share == pytest.approx(1 - pasted.sum() / 35)
    assert share >= stays - 1e-9
    rows, columns = np.nonzero(pasted)
    if len(rows):
        assert pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


@pytest.mark.parametrize("given_", [{"mixup": 0.3}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 1.0}])
def test_labels_are_shares_that_fit_the_inputs(given_):
    """Inputs that are their own one-hot label show by themselves what they are made of."""
    mix = mixer(Training(**given_), 4)
    x = np.broadcast_to(np.eye(4, dtype=np.float32)[Y][:, :, None, None], (6, 4, 8, 8))
    untouched = x.copy()
    for seed in range(20):
        inputs, shares = mix(x, Y, np.random.default_rng(seed))
        assert (shares.dtype, shares.shape) == (np.float32, (6, 4))
        assert np.allclose(shares, inputs.mean((2, 3)), atol=1e-5)
        assert np.allclose(shares.sum(1), 1, atol=1e-6)
    assert np.array_equal(x, untouched)


def test_a_batch_depends_on_the_seed_and_the_step_alone():
    one, other = batches(mixup=0.2, cutmix=1.0), batches(mixup=0.2, cutmix=1.0)
    late = list(one.stream(4, 8))
    for step, (x, shares) in zip(range(4, 8), late, strict=True):
        assert np.array_equal(other[step][0], x)
        assert np.array_equal(other[step][1], shares)
    assert not np.array_equal(late[0][1], late[1][1])


def test_both_kinds_take_turns():
    x = np.zeros((4, 1, 8, 8), np.float32)
    x[:2] = 1
    mix = mixer(Training(mixup=1.0, cutmix=1.0), 2)
    pasted = [np.isin(mix(x, np.array([1, 1, 0, 0]), np.random.default_rng(s))[0], (0, 1)).all() for s in range(200)]
    assert 60 < sum(pasted) < 140


def test_cutmix_of_what_is_no_image_is_one_line():
    with pytest.raises(UserError, match=r"^cutmix takes images .* inputs are \(6, 70\); use mixup"):
        cutmix(X.reshape(6, 70), X.reshape(6, 70), 0.5, np.random.default_rng(0))
