import os

import pytest

from densely.data.paths import Paths, placed
from densely.errors import DataError, UsageError

NAMES = ["a/b.png", "", "ä/日本.png", os.fsdecode(b"not-utf8-\xff.png"), "z" * 300]


def test_paths_are_a_sequence_of_the_strings_they_were_made_of():
    paths = Paths(iter(NAMES))
    assert list(paths) == NAMES
    assert len(paths) == len(NAMES)
    assert (paths[-1], list(paths[1:4])) == (NAMES[-1], NAMES[1:4])
    with pytest.raises(IndexError):
        paths[5]
    assert list(Paths.joined([paths, Paths(), Paths(["last"])])) == [*NAMES, "last"]
    assert len(Paths()) == 0


def test_an_error_is_told_with_its_place_and_stays_what_it_is():
    with pytest.raises(UsageError, match=r"^line 3: no such file"), placed(["line 2", "line 3"], 1):
        raise UsageError("no such file")
    with pytest.raises(DataError, match=r"^damaged"), placed((), 1):
        raise DataError("damaged")
