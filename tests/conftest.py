"""What several tests share: where real CIFAR lies, and a seed."""

import os
from pathlib import Path

import pytest
import torch

import densely  # noqa: F401  (chooses the engine before anything imports Keras)

# Trainings in tests, and in processes that they start, write no report unless they ask for it: most are about something
# else. Here, not in a fixture: some test modules copy the environment when they are imported.
os.environ["DENSELY_REPORT"] = "0"
# The compiled loops are built once for all tests, not in each one's own cache.
os.environ.setdefault("DENSELY_KERNELS", str(Path(__file__).parents[1] / ".pytest_cache" / "kernels"))
# Without a GPU Triton's kernels are interpreted. Triton asks when it is first imported, which Keras does.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or leaves anything in the user's own cache."""
    folder = tmp_path_factory.mktemp("cache") / "default"
    monkeypatch.setenv("DENSELY_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def cifar_dir() -> Path:
    """The folder with the CIFAR archives; without one the test is skipped."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DENSELY_DATA") or beside)
    if not (folder / "cifar-10-python.tar.gz").is_file():
        pytest.skip("no CIFAR-10 archive: set DENSELY_DATA to the folder that holds it")
    return folder
