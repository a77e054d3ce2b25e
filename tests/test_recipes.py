"""Learning-rate schedules against hand-written tables, and what a recipe refuses."""

from dataclasses import asdict
from itertools import pairwise

import pytest

from densely.data import Augmentation
from densely.errors import UsageError
from densely.recipes import RECIPES, Recipe, Task, change, choose, idle


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


def by_step(recipe: Recipe, steps: int = 25) -> list[float]:
    return [recipe.learning_rate_at(step, steps) for step in range(recipe.epochs * steps)]


def test_one_cycle_is_two_straight_lines() -> None:
    rates = by_step(Recipe(epochs=4, schedule="one-cycle", warmup=0.2, learning_rate=0.5))
    up = [0.5 * step / 20 for step in range(1, 20)]
    down = [0.5 * (100 - step) / 80 for step in range(19, 100)]
    assert rates[:19] == pytest.approx(up)
    assert rates[20:] == pytest.approx(down[1:])
    assert max(rates) == pytest.approx(0.5, rel=0.02)


def test_a_trapezoid_rises_stays_and_falls() -> None:
    rates = by_step(Recipe(epochs=4, schedule="trapezoid", warmup=0.1, cooldown=0.4, learning_rate=0.2))
    assert rates[0] == pytest.approx(0.02)
    assert rates[10:61] == pytest.approx([0.2] * 51)
    assert rates[60:] == pytest.approx([0.2 * (100 - step) / 40 for step in range(60, 100)])


@pytest.mark.parametrize("schedule", ["constant", "staged", "cosine", "one-cycle", "trapezoid"])
def test_a_warm_up_meets_the_schedule_without_a_jump(schedule: str) -> None:
    rates = by_step(Recipe(epochs=8, schedule=schedule, warmup=0.25, learning_rate=0.1))
    assert max(rates) <= 0.1 * (1 + 1e-12)
    rising = [b - a for a, b in pairwise(rates[:50])]
    assert min(rising) > 0
    assert rates[50] == pytest.approx(rates[49], rel=0.05)


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
        ({"crop": 0.0}, "crop=0.0"),
        ({"fill": "mirror"}, "fill='mirror'"),
        ({"policy": "trival"}, "policy='trival'"),
        ({"cutout": -1}, "cutout=-1"),
        ({"mixup": -0.1}, "mixup=-0.1"),
        ({"mixup": float("inf")}, "mixup=inf: input should be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"stages": ((1, float("nan")),)}, "stages.0.1=nan"),
        ({"epoch": 3}, "did you mean epochs"),
        ({"schedule": "trapezoid", "warmup": 0.8}, "warmup=0.8 and cooldown=0.3"),
        ({"optimizer": "adam"}, "optimizer='adam'"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        change(Recipe(), **changes)


def test_a_schedule_takes_the_place_of_stages_and_a_rate_alone_is_refused() -> None:
    staged = choose("notebook", task("cifar10")).recipe
    annealed = change(staged, schedule="cosine", learning_rate=0.3)
    assert annealed.learning_rate_at(0, 10) == pytest.approx(0.3)
    with pytest.raises(UsageError, match="notebook has a learning rate for each of its stages"):
        change(staged, learning_rate=0.3)


def test_a_recipe_hands_its_augmentation_on_whole() -> None:
    settings = {
        "crop": 0.35,
        "turn": True,
        "flip_vertically": True,
        "shift": 3,
        "flip": True,
        "fill": "reflect",
        "policy": "trivial",
        "cutout": 8,
    }
    assert asdict(Recipe(**settings).augmentation) == settings
    assert Recipe().augmentation == Augmentation()
    assert not Recipe(**settings).mixes
    assert Recipe(mixup=0.2).mixes
    assert Recipe(cutmix=1.0).mixes


def task(data: str, images: int = 50_000) -> Task:
    return Task(data, (8, 8, 1) if data == "digits" else (32, 32, 3), 10, images)


def test_digits_are_never_mirrored() -> None:
    for name in RECIPES:
        if name != "paper-augmented":  # whoever asks for flips gets them
            assert not choose(name, task("digits")).recipe.flip
            assert not choose(name, task("svhn")).recipe.flip


def test_paper_is_the_paper_s() -> None:
    recipe, model, network, _ = choose("paper", task("cifar10"))
    assert model == "densenet-bc-100-12"
    assert network == {"dropout": 0.2}
    assert recipe.epochs == 300
    assert (recipe.batch_size, recipe.learning_rate, recipe.momentum, recipe.nesterov) == (64, 0.1, 0.9, True)
    assert (recipe.weight_decay, recipe.decay_on, recipe.preprocessing) == (1e-4, "all", "standardise")
    assert (recipe.shift, recipe.flip, recipe.val_fraction) == (0, False, 0.0)
    assert by_epoch(recipe) == pytest.approx([0.1] * 150 + [0.01] * 75 + [0.001] * 75)
    svhn = choose("paper", task("svhn")).recipe
    assert (svhn.epochs, svhn.preprocessing) == (40, "unit")
    assert by_epoch(svhn) == pytest.approx([0.1] * 20 + [0.01] * 10 + [0.001] * 10)


def test_paper_augmented_differs_in_dropout_shift_and_flip_only() -> None:
    plain, augmented = choose("paper", task("cifar100")), choose("paper-augmented", task("cifar100"))
    assert augmented.network == {"dropout": 0.0}
    changed = {k: v for k, v in augmented.recipe.model_dump().items() if v != plain.recipe.model_dump()[k]}
    assert changed == {"name": "paper-augmented", "shift": 4, "flip": True}


def test_notebook_is_the_notebook_s() -> None:
    recipe, model, network, _ = choose("notebook", task("cifar10"))
    assert (model, network) == ("notebook", {})
    assert recipe.epochs == 134
    assert (recipe.weight_decay, recipe.decay_on, recipe.preprocessing) == (1e-4, "kernels", "unit")
    assert (recipe.shift, recipe.flip) == (0, False)
    assert recipe.validate_on_test
    rates = [0.1] * 20 + [0.01] * 4 + [0.1] * 20 + [0.01] * 40 + [0.001] * 20 + [0.01] * 10 + [0.001] * 20
    assert by_epoch(recipe) == rates


def test_auto_shows_few_images_more_often() -> None:
    recipes = [choose("auto", Task("/photos", (64, 64, 3), 4, n)) for n in (100, 1_000, 100_000)]
    epochs = [choice.recipe.epochs for choice in recipes]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[0] > 2 * epochs[1] > 2 * epochs[2] - 1
    for choice in recipes:
        assert choice.recipe.name == "auto"
        assert choice.recipe.val_fraction > 0
        assert str(choice.recipe.epochs) in choice.why


def test_fast_takes_smaller_steps_with_smaller_batches_and_moves_shifts_alike() -> None:
    many, few = (choose("fast", Task("/photos", (32, 32, 3), 10, n)).recipe for n in (50_000, 5_000))
    assert few.batch_size < many.batch_size
    assert few.learning_rate < many.learning_rate
    assert few.learning_rate * few.beta_factor == pytest.approx(many.learning_rate * many.beta_factor)


def test_few_shot_holds_nothing_out() -> None:
    assert choose("few-shot", task("cifar10-50", 500)).recipe.val_fraction == 0.0


def test_every_recipe_says_where_it_comes_from_and_how_to_run_it() -> None:
    for recipe in RECIPES.values():
        assert recipe.__doc__ is not None
        assert "densely train" in recipe.__doc__


@pytest.mark.parametrize(
    ("changes", "asked", "words"),
    [
        ({"optimizer": "adamw"}, "momentum", "momentum has no effect: AdamW"),
        ({"optimizer": "adamw"}, "beta_factor", "AdamW scales"),
        ({}, "cooldown", "only the schedule trapezoid"),
        ({"schedule": "trapezoid", "stages": ((1, 0.1),)}, "cooldown", "only the schedule trapezoid"),
        ({"weight_decay": 0.0}, "decay_on", "the weight decay is 0"),
        ({}, "fill", "nothing is shifted"),
        ({"flip_in_turn": True}, "flip_in_turn", "nothing is mirrored without flip"),
    ],
)
def test_a_setting_that_does_nothing_is_told_if_it_was_asked_for(changes: dict, asked: str, words: str) -> None:
    recipe = Recipe(**changes)
    assert words in idle(recipe, ["epochs", asked])[0]
    assert not idle(recipe, ["epochs"])


def test_settings_that_do_something_are_not() -> None:
    recipe = Recipe(schedule="trapezoid", optimizer="muon", shift=1, flip=True)
    assert not idle(recipe, Recipe.model_fields)
    assert idle(recipe, Recipe.model_fields, validation_given=True) == [
        "val_fraction has no effect: the data have a validation part of their own"
    ]


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean paper"):
        choose("papre", task("digits"))
