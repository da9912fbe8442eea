import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import fashion_mnist as fm
from pipeline.data import idx
from pipeline.data.check import check
from pipeline.data.fashion_mnist_bundle import bundle, write_npz
from pipeline.errors import UserError

installed = pytest.mark.skipif(not fm.SYSTEM.is_dir(), reason="needs Debian's dataset-fashion-mnist")


def idx_bytes(array):
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small data set of the same make, so that damage to it is quick to read."""
    monkeypatch.setattr(fm, "N_TRAIN", 60)
    monkeypatch.setattr(fm, "N_TEST", 20)
    monkeypatch.setattr(fm, "N_VALIDATION", 20)
    monkeypatch.setattr(fm, "N_CALIBRATION", 10)
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 28, 28))
        images[:, 0, 0] = np.arange(n)  # tells each image apart
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        labels = gzip.compress(idx_bytes(np.arange(n) % 10))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(labels)
    return tmp_path


@pytest.fixture(scope="module")
def shipped():
    return fm.read_bundle(fm.BUNDLE)


def test_the_bundle_is_whole_and_balanced(shipped):
    (images, labels), (test_images, test_labels) = shipped
    assert images.shape == (24_000, 28, 28)
    assert test_images.shape == (10_000, 28, 28)
    for part in (labels[:3000], labels[3000:4000], labels[4000:], test_labels):
        assert len(set(np.bincount(part, minlength=10))) == 1
    assert fm.BUNDLE.stat().st_size <= 16_000_000


def test_no_image_of_the_bundle_is_in_two_splits():
    with np.load(fm.BUNDLE) as file:
        indices = file["indices"]
    assert len(np.unique(indices)) == 24_000


def test_without_the_original_files_the_bundle_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(fm, "SYSTEM", tmp_path / "absent")
    data = fm.load()
    assert [len(s) for s in data.splits.values()] == [20_000, 3_000, 1_000, 10_000]
    check(data, "fashion-mnist", samples=1000)
    x, y = data.train[slice(0, 500)]
    assert x.shape == (500, 1, 28, 28)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05


@installed
def test_the_original_files_give_the_same_splits(shipped):
    (images, labels), (test_images, test_labels) = shipped
    data = fm.load()
    assert [len(s) for s in data.splits.values()] == [56_000, 3_000, 1_000, 10_000]
    assert np.array_equal(data.validation.x[:, 0], images[:3000])
    assert np.array_equal(data.calibration.x[:, 0], images[3000:4000])
    assert np.array_equal(data.train.x[:20_000, 0], images[4000:])
    assert np.array_equal(data.train.y[:20_000], labels[4000:])
    assert np.array_equal(data.test.x[:, 0], test_images)
    assert np.array_equal(data.test.y, test_labels)


@installed
def test_the_bundle_can_be_rebuilt():
    with np.load(fm.BUNDLE) as file:
        rebuilt = bundle(fm.SYSTEM)
        assert list(rebuilt) == file.files
        for name, array in rebuilt.items():
            assert array.dtype == file[name].dtype
            assert np.array_equal(array, file[name])


def test_equal_arrays_give_equal_files(tmp_path):
    arrays = {"a": np.arange(12).reshape(3, 4).T, "b": np.zeros(0, np.uint8)}
    for name in ("one.npz", "two.npz"):
        write_npz(tmp_path / name, arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz") as file:
        assert all(np.array_equal(file[name], array) for name, array in arrays.items())


def test_split_order_is_frozen():
    labels = np.arange(60) % 10
    order = fm.split_order(labels)
    assert sorted(order) == list(range(60))
    # Another order would let a model train on images that once validated it.
    assert order[:12].tolist() == [40, 11, 2, 33, 34, 35, 26, 7, 28, 59, 10, 41]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80))
def test_split_order_takes_every_class_in_turn(labels):
    labels = np.array(labels)
    order = fm.split_order(labels)
    assert sorted(order) == list(range(len(labels)))
    counts = np.zeros(10, int)
    for label in labels[order]:
        counts[label] += 1
        behind = [c for c in range(10) if counts[c] < counts[label] - 1]
        assert all(counts[c] == np.count_nonzero(labels == c) for c in behind)


def test_raw_and_gzipped_files_are_read_from_a_path(folder):
    data = fm.load(str(folder))
    assert [len(s) for s in data.splits.values()] == [30, 20, 10, 20]
    seen = np.concatenate([data.train.x, data.validation.x, data.calibration.x])[:, 0, 0, 0]
    assert sorted(seen) == list(range(60))
    labels = np.concatenate([data.train.y, data.validation.y, data.calibration.y])
    assert np.array_equal(labels, seen % 10)


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN_IMAGES, b"", "wrong magic"),
        (TRAIN_IMAGES, b"<html>not found</html>", "wrong magic"),
        (TRAIN_IMAGES, idx_bytes(np.zeros(60)), "wrong magic"),
        (
            TRAIN_IMAGES,
            idx_bytes(np.zeros((60, 28, 28)))[:-1],
            "holds 47039 bytes of data, its header says 47040",
        ),
        (TRAIN_IMAGES, idx_bytes(np.zeros((59, 28, 28))), r"\(59, 28, 28\), not \(60, 28, 28\)"),
        (TRAIN_IMAGES, idx_bytes(np.zeros((60, 32, 32))), r"\(60, 32, 32\), not \(60, 28, 28\)"),
        (TRAIN_LABELS, idx_bytes(np.zeros(61)), "61 labels for 60 images"),
        (TRAIN_LABELS, idx_bytes(np.full(60, 10)), r"label 10 is not in 0\.\.9"),
        (f"{TRAIN_IMAGES}.gz", b"not gzip", "cannot be read"),
        (f"{TRAIN_IMAGES}.gz", gzip.compress(b"0" * 9000, mtime=0)[:-9], "cannot be read"),
    ],
    ids=lambda value: f"{len(value)}-bytes" if isinstance(value, bytes) else None,
)
def test_a_damaged_file_is_named_with_the_fix(folder, name, content, message):
    if name.startswith(TRAIN_IMAGES):
        (folder / TRAIN_IMAGES).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        fm.load(str(folder))
    assert str(folder / name) in str(error.value)
    assert "\n" not in str(error.value)
    assert "; replace it" in str(error.value) or "; give the folder" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=f"no {TRAIN_IMAGES} or {TRAIN_IMAGES}.gz there"):
        fm.load(str(tmp_path))


def test_idx_reads_any_shape(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    assert np.array_equal(idx.read(tmp_path / "a", 3), array)


def slow_augment(x, rng):
    """The same draws, image by image, pixel by pixel."""
    n, _, height, width = x.shape
    dy, dx = rng.integers(0, 2 * fm.PAD + 1, (2, n))
    mirrored = rng.random(n) < 0.5
    out = np.full_like(x, -fm.MEAN / fm.STD)
    for i in range(n):
        for row in range(height):
            for column in range(width):
                source_row = row + dy[i] - fm.PAD
                source_column = (width - 1 - column if mirrored[i] else column) + dx[i] - fm.PAD
                if 0 <= source_row < height and 0 <= source_column < width:
                    out[i, :, row, column] = x[i, :, source_row, source_column]
    return out


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 2))
def test_augment_equals_a_slow_reference(seed, n, channels):
    x = np.random.default_rng(seed).random((n, channels, 5, 6), np.float32)
    before = x.copy()
    out = fm.augment(x, np.random.default_rng(seed))
    assert np.array_equal(out, slow_augment(x, np.random.default_rng(seed)))
    assert out.flags.c_contiguous
    assert np.array_equal(x, before)


def test_what_moves_in_is_black():
    split = fm._split(np.zeros((50, 28, 28), np.uint8), np.zeros(50, np.int64))
    x, _ = split[slice(0, 50)]
    out = fm.augment(x, np.random.default_rng(0))
    assert np.allclose(out, x, atol=1e-6)
