"""`--deterministic` is on inside, off after, and changes nothing on a CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from densely.errors import DenselyError
from densely.training.determinism import same_bits
from densely.training.single import train


def test_it_is_on_only_inside() -> None:
    with same_bits(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with same_bits(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operator_without_such_a_version_is_told() -> None:
    with pytest.raises(DenselyError, match=r"With --deterministic: .*put_"), same_bits(True):
        torch.ones(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_a_training_gives_the_same_bits_with_and_without_on_a_cpu(tmp_path: Path) -> None:
    options = {"model": "densenet-bc-16-8", "epochs": 2, "limit": 200, "network": {"dropout": 0.2}}
    runs = [
        train("digits", out=tmp_path / str(i), deterministic=wanted, console=Console(quiet=True), **options)
        for i, wanted in enumerate([False, False, True])
    ]
    first, *others = [run.model().weights for run in runs]
    for weights in others:
        for one, other in zip(first, weights, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert runs[2].config.deterministic
