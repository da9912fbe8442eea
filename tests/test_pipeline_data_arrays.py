from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.arrays import SPLITS, from_npz
from pipeline.data.base import ArraySplit
from pipeline.data.check import check
from pipeline.errors import UserError


def make():
    rng = np.random.default_rng(0)
    arrays = {}
    for name in SPLITS:
        arrays[f"x_{name}"] = rng.integers(0, 256, (6, 3, 4, 5), np.uint8)
        arrays[f"y_{name}"] = np.arange(6, dtype=np.int32) % 3
    return arrays


@pytest.fixture
def save(tmp_path):
    def write(**changes):
        arrays = {k: v for k, v in (make() | changes).items() if v is not None}
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


def test_batches_are_normalised_per_channel(save):
    mean, std = (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)
    data = from_npz(save(), mean=list(mean), std=list(std), scale=1 / 255)
    x, y = data.test[np.array([4, 1])]
    raw = make()["x_test"][[4, 1]]
    expected = np.stack([(raw[:, c] / 255 - mean[c]) / std[c] for c in range(3)], 1)
    assert x.dtype == np.float32
    assert np.allclose(x, expected, atol=1e-6)
    assert y.tolist() == [1, 1]
    assert data.classes == ("0", "1", "2")
    assert data.preprocessing["std"] == "(1.0, 2.0, 3.0)"


def test_vectors_are_inputs_too(save):
    flat = {f"x_{name}": np.ones((6, 7), np.float32) for name in SPLITS}
    assert from_npz(save(**flat)).train[slice(0, 2)][0].shape == (2, 7)


NAN = np.ones((6, 3, 4, 5), np.float32)
NAN[5, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "no x_test in it; it needs x_train"),
        ({"x_train": np.zeros((0, 3, 4, 5)), "y_train": np.zeros(0, int)}, "the train split is empty"),
        ({"y_test": np.full(6, 3)}, "test samples 0 to 5: labels run from 3 to 3, but there are 3 classes"),
        ({"y_test": np.full(6, -1)}, "labels run from -1 to -1"),
        ({"y_test": np.zeros(6)}, "y_test: float64 of shape"),
        ({"y_test": np.zeros((6, 3), int)}, "y_test: int64 of shape"),
        ({"y_test": np.zeros(5, int)}, "x_test: 6 samples, but 5 labels"),
        ({"x_validation": NAN}, "validation samples 0 to 5: inputs hold NaN"),
        ({"x_test": np.zeros((6, 3, 4, 4))}, "the splits have inputs of different shapes"),
        ({"x_test": np.zeros(6)}, r"x_test: float64 of shape \(6,\)"),
        ({"x_test": np.array(["a"] * 6)}, "x_test: <U1"),
        ({"x_test": np.array([None] * 6)}, "not a readable .npz file of plain arrays"),
    ],
)
def test_empty_and_mislabelled_data_is_refused(save, changes, message):
    path = save(**changes)
    with pytest.raises(UserError, match=message) as error:
        from_npz(path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.5, 0.5]}, "2 values of mean for 3 channels"),
        ({"std": [1.0, 0.0, 1.0]}, "inputs are divided by it"),
        ({"classes": ["cat", "dog"]}, "labels run from 0 to 2, but there are 2 classes"),
    ],
)
def test_options_that_do_not_fit_are_refused(save, options, message):
    with pytest.raises(UserError, match=message):
        from_npz(save(), **options)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    for name, content in (("a.npz", b"hello"), ("b.npz", b"PK\x03\x04 cut off"), ("c.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not a readable"):
            from_npz(str(tmp_path / name))
    with pytest.raises(UserError, match="No such file"):
        from_npz(str(tmp_path / "absent.npz"))
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(UserError, match="not a readable"):
        from_npz(str(tmp_path / "single.npy"))


class Doubles(ArraySplit):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x.astype(np.float64), y


class Short(ArraySplit):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x[:-1], y


@pytest.mark.parametrize(("kind", "message"), [(Doubles, "inputs are float64"), (Short, "for 6 samples")])
def test_a_split_that_breaks_the_contract_is_refused(save, kind, message):
    data = from_npz(save())
    broken = replace(data, test=kind(data.test.x, data.test.y))
    with pytest.raises(UserError, match=f"mine: test samples 0 to 5: .*{message}"):
        check(broken, "mine")


def test_check_looks_no_further_than_asked(save):
    data = from_npz(save())
    late = replace(data, test=ArraySplit(data.test.x, np.array([0, 0, 0, 0, 0, 9])))
    check(late, "mine", samples=5)
    with pytest.raises(UserError, match="to 9"):
        check(late, "mine")


def test_data_without_classes_is_refused(save):
    with pytest.raises(UserError, match="no classes are named"):
        check(replace(from_npz(save()), classes=()), "mine")
