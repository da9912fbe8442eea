"""Makes the Fashion-MNIST file that the package ships: python -m pipeline.data.fashion_mnist_bundle [FOLDER].

The same input gives the same bytes, on every machine with the same zlib.
"""

import argparse
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.fashion_mnist import (
    BUNDLE,
    N_CALIBRATION,
    N_VALIDATION,
    SYSTEM,
    read_folder,
    split_order,
)

N_IMAGES = N_VALIDATION + N_CALIBRATION + 20_000
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip file can hold


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an `.npz` file whose bytes depend on the arrays alone: numpy's own writer stores the time."""
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.external_attr = 0o644 << 16
            file.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def bundle(folder: Path) -> dict[str, NDArray[Any]]:
    """Choose what is shipped from the original files: the start of the split order, the whole test set.

    `indices` is where each training image stands in the original file.
    """
    (images, labels), (test_images, test_labels) = read_folder(folder)
    order = split_order(labels)[:N_IMAGES]
    return {
        "images": images[order],
        "labels": labels[order].astype(np.uint8),
        "indices": order.astype(np.uint16),
        "test_images": test_images,
        "test_labels": test_labels.astype(np.uint8),
    }


def main() -> None:
    """Rebuild the shipped file from the original ones."""
    parser = argparse.ArgumentParser(description="rebuild the Fashion-MNIST file that the package ships")
    parser.add_argument("folder", nargs="?", type=Path, default=SYSTEM, help="the original idx files")
    parser.add_argument("--out", type=Path, default=BUNDLE)
    args = parser.parse_args()
    write_npz(args.out, bundle(args.folder))


if __name__ == "__main__":
    main()
