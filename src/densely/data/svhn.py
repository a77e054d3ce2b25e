"""Street View House Numbers, cropped digits (Netzer et al., *Reading Digits in Natural Images*, 2011)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densely.data.dataset import Dataset, Parts
from densely.errors import DataError, UsageError, reason

MOST = 600_000
"""Images a file may claim to hold; `extra_32x32.mat` has 531,131."""
NUMBERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "single", "double")


def files(extra: bool = False) -> tuple[str, ...]:
    """The names of the files that `load` reads."""
    return ("train_32x32.mat", "test_32x32.mat", "extra_32x32.mat")[: 3 if extra else 2]


def load(data_dir: str | Path, extra: bool = False) -> Parts:
    """SVHN: 73,257 training and 26,032 test images of 32x32x3, ten digits.

    Args:
        data_dir: holds `train_32x32.mat` and `test_32x32.mat`.
        extra: whether the training part gets the 531,131 easier images of `extra_32x32.mat` too, as in the paper
            (default no). They take 1.9 GB together, and twice that while loading.

    Raises:
        UsageError: a file is not there.
        DataError: a file is damaged or not what it should be.
    """
    folder = Path(data_dir)
    for name in files(extra):
        if not (folder / name).is_file():
            raise UsageError(f"SVHN's {name} is not in {folder}: put it there, or name the folder that has it.")
    images, labels = _read(folder / "train_32x32.mat")
    if extra:
        more_images, more_labels = _read(folder / "extra_32x32.mat")
        images, labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
    names = tuple(str(digit) for digit in range(10))
    source = "svhn-extra" if extra else "svhn"
    train = Dataset(images, labels, names, f"{source}/train")
    test = Dataset(*_read(folder / "test_32x32.mat"), names, f"{source}/test")
    return Parts(train=train, test=test)


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from scipy.io import loadmat, whosmat

    no_images = f"{path} holds no images X of 32x32x3 bytes and is not an SVHN file: download it again."
    try:
        # The headers first: a small file can claim any size, or hold cells and structures without end.
        claimed = {name: (tuple(shape), kind) for name, shape, kind in whosmat(path)}
        shape, kind = claimed.get("X", ((), ""))
        if kind != "uint8" or len(shape) != 4 or shape[:3] != (32, 32, 3) or shape[3] > MOST:
            raise DataError(no_images)
        no_labels = f"{path} holds no labels y for its {shape[3]:,} images and is not an SVHN file: download it again."
        if claimed.get("y", ((), ""))[0] != (shape[3], 1) or claimed["y"][1] not in NUMBERS:
            raise DataError(no_labels)
        content = loadmat(path, variable_names=("X", "y"))
    except DataError:
        raise
    except Exception as error:  # SciPy fails in many ways on a damaged file
        raise DataError(f"{path} is damaged ({reason(error)}): delete it and download it again.") from error
    X, y = content.get("X"), content.get("y")
    if not isinstance(X, np.ndarray) or X.dtype != np.uint8 or X.shape != shape:
        raise DataError(no_images)
    n = X.shape[3]
    if not isinstance(y, np.ndarray) or y.shape != (n, 1) or y.dtype.kind not in "iuf":
        raise DataError(no_labels)
    if not np.isin(y, np.arange(1, 11)).all():
        raise DataError(f"{path} holds a label outside 1..10 and is not an SVHN file: download it again.")
    digits = y[:, 0].astype(np.int64) % 10  # the digit 0 is stored as 10
    return np.ascontiguousarray(X.transpose(3, 0, 1, 2)), digits
