"""The official files, fetched once and checked. Without a network: which file to put where."""

import contextlib
import os
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from densely.errors import DenselyError, reason

Notify = Callable[[str], None]

TIMEOUT_S = 15.0
"""For a connection and for every wait on it, not for the whole file."""


class Remote(NamedTuple):
    """A file on the web and the MD5 that its publisher states."""

    url: str
    md5: str


REMOTES = {
    "cifar-10-python.tar.gz": Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
    ),
    "cifar-100-python.tar.gz": Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
    ),
    "train_32x32.mat": Remote(
        "http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"
    ),
    "test_32x32.mat": Remote(
        "http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"
    ),
    "extra_32x32.mat": Remote(
        "http://ufldl.stanford.edu/housenumbers/extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7"
    ),
}


def to_stderr(message: str) -> None:
    """The default `notify`: standard output stays free for results."""
    print(message, file=sys.stderr)


def fetch(file: str, data_dir: str | Path, notify: Notify = to_stderr) -> Path:
    """Fetch one of `REMOTES` into `data_dir`, unless it is there; returns its path.

    The file appears under its name only when complete and checked.

    Args:
        file: a key of `REMOTES`.
        data_dir: made if it does not exist.
        notify: told what is fetched from where.

    Raises:
        DenselyError: no network, a wrong checksum, or `data_dir` cannot be written; says which file to put where.
    """
    folder = Path(data_dir)
    target = folder / file
    if target.exists():
        return target
    remote = REMOTES[file]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Keras writes straight to the final name, so it gets a folder of its own, on the same disk.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as aside, _timeout(TIMEOUT_S):
            # Asked first, because importing Keras takes seconds: without a network the answer comes at once.
            urllib.request.urlopen(urllib.request.Request(remote.url, method="HEAD")).close()
            notify(f"Downloading {remote.url} to {target}")
            import keras

            with contextlib.redirect_stdout(sys.stderr):
                got = keras.utils.get_file(
                    file, remote.url, file_hash=remote.md5, hash_algorithm="md5", cache_dir=aside, cache_subdir=""
                )
            os.replace(got, target)
    except Exception as error:  # Keras raises bare Exception
        raise DenselyError(
            f"{file} is not in {folder} and could not be downloaded from {remote.url} ({reason(error)}):"
            f" put it there yourself, or name the folder that has it by --data-dir or $DENSELY_DATA."
        ) from error
    return target


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Sockets wait for ever by default, and Keras passes no timeout on."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
