"""CIFAR-10 and CIFAR-100 (Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009).

Reads the "python version" as downloaded (`.tar.gz`) or extracted. Both come from elsewhere, so neither is trusted: the
archive is never extracted, only members of the exact known names are read, and their pickles may name nothing but
NumPy's array reconstruction.
"""

import gzip
import hashlib
import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from densely.data.dataset import Dataset, Parts
from densely.errors import DataError, UsageError, reason

CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
"""Of the members, not of the archive: a repacked archive of the same members is as good as the original."""

CIFAR100_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""As `batches.meta` has them, for networks that come without data."""

MEMBER_LIMIT = 200 * 2**20
"""Bytes. The largest real member, CIFAR-100's `train`, has 155 million."""
ARCHIVE_LIMIT = 512 * 2**20
"""Bytes that an archive may unpack to before reading stops. The real ones unpack to about 190 million."""


class Batch(NamedTuple):
    """One pickled batch: uint8 (n, 3072) rows, each 3 planes of 32x32, and whatever else the file holds."""

    rows: NDArray[np.uint8]
    fields: dict[bytes, Any]


def find_cifar10(data_dir: Path) -> Path | None:
    """The extracted folder `cifar-10-batches-py` in `data_dir`, else the archive, else None."""
    return _first_existing(data_dir / "cifar-10-batches-py", data_dir / "cifar-10-python.tar.gz")


def find_cifar100(data_dir: Path) -> Path | None:
    """The extracted folder `cifar-100-python` in `data_dir`, else the archive, else any `cifar-100*-python.tar.gz`."""
    others = sorted(data_dir.glob("cifar-100*-python.tar.gz"))
    return _first_existing(data_dir / "cifar-100-python", data_dir / "cifar-100-python.tar.gz", *others)


def load_cifar10(data_dir: str | Path) -> Parts:
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32x3 in ten classes.

    Args:
        data_dir: holds `cifar-10-batches-py/` or `cifar-10-python.tar.gz`.

    Raises:
        UsageError: neither is there.
        DataError: a member is missing, damaged or not what it should be.
    """
    path = find_cifar10(Path(data_dir))
    if path is None:
        raise _absent("CIFAR-10", data_dir, "cifar-10-python.tar.gz")
    batches: dict[str, Batch] = {}
    names: tuple[str, ...] = ()
    for member, content in _members(path, "cifar-10-batches-py", tuple(CIFAR10_MD5)):
        where = f"{path}: {member}"
        if _md5(content) != CIFAR10_MD5[member]:
            raise DataError(
                f"{where} is damaged (its MD5 is not the official one): delete {path} and download it again."
            )
        if member == "batches.meta":
            names = _names(_unpickle(content, where), b"label_names", where)
        else:
            batches[member] = _batch(content, where)

    def part(name: str, members: Sequence[str]) -> Dataset:
        images = np.concatenate([_planes_last(batches[member].rows) for member in members])
        labels = np.concatenate([_labels(batches[member], b"labels", f"{path}: {member}") for member in members])
        return Dataset(images, labels, names, f"cifar10/{name}")

    train = part("train", [f"data_batch_{i}" for i in range(1, 6)])
    return Parts(train=train, test=part("test", ["test_batch"]))


def load_cifar100(data_dir: str | Path, labels: Literal["fine", "coarse"] = "fine") -> Parts:
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32x3 in 100 classes, or 20 superclasses.

    Files that are not the official ones are accepted if they are sound, and `source` says so: "(subset, n images)"
    or "(unverified)".

    Args:
        data_dir: holds `cifar-100-python/`, `cifar-100-python.tar.gz` or another `cifar-100*-python.tar.gz`.
        labels: `"fine"`, the 100 classes (default), or `"coarse"`, the 20.

    Raises:
        UsageError: there are no such files, or `labels` is something else.
        DataError: a member is missing, damaged or not what it should be.
    """
    if labels not in ("fine", "coarse"):
        raise UsageError(f"The CIFAR-100 labels are {labels!r}: they must be 'fine' or 'coarse'.")
    path = find_cifar100(Path(data_dir))
    if path is None:
        raise _absent("CIFAR-100", data_dir, "cifar-100-python.tar.gz")
    contents = dict(_members(path, "cifar-100-python", tuple(CIFAR100_MD5)))
    where = f"{path}: meta"
    names = _names(_unpickle(contents["meta"], where), f"{labels}_label_names".encode(), where)

    def part(name: Literal["train", "test"], official_count: int) -> Dataset:
        where = f"{path}: {name}"
        batch = _batch(contents[name], where)
        source = f"cifar100{'-coarse' * (labels == 'coarse')}/{name}"
        if len(batch.rows) != official_count:
            source += f" (subset, {len(batch.rows):,} images)"
        elif any(_md5(contents[member]) != CIFAR100_MD5[member] for member in (name, "meta")):
            source += " (unverified)"
        numbers = _labels(batch, f"{labels}_labels".encode(), where)
        return Dataset(_planes_last(batch.rows), numbers, names, source)

    return Parts(train=part("train", 50_000), test=part("test", 10_000))


# ---- files -----------------------------------------------------------------------------------------------------------


def _first_existing(*paths: Path) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _absent(what: str, data_dir: str | Path, file: str) -> UsageError:
    return UsageError(f"{what} is not in {data_dir}: put {file} there, or name the folder that has it.")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _members(path: Path, folder: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each wanted member, in the order found; every one exactly once, or a DataError."""
    found = set()
    for name, content in _from_folder(path, wanted) if path.is_dir() else _from_archive(path, folder, wanted):
        if name in found:
            raise DataError(f"{path} holds {name} twice: download it again.")
        found.add(name)
        yield name, content
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(f"{path} has no {folder}/{missing[0]}: download it again.")


def _from_folder(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for name in wanted:
        file = path / name
        if not file.is_file():
            continue
        if file.stat().st_size > MEMBER_LIMIT:
            raise DataError(f"{file} has more than {MEMBER_LIMIT:,} bytes and is not a CIFAR file: download it again.")
        yield name, file.read_bytes()


def _from_archive(path: Path, folder: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    paths = {f"{folder}/{name}": name for name in wanted}
    try:
        with (
            gzip.open(path) as unpacked,
            _Bounded(unpacked, path) as stream,
            tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as tar,
        ):
            for member in tar:
                if member.name not in paths:
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(f"{path}: {member.name} is not a regular file: download the archive again.")
                if member.size > MEMBER_LIMIT:
                    raise DataError(
                        f"{path}: {member.name} has more than {MEMBER_LIMIT:,} bytes: download the archive again."
                    )
                content = tar.extractfile(member)
                assert content is not None  # a regular file always opens
                yield paths[member.name], content.read()
            while stream.read(2**20):  # to the very end, where gzip keeps its checksum
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({reason(error)}): delete it and download it again.") from error


class _Bounded(io.RawIOBase):
    """A stream that ends in a DataError after `ARCHIVE_LIMIT` bytes: a small archive can unpack to any size."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path) -> None:
        self._stream, self._path, self._left = stream, path, ARCHIVE_LIMIT

    def read(self, size: int = -1, /) -> bytes:
        content = self._stream.read(size if size >= 0 else self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(
                f"{self._path} unpacks to more than {ARCHIVE_LIMIT:,} bytes and is not a CIFAR archive:"
                " delete it and download it again."
            )
        return content


# ---- pickles ---------------------------------------------------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    """Admits what a pickled integer array needs, each through a stand-in narrower than the real thing."""

    def __init__(self, content: bytes, where: str) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._where = where

    def find_class(self, module: str, name: str, /) -> Any:
        admitted = {
            "numpy.core.multiarray._reconstruct": _reconstruct,
            "numpy._core.multiarray._reconstruct": _reconstruct,
            "numpy.ndarray": "numpy.ndarray",
            "numpy.dtype": _dtype,
            "_codecs.encode": _encode,  # how Python 3 writes bytes in the old protocol
        }
        try:
            return admitted[f"{module}.{name}"]
        except KeyError:
            raise DataError(
                f"{self._where} asks for {module}.{name}, which no CIFAR file needs: it is not safe to read,"
                " delete it and download it again."
            ) from None


_FOREIGN = ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BYTEARRAY8")
"""Operations of pickles that no CIFAR file has: other objects than a call makes, and memory by the word of the file."""


def _check_operations(content: bytes) -> None:
    """Before anything is built: that no operation is foreign, or claims a place in memory that the file cannot fill."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in _FOREIGN:
            raise pickle.UnpicklingError(f"operation {operation.name}")
        if operation.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError("more objects than bytes")


def _reconstruct(kind: object, shape: object, code: object) -> NDArray[Any]:
    if (kind, shape) != ("numpy.ndarray", (0,)):
        raise pickle.UnpicklingError("an array of unusual kind")
    return np.empty(0, dtype=np.uint8)


def _dtype(code: str | bytes, align: object = False, copy: object = True) -> np.dtype[Any]:
    text = code.decode() if isinstance(code, bytes) else code
    if text not in ("u1", "i4", "i8"):
        raise pickle.UnpicklingError(f"an array of type {text!r}")
    # Always a copy: the pickle goes on to set this object's state, and NumPy's own dtype must not be the target.
    return np.dtype(text, copy=True)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"text in encoding {encoding!r}")
    return text.encode("latin1")


def _unpickle(content: bytes, where: str) -> dict[bytes, Any]:
    try:
        _check_operations(content)
        value = _Unpickler(content, where).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{where} is damaged ({reason(error)}): download it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} holds no table of fields and is not a CIFAR file: download it again.")
    return value


# ---- what the pickles hold -------------------------------------------------------------------------------------------


def _batch(content: bytes, where: str) -> Batch:
    fields = _unpickle(content, where)
    rows = fields.get(b"data")
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape != (len(rows), 3072) or not len(rows):
        raise DataError(f"{where} holds no rows of 3,072 pixels and is not a CIFAR batch: download it again.")
    return Batch(rows, fields)


def _labels(batch: Batch, field: bytes, where: str) -> NDArray[np.int64]:
    try:
        labels = np.asarray(batch.fields[field])
    except (KeyError, ValueError):
        labels = np.empty(0)
    if labels.shape != (len(batch.rows),) or labels.dtype.kind not in "iu":
        raise DataError(f"{where} has no {field.decode()} for its {len(batch.rows):,} images: download it again.")
    return labels.astype(np.int64)


def _names(fields: dict[bytes, Any], field: bytes, where: str) -> tuple[str, ...]:
    names = fields.get(field)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{where} holds no {field.decode()}: download it again.")
    return tuple(name.decode("utf-8", "replace") for name in names)


def _planes_last(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
