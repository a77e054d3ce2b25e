"""Batch normalisation over the images of two real processes: as if one of them had them all."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import Command


@pytest.mark.parametrize("native", ["0", "1"])
def test_two_processes_normalise_as_one(tmp_path: Path, native: str) -> None:
    """Equal and unequal parts, and none at all; outputs, gradients, moving statistics, float64 to 1e-10."""
    script, store = Path(__file__).with_name("sharing.py"), tmp_path / "store"
    with ExitStack() as stack:
        both = [
            stack.enter_context(Command(rank, store, script=script, env={"DENSELY_NATIVE": native}))
            for rank in range(2)
        ]
        for process in both:
            done = process.wait(180)
            assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr
