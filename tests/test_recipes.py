"""Learning-rate schedules against hand-written tables, and what a recipe refuses."""

import pytest

from densely.errors import UsageError
from densely.recipes import Recipe, change, default_recipe


def by_epoch(recipe: Recipe, steps: int = 10) -> list[float]:
    return [recipe.learning_rate_at(epoch * steps, steps) for epoch in range(recipe.epochs)]


def test_the_paper_s_stages_divide_by_ten_at_half_and_three_quarters() -> None:
    rates = by_epoch(Recipe(epochs=300, schedule="staged", learning_rate=0.1))
    assert rates == pytest.approx([0.1] * 150 + [0.01] * 75 + [0.001] * 75)


def test_the_notebook_s_stages_go_up_and_down() -> None:
    stages = ((20, 0.1), (4, 0.01), (20, 0.1), (40, 0.01), (20, 0.001), (10, 0.01), (20, 0.001))
    recipe = Recipe(epochs=140, stages=stages)
    expected = [rate for epochs, rate in stages for _ in range(epochs)] + [0.001] * 6
    assert by_epoch(recipe) == expected


def test_cosine_starts_at_the_top_and_ends_at_nothing() -> None:
    recipe = Recipe(epochs=4, schedule="cosine", learning_rate=0.2)
    rates = [recipe.learning_rate_at(step, 25) for step in range(100)]
    assert rates[0] == 0.2
    assert rates[50] == pytest.approx(0.1)
    assert rates[-1] < 1e-3 * 0.2
    assert rates == sorted(rates, reverse=True)


def test_constant_stays() -> None:
    assert set(by_epoch(Recipe(epochs=7, schedule="constant", learning_rate=0.3))) == {0.3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"schedule": "cosin"}, "schedule='cosin'"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"epoch": 3}, "did you mean epochs"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        change(Recipe(), **changes)


def test_digits_are_never_mirrored() -> None:
    assert not default_recipe("digits", (8, 8, 1))[0].flip
    assert not default_recipe("svhn", (32, 32, 3))[0].flip
