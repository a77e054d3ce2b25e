"""How a network is trained: `Recipe`, one typed, frozen value, and the named ones.

A recipe is plain data, so that it can be printed, changed on the command line, and written into every run. The named
ones are short functions, because the paper itself trains longer on CIFAR than on SVHN; what each says of itself is
what `densely recipes` prints.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from densely.data import SMALL, Augmentation
from densely.errors import UsageError, from_validation, unknown

if TYPE_CHECKING:
    from densely.evaluation import Views


class Recipe(BaseModel):
    """A training recipe.

    Attributes:
        name: what it is called.
        epochs: passes over the training part.
        batch_size: images a step.
        learning_rate: the highest, η₀.
        schedule: `"constant"`; `"staged"`, ÷10 at 50 % and 75 % of the epochs (the paper's); `"cosine"`, from η₀
            to 0 step by step; `"one-cycle"`, in a straight line down to 0 after a `warmup` up to η₀ (Smith 2018);
            `"trapezoid"`, constant, then in a straight line to 0 over `cooldown`.
        warmup: share of the steps in which the rate first rises to η₀ in a straight line, under any schedule.
        cooldown: share of the steps in which a trapezoid falls.
        stages: `((epochs, learning rate), …)` in place of `schedule` and `learning_rate`, as the notebook annealed by
            hand; past its last stage the last rate stays.
        optimizer: `"sgd"`; `"muon"`, orthogonalised momentum for convolutions, SGD for the rest
            (`densely.training.optimizers.Muon`); `"adamw"` (Loshchilov & Hutter 2019; its decay is decoupled, λ·η·w).
        momentum, nesterov: of SGD.
        beta_factor: with SGD and Muon, the shifts β of batch normalisation learn at so many times the rate (AdamW
            scales every parameter's steps itself).
        weight_decay: λ, see `decay_on`.
        decay_on: `"all"`, λ·w added to the gradient of every parameter (the paper's code); `"kernels"`, `l2(λ)` in
            the loss of every kernel, so a gradient of 2λ·w (the notebook's).
        label_smoothing: ε of Szegedy et al. (2016): the target becomes (1 − ε)·target + ε/classes.
        class_weights: weigh each image by the rarity of its class: n / (classes · images of the class).
        ema: decay of an exponential moving average of the weights, which is then what is validated, scored and
            saved; 0 for none.
        clip_norm: scale a step's gradients down to this joint length where they are longer.
        accumulate: batches whose gradients are averaged into one step of the optimizer.
        precision: `"float32"`; `"bfloat16"`, activations and products in it, weights in float32; `"auto"`, bfloat16
            where the processor has it.
        early_stop: end after so many epochs without a better validation score, and go back to the best weights.
        flip_test, shift_test: score, and predict, by the mean over an image and its mirror image, and over both moved
            by so many pixels (`densely.evaluation.Views`).
        preprocessing: `"unit"`, pixels / 255; `"standardise"`, then less the training part's channel mean, over
            its standard deviation.
        shift: random shift in pixels to each side, image by image (pad, then crop; the paper's 4).
        flip: mirror left to right, every second image by chance.
        flip_in_turn: with `flip`, mirror each image in every second epoch: what one epoch does not, the next does.
        fill: what a move brings in at the border: `"zero"`, black or, standardised, the mean colour (the paper's
            code); `"reflect"`, the mirror image.
        flip_vertically: upside down, every second image by chance.
        turn: by 0 to 3 quarters; square images only.
        crop: cut out a random rectangle of at least this share of the area, and enlarge it; `None` leaves it out.
        policy: `"trivial"`, one random change of place or colour an image (TrivialAugment); `"none"`.
        cutout: side in pixels of a square that is blanked; 0 leaves it out.
        mixup: α of mixup, 0 leaves it out; if `cutmix` is given too, each batch undergoes one of the two by chance.
        cutmix: α of CutMix, 0 leaves it out.
        val_fraction: share of the training data held out to watch, where the source has no validation part.
        validate_on_test: watch the test part after every epoch, as the notebook did; its score is then no honest one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "custom"
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=0.1, gt=0)
    schedule: Literal["constant", "staged", "cosine", "one-cycle", "trapezoid"] = "cosine"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    cooldown: float = Field(default=0.3, gt=0, le=1)
    stages: tuple[tuple[int, float], ...] | None = None
    optimizer: Literal["sgd", "muon", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    beta_factor: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    decay_on: Literal["all", "kernels"] = "all"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: bool = False
    ema: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    accumulate: int = Field(default=1, ge=1)
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    early_stop: int | None = Field(default=None, ge=1)
    flip_test: bool = False
    shift_test: int = Field(default=0, ge=0)
    preprocessing: Literal["unit", "standardise"] = "standardise"
    shift: int = Field(default=0, ge=0)
    flip: bool = False
    flip_in_turn: bool = False
    fill: Literal["zero", "reflect"] = "zero"
    flip_vertically: bool = False
    turn: bool = False
    crop: float | None = Field(default=None, gt=0, le=1)
    policy: Literal["none", "trivial"] = "none"
    cutout: int = Field(default=0, ge=0)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    validate_on_test: bool = False

    @property
    def augmentation(self) -> Augmentation:
        """What is done to each training image on its own."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in fields(Augmentation)})

    @property
    def views(self) -> "Views":
        """At what of an image the trained network looks."""
        from densely.evaluation import Views  # with SciPy, which `densely recipes` need not wait for

        return Views(self.flip_test, self.shift_test)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with one another, so that a target is a distribution over the classes."""
        return self.mixup > 0 or self.cutmix > 0

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over the whole training."""
        total = self.epochs * steps_per_epoch
        rising = self.warmup * total
        if step + 1 < rising:
            return self._after_warmup(rising, steps_per_epoch) * (step + 1) / rising
        return self._after_warmup(max(step, rising), steps_per_epoch)

    def _after_warmup(self, step: float, steps_per_epoch: int) -> float:
        epoch = step // steps_per_epoch
        if self.stages is not None:
            end = 0
            for epochs, rate in self.stages:
                end += epochs
                if epoch < end:
                    return rate
            return self.stages[-1][1]
        if self.schedule == "staged":
            passed = (epoch >= 0.5 * self.epochs) + (epoch >= 0.75 * self.epochs)
            return self.learning_rate * 0.1**passed
        total = self.epochs * steps_per_epoch
        left = (total - step) / (total - self.warmup * total)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 - math.cos(math.pi * left))
        if self.schedule == "one-cycle":
            return self.learning_rate * left
        if self.schedule == "trapezoid":
            return self.learning_rate * min(1.0, (total - step) / (self.cooldown * total))
        return self.learning_rate

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.warmup + (self.cooldown if self.schedule == "trapezoid" else 0.0) > 1:
            raise ValueError(
                f"warmup={self.warmup} and cooldown={self.cooldown} together pass the whole training: their sum must "
                "be at most 1."
            )
        return self


def change(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe with some of its fields changed. A schedule that is asked for takes the place of the recipe's stages.

    Raises:
        UsageError: for an unknown field, a value out of range, or a learning rate alone where stages have their own.
    """
    if recipe.stages is not None and "stages" not in changes:
        if "schedule" in changes:
            changes["stages"] = None
        elif "learning_rate" in changes:
            raise UsageError(
                f"The recipe {recipe.name} has a learning rate for each of its stages: give a schedule too, which "
                "takes their place."
            )
    for field in changes:
        if field not in Recipe.model_fields:
            raise unknown("training setting", field, Recipe.model_fields)
    try:
        return Recipe(**{**recipe.model_dump(), **changes})
    except ValidationError as error:
        raise from_validation("training", error) from None


def idle(recipe: Recipe, asked: Iterable[str], validation_given: bool = False) -> list[str]:
    """What was asked for and changes nothing beside the recipe's other settings, each in a sentence.

    Args:
        recipe: as it will be run.
        asked: names of the fields that were given.
        validation_given: whether the data have a validation part of their own.
    """
    reasons = {
        "momentum": "AdamW has none of its kind" if recipe.optimizer == "adamw" else "",
        "beta_factor": "AdamW scales every step itself" if recipe.optimizer == "adamw" else "",
        "cooldown": "only the schedule trapezoid has one" if recipe.schedule != "trapezoid" or recipe.stages else "",
        "decay_on": "the weight decay is 0" if not recipe.weight_decay else "",
        "fill": "nothing is shifted" if not recipe.shift and recipe.policy == "none" else "",
        "flip_in_turn": "nothing is mirrored without flip" if not recipe.flip else "",
        "val_fraction": "the data have a validation part of their own" if validation_given else "",
    }
    return [f"{field} has no effect: {reasons[field]}" for field in asked if reasons.get(field)]


SVHN = ("svhn", "svhn-extra")


class Task(NamedTuple):
    """What is to be learnt: all that a recipe may look at before it chooses.

    Attributes:
        data: name of a built-in data set, or a folder's path.
        input_shape: (height, width, channels) of the images.
        classes: how many.
        images: how many there are to train and validate on.
    """

    data: str
    input_shape: tuple[int, int, int]
    classes: int
    images: int


class Choice(NamedTuple):
    """What a recipe chooses for a task.

    Attributes:
        recipe: how to train.
        model: name of the network.
        network: fields of `NetworkSpec` that it changes.
        why: half a sentence for the user.
    """

    recipe: Recipe
    model: str
    network: dict[str, Any]
    why: str


def auto(task: Task) -> Choice:
    """Chosen from the data: the default.

    densely train photos
    """
    if task.data == "digits":
        # A mirrored digit is another sign, and the scans are centred already: shifting them by one pixel of eight
        # cost half a percent of test accuracy.
        recipe = Recipe(name="auto", epochs=40, weight_decay=1e-3, preprocessing="unit")
        return Choice(recipe, "densenet-bc-22-12", {}, "small images, neither mirrored nor shifted")
    if task.data in ("cifar10", "cifar100", "cifar100-coarse", *SVHN):
        return _called("auto", fast(task))
    choice = few_shot(task)
    if task.data in SMALL:
        return _called("auto", choice)
    recipe = change(
        choice.recipe,
        name="auto",
        epochs=_epochs(task, views=30_000, least=20, most=150),
        # What an intensity means where the channels are not colours, nobody knows: it stays as it is.
        policy="trivial" if task.input_shape[2] == 3 else "none",
        val_fraction=0.1,
    )
    strong = ", strong augmentation" if recipe.policy == "trivial" else ""
    why = f"about {task.images / task.classes:,.0f} images a class: each seen {recipe.epochs} times{strong}"
    return choice._replace(recipe=recipe, why=why)


def notebook(task: Task) -> Choice:
    """The teaching notebook's: BC-100-12 on pixels / 255, annealed by hand over 134 epochs; 93.24 % on CIFAR-10.

    densely train cifar10 --recipe notebook

    No augmentation, dropout 0.2, `l2(1e-4)` on kernels, Keras's defaults for batch normalisation. **The test part is
    its validation data**, looked at after every epoch: the network may have been chosen by it, so its score is not
    the honest one that all other recipes give. 20.5 hours on the GPU of its day; not yet run to the end here.
    """
    recipe = Recipe(
        name="notebook",
        epochs=134,
        stages=((20, 0.1), (4, 0.01), (20, 0.1), (40, 0.01), (20, 0.001), (10, 0.01), (20, 0.001)),
        weight_decay=1e-4,
        decay_on="kernels",
        preprocessing="unit",
        val_fraction=0.0,
        validate_on_test=True,
    )
    return Choice(recipe, "notebook", {}, "as the notebook ran it, the test part as validation data")


def paper(task: Task) -> Choice:
    """The paper's without augmentation: its columns C10, C100 and SVHN (Section 4.2); 5.92, 24.15 and 1.76 % error.

    densely train cifar10 --recipe paper

    Dropout 0.2, 300 epochs (SVHN: 40), learning rate 0.1 divided by ten at half and three quarters, weight decay 1e-4
    on all parameters, channels standardised (SVHN: pixels / 255), all training images, the last epoch's error. With
    `--tune`, 5,000 of CIFAR's training images are held out and scored in place of the test part. Any network of the
    paper by `--model`. Not yet run to the end here.
    """
    svhn = task.data in SVHN
    recipe = Recipe(
        name="paper",
        epochs=40 if svhn else 300,
        schedule="staged",
        preprocessing="unit" if svhn else "standardise",
        val_fraction=0.0,
    )
    return Choice(recipe, "densenet-bc-100-12", {"dropout": 0.2}, "as the paper ran it without augmentation")


def paper_augmented(task: Task) -> Choice:
    """The paper's with shifts and flips: its columns C10+ and C100+ (Section 4.1); 4.51 and 22.27 % error.

    densely train cifar10 --recipe paper-augmented

    As `paper`, but no dropout; each image is mirrored by chance and shifted by up to 4 pixels, the border filled with
    the mean colour. Independent reproductions of 4.51 cluster at 4.6 to 4.8. Not yet run to the end here.
    """
    choice = paper(task)
    recipe = change(choice.recipe, name="paper-augmented", shift=4, flip=True)
    return Choice(recipe, choice.model, {"dropout": 0.0}, "as the paper ran it with shifts and flips")


def fast(task: Task) -> Choice:
    """The most accuracy in the least arithmetic: for CIFAR-10 on a laptop's processor.

    densely train cifar10 --recipe fast

    A shallow DenseNet whose growth rate doubles from block to block, on maps that a whitened stem has pooled; Muon on
    the convolutions, fast shifts β, one cycle of the learning rate, smoothed labels, flips in turn and reflected
    shifts of 2 pixels, the mean over six views of an image at the end; bfloat16 where the processor has it. After
    Jordan (2024), *94 % on CIFAR-10 in 3.29 seconds on a single GPU*. 2 % of the training images are held out to
    watch; fewer than 20,000 images come in batches of 64, at half the rate. Reached here: 93.3 and 93.4 % on CIFAR-10
    after 20 minutes on 2 cores with bfloat16 (docs/recipes.md).
    """
    flip = task.data not in ("digits", *SVHN)
    # A quarter of the images makes a step twice as noisy: it is half as long then, but for shifts β.
    many = task.images >= 20_000
    recipe = Recipe(
        name="fast",
        epochs=12,
        batch_size=256 if many else 64,
        learning_rate=0.12 if many else 0.06,
        schedule="one-cycle",
        warmup=0.15,
        optimizer="muon",
        beta_factor=16.0 if many else 32.0,
        weight_decay=5e-4,
        label_smoothing=0.1,
        precision="auto",
        shift=2,
        fill="reflect",
        flip=flip,
        flip_in_turn=True,
        flip_test=flip,
        shift_test=1,
        val_fraction=0.02,
    )
    return Choice(recipe, "densenet-fast-pooled", {}, "few epochs of a shallow, widening network")


def few_shot(task: Task) -> Choice:
    """For tens to hundreds of images a class.

    densely train cifar10-50 --recipe few-shot

    The optimizer of `fast` and its network on a cheaper stem, but small batches, so that few images make many steps,
    and strong augmentation: shifts of an eighth of the side, flips, and one random change of place or colour an image
    (TrivialAugment, Müller & Hutter 2021). Nothing is held out: images are scarce. `--tune` holds out to compare.
    Reached here on CIFAR-10 with 50 images a class: 58.87 ± 0.25 % (3 seeds, 3 minutes each, docs/recipes.md).
    """
    recipe = change(
        fast(task).recipe,
        name="few-shot",
        epochs=_epochs(task, views=30_000, least=30, most=150),
        batch_size=50 if task.images < 5_000 else 128,
        learning_rate=0.06,
        beta_factor=1.0,
        warmup=0.1,
        shift=max(1, min(task.input_shape[:2]) // 8),
        policy="trivial",
        val_fraction=0.0,
    )
    return Choice(recipe, "densenet-fast", {}, f"strong augmentation, each image seen {recipe.epochs} times")


def _epochs(task: Task, views: int, least: int, most: int) -> int:
    """So many that the training sees `views` images in all: fewer images, more epochs."""
    return max(least, min(most, round(views / task.images)))


def _called(name: str, choice: Choice) -> Choice:
    return choice._replace(recipe=change(choice.recipe, name=name))


#: Every recipe by its name on the command line.
RECIPES: Mapping[str, Callable[[Task], Choice]] = {
    "auto": auto,
    "notebook": notebook,
    "paper": paper,
    "paper-augmented": paper_augmented,
    "fast": fast,
    "few-shot": few_shot,
}


def named(name: str) -> Callable[[Task], Choice]:
    """The recipe of that name.

    Raises:
        UsageError: if there is none.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def choose(name: str, task: Task) -> Choice:
    """What the recipe of that name chooses for a task.

    Args:
        name: one of `RECIPES`.
        task: what is to be learnt.

    Raises:
        UsageError: if there is no such recipe.
    """
    return named(name)(task)
