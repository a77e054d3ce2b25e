"""SPACE.toml: what it may say, and what is said where it is wrong."""

import tomllib
from pathlib import Path

import pytest

from densely.errors import UsageError
from densely.sweeps.space import Range, arguments, parse, read


def test_values_choices_and_ranges() -> None:
    space = parse(
        tomllib.loads("""
            epochs = 3
            optimizer = ["sgd", "muon"]
            lr = {low = 0.01, high = 1, log = true}
            batch-size = {low = 16, high = 64, step = 16}
            growth_rate = [8, 12]
        """)
    )
    assert space.fixed == {"epochs": 3}
    assert space.searched == {
        "optimizer": ("sgd", "muon"),
        "learning_rate": Range(low=0.01, high=1.0, log=True),
        "batch_size": Range(low=16.0, high=64.0, step=16.0),
        "growth_rate": (8, 12),
    }
    assert arguments(space.corner) == {
        "epochs": 3, "optimizer": "sgd", "learning_rate": 0.01, "batch_size": 16, "network": {"growth_rate": 8},
    }  # fmt: skip
    assert isinstance(space.corner["batch_size"], int)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat = 0.1", "no setting named 'learning_rat': did you mean learning_rate"),
        ("validate_on_test = true", "no setting named 'validate_on_test'"),
        ("lr = {low = 1, high = 0.1}", "learning_rate: low = 1 must be below high = 0.1"),
        ("lr = {low = 0, high = 1, log = true}", "low = 0 has no logarithm"),
        ("lr = {low = 0.1, high = 1, log = true, step = 0.1}", "step and log do not go together"),
        ("lr = {low = 0.1, hihg = 1}", "no part of a range named 'hihg': did you mean high"),
        ("lr = {low = 0.1}", "a range has two ends"),
        ('lr = {low = "a", high = 1}', "low='a': input should be a valid number"),
        ("dropout = {low = 0.0, high = 0.5, step = 0.2}", "steps of 0.2 from low = 0 do not meet high = 0.5"),
        ("dropout = {low = 0.0, high = 1.5}", "dropout = 1.5: input should be less than 1"),
        ("batch_size = {low = 8, high = 16.5}", "batch_size = 16.5: input should be a valid integer"),
        ("epochs = {low = 1, high = 4, step = 0.5}", "step = 0.5 must be a whole number"),
        ('optimizer = {low = "muon", high = "sgd"}', 'optimizer takes no range, but choices, like optimizer = ["sgd"'),
        ('optimizer = ["sgd", "mon"]', "optimizer = 'mon': input should be 'sgd', 'muon' or 'adamw'"),
        ("lr = [0.1, 0.1]", "choices are two or more, all different"),
        ("flip = 1", "flip = 1: input should be a valid boolean"),
        ('model = ["densenet-40-12", "densenet-4"]', "no network named 'densenet-4': did you mean"),
        ('recipe = "papre"\nlr = [1, 2]', "no recipe named 'papre': did you mean paper"),
        ("lr = [1, 2]\nlearning_rate = 1", "learning_rate stands there twice"),
        ("epochs = 3", "there is nothing to search"),
        ("lr = = 3", "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as told:
        read(path)
    assert said in str(told.value)
    assert str(path) in str(told.value)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no space .*nowhere\.toml"):
        read(tmp_path / "nowhere.toml")
