"""The same seed, the same bits: what PyTorch must be told for it on a GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from densely.errors import DenselyError


@contextmanager
def same_bits(wanted: bool) -> Iterator[None]:
    """Inside, if `wanted`, only operators run that give the same bits each time.

    On a CPU they all do, with the same number of threads. A GPU otherwise adds in the order in which its threads come,
    which in float32 differs by about 1e-6 of a sum.

    Raises:
        DenselyError: if an operator without such a version is met.
    """
    if not wanted:
        yield
        return
    # cuBLAS looks at it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise DenselyError(f"With --deterministic: {str(error).splitlines()[0]}") from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
