"""What is taken is put back exactly, and what is of another network is refused before anything is changed."""

import json
import random
from typing import Any

import keras
import numpy as np
import pytest
import torch

import densely
from densely.errors import DataError
from densely.training.optimizers import Muon
from densely.training.resume import state


def trained(growth_rate: int = 4) -> keras.Model:
    model = densely.build("densenet-bc-16-8", growth_rate=growth_rate, dropout=0.3, input_shape=(8, 8, 1), classes=3)
    model.compile(optimizer=Muon(0.1), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    steps(model, 2)
    return model


def steps(model: keras.Model, count: int) -> list[float]:
    rng = np.random.default_rng(0)
    return [
        float(model.train_on_batch(rng.normal(size=(6, 8, 8, 1)).astype("float32"), np.arange(6) % 3)[0])
        for _ in range(count)
    ]


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_model_goes_on_exactly_from_what_was_taken() -> None:
    model = trained()
    taken = state.tensors(model)
    losses, after = steps(model, 3), state.tensors(model)
    assert not equal(taken, after)
    other = trained()
    steps(other, 4)
    state.put_tensors_back(taken, other)
    assert equal(state.tensors(other), taken)
    assert steps(other, 3) == losses
    assert equal(state.tensors(other), after)


def test_what_is_taken_does_not_change_afterwards() -> None:
    model = trained()
    taken = state.tensors(model)
    copy = {name: value.copy() for name, value in taken.items()}
    steps(model, 1)
    assert equal(taken, copy)


def test_another_network_is_refused_and_nothing_changed() -> None:
    model = trained()
    before = state.tensors(model)
    for wrong in (state.tensors(trained(growth_rate=5)), {}, {**before, "more": np.zeros(1)}):
        with pytest.raises(DataError, match="another network or optimizer"):
            state.put_tensors_back(wrong, model)
        assert equal(state.tensors(model), before)


def test_averages_are_part_of_it() -> None:
    model, averages = trained(), [torch.arange(3.0), torch.arange(6.0).reshape(2, 3).T]
    taken = state.tensors(model, averages)
    assert all(value.flags.c_contiguous for value in taken.values())  # as files of arrays want them
    np.testing.assert_array_equal(taken["average/0001"], [[0, 3], [1, 4], [2, 5]])
    averages[0].zero_()
    state.put_tensors_back(taken, model, averages)
    assert averages[0].tolist() == [0, 1, 2]


def test_generators_go_on_as_they_would_have() -> None:
    taken = json.loads(json.dumps(state.generators()))

    def drawn() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.random(), np.random.normal(), float(torch.rand(()))]

    first = drawn()
    assert drawn() != first
    state.put_generators_back(taken)
    assert drawn() == first


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_numbers_are_found(bad: float) -> None:
    assert state.all_finite({"a": np.ones(3, dtype=np.float32), "b": np.array([2**31], dtype=np.uint32)})
    assert not state.all_finite({"a": np.array([1, bad, 3], dtype=np.float32)})


def test_a_generator_of_another_length_is_refused() -> None:
    taken = state.generators()
    short = {**taken, "torch": [taken["torch"][0][:-2]]}
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"^the state of PyTorch's generator has another length$"):
        state.put_generators_back(short)
    assert torch.equal(torch.get_rng_state(), before)
