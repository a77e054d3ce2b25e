"""What is written down of the machine and the checkout that a run runs on."""

import os
from pathlib import Path

import pytest

from densely import machine


def test_the_revision_of_a_checkout_is_recorded_and_none_outside(tmp_path: Path) -> None:
    assert machine.git_revision(tmp_path) is None
    revision = machine.git_revision(Path(machine.__file__).parent)
    assert revision is None or len(revision.rstrip("+")) == 40


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="here a process cannot be kept to some cores")
def test_only_cores_that_this_process_may_use_are_counted() -> None:
    before = os.sched_getaffinity(0)
    assert machine.cores() == len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert machine.cores() == 1
    finally:
        os.sched_setaffinity(0, before)
