"""The data sets that have a name: which files each is made of, and who reads them."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from densely.data import cifar, digits, small, svhn
from densely.data.dataset import Parts

SMALL = ("cifar10-50", "cifar100-50")
"""Those whose validation part is for choosing settings only: a final training has its images too (`join`)."""


class Source(NamedTuple):
    """A data set that has a name.

    Attributes:
        read: the parts, from the folder with the files.
        files: to be downloaded into that folder (`download.REMOTES`); none where it needs no files.
        here: whether the files are there already, perhaps in another form.
    """

    read: Callable[[Path], Parts]
    files: tuple[str, ...] = ()
    here: Callable[[Path], bool] = lambda folder: True


def _first_fifty(name: str, whole: Callable[[Path], Parts], folder: Path) -> Parts:
    return small.first_fifty(whole(folder), name)


_CIFAR10 = Source(
    cifar.load_cifar10, ("cifar-10-python.tar.gz",), lambda folder: cifar.find_cifar10(folder) is not None
)
_CIFAR100 = Source(
    cifar.load_cifar100, ("cifar-100-python.tar.gz",), lambda folder: cifar.find_cifar100(folder) is not None
)


def _svhn(extra: bool) -> Source:
    files = svhn.files(extra)
    return Source(
        partial(svhn.load, extra=extra), files, lambda folder: all((folder / name).is_file() for name in files)
    )


#: Every named data set; any other is a folder of images, or a table of labels.
SOURCES: Mapping[str, Source] = {
    "digits": Source(lambda folder: digits.load()),
    "cifar10": _CIFAR10,
    "cifar10-50": _CIFAR10._replace(read=partial(_first_fifty, "cifar10-50", cifar.load_cifar10)),
    "cifar100": _CIFAR100,
    "cifar100-50": _CIFAR100._replace(read=partial(_first_fifty, "cifar100-50", cifar.load_cifar100)),
    "cifar100-coarse": _CIFAR100._replace(read=partial(cifar.load_cifar100, labels="coarse")),
    "svhn": _svhn(extra=False),
    "svhn-extra": _svhn(extra=True),
}
