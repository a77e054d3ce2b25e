"""Memory that ran out is told in a sentence; every other error stays what it is."""

import pytest
import torch

from densely.errors import DenselyError
from densely.training.out_of_memory import memory_errors


def test_what_pytorch_could_not_allocate_is_told() -> None:
    with pytest.raises(DenselyError, match=r"step of 256 images: 4000000000000000 bytes more .* --batch-size"):  # noqa: SIM117
        with memory_errors(256):
            torch.empty(10**15)


def test_python_has_an_error_of_its_own() -> None:
    with pytest.raises(DenselyError, match=r"^Out of memory in a step of 32 images\. Lower"), memory_errors(32):
        bytearray(2**62)


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match="must match"), memory_errors(32):
        torch.ones(2) + torch.ones(3)
