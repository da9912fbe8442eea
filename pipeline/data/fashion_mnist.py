"""Fashion-MNIST (Xiao et al., arXiv 1708.07747): 28x28 grey images of clothes in ten classes, MIT licence.

The split is the same whichever source is read: of the original 60,000 training images, the first 3,000 of a
fixed class-balanced order validate, the next 1,000 calibrate, the rest train. The file shipped with the
package holds the first 24,000 of that order and the whole test set; the original files hold everything.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data import idx
from pipeline.data.base import ArraySplit, Data
from pipeline.errors import UserError

CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
MEAN, STD = 0.2860, 0.3530  # of the training pixels scaled to [0, 1]
SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package dataset-fashion-mnist
BUNDLE = Path(__file__).with_suffix(".npz")
N_TRAIN, N_TEST = 60_000, 10_000
N_VALIDATION, N_CALIBRATION = 3_000, 1_000
PAD = 2  # pixels a training image may shift

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


def load(path: str | None = None) -> Data:
    """Read Fashion-MNIST as batches `(N, 1, 28, 28)`, normalised.

    From the four idx files (raw or .gz) in the folder `path`; without one from where Debian's package
    dataset-fashion-mnist puts them; where that is not installed, from the subset shipped with this package.
    Raises UserError for a file that is missing or damaged.
    """
    if path is None and not SYSTEM.is_dir():
        return _data(*read_bundle(BUNDLE))
    train, test = read_folder(SYSTEM if path is None else Path(path).expanduser())
    order = split_order(train[1])
    return _data((train[0][order], train[1][order]), test)


def augment(x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Shift each image of `(N, C, H, W)` by up to two pixels, black moving in, and mirror half of them."""
    n, _, height, width = x.shape
    edges = ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD))
    padded = np.pad(x, edges, constant_values=np.float32(-MEAN / STD))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    dy, dx = rng.integers(0, 2 * PAD + 1, (2, n))
    out = windows[np.arange(n), :, dy, dx]
    mirrored = rng.random(n) < 0.5
    out[mirrored] = out[mirrored, :, :, ::-1]
    return np.ascontiguousarray(out)


def split_order(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fixed order of the original training images: random, every class in turn."""
    # RandomState, whose stream is frozen: Generator's may change, and validation images would be trained on.
    order = np.random.RandomState(0).permutation(len(labels))
    shuffled = labels[order]
    turn = np.empty(len(labels), np.int64)
    for label in range(len(CLASSES)):
        of_class = shuffled == label
        turn[of_class] = np.arange(np.count_nonzero(of_class))
    return order[np.lexsort((shuffled, turn))].astype(np.int64)


def read_folder(folder: Path) -> tuple[Images, Images]:
    """Read the original training and test images from a folder of idx files. Raises UserError."""
    return _read_pair(folder, "train", N_TRAIN), _read_pair(folder, "t10k", N_TEST)


def read_bundle(path: Path) -> tuple[Images, Images]:
    """Read the training images, in split order, and the test images that the package ships."""
    with np.load(path, allow_pickle=False) as file:
        return (
            (file["images"], file["labels"].astype(np.int64)),
            (file["test_images"], file["test_labels"].astype(np.int64)),
        )


def _read_pair(folder: Path, name: str, count: int) -> Images:
    """Read images and labels that belong together, and check that they are Fashion-MNIST's."""
    image_path, label_path = (
        idx.find(folder, f"{name}-images-idx3-ubyte"),
        idx.find(folder, f"{name}-labels-idx1-ubyte"),
    )
    images, labels = idx.read(image_path, 3), idx.read(label_path, 1)
    fix = "give the folder of the original Fashion-MNIST files"
    if images.shape != (count, 28, 28):
        raise UserError(f"{image_path}: holds {images.shape}, not {(count, 28, 28)}; {fix}")
    if labels.shape != (count,):
        raise UserError(f"{label_path}: holds {len(labels)} labels for {count} images; {fix}")
    if labels.max() >= len(CLASSES):
        raise UserError(f"{label_path}: label {labels.max()} is not in 0..{len(CLASSES) - 1}; {fix}")
    return images, labels.astype(np.int64)


def _data(train: Images, test: Images) -> Data:
    """Cut training images in split order into the splits."""
    a, b = N_VALIDATION, N_VALIDATION + N_CALIBRATION
    images, labels = train
    return Data(
        train=_split(images[b:], labels[b:]),
        validation=_split(images[:a], labels[:a]),
        calibration=_split(images[a:b], labels[a:b]),
        test=_split(*test),
        classes=CLASSES,
        augment=augment,
        preprocessing={
            "layout": "NCHW",
            "color": "gray",
            "scale": repr(1 / 255),
            "mean": repr(MEAN),
            "std": repr(STD),
            "formula": "(pixel * scale - mean) / std",
        },
    )


def _split(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> ArraySplit:
    return ArraySplit(images[:, None], labels, (MEAN,), (STD,), 1 / 255)
