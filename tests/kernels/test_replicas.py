"""Batch normalisation over the images of two real processes: as if one of them had them all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import densely


@pytest.mark.parametrize("native", ["0", "1"])
def test_two_processes_normalise_as_one(tmp_path: Path, native: str) -> None:
    """Equal and unequal parts, and none at all; outputs, gradients, moving statistics, float64 to 1e-10."""
    paths = [str(Path(__file__).parents[1]), str(Path(densely.__file__).parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DENSELY_NATIVE": native, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(Path(__file__).with_name("sharing.py"))]
    files = [(tmp_path / f"{rank}.txt").open("w+") for rank in range(2)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        for rank, file in enumerate(files)
    ]
    for process, file in zip(processes, files, strict=True):
        process.wait(timeout=180)
        file.seek(0)
        printed = file.read()
        file.close()
        assert printed == "same\n"
