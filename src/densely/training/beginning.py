"""The weights that a training starts from, opened and checked."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from densely import fine_tuning, pretrained, transfer
from densely.data import NAMES
from densely.errors import DataError, UsageError
from densely.model_file import open_trained
from densely.recipes import Recipe
from densely.runs import Run, Start, read_fingerprints, reading

if TYPE_CHECKING:
    from densely.architecture import NetworkSpec
    from densely.data import Dataset
    from densely.model_file import ModelFile


@dataclass(frozen=True)
class Beginning:
    """Trained weights to start from, and what is done with them.

    Attributes:
        trained: where they are from.
        weights: what they are called in the config: a path in full, or a name of weights that come with Densely.
        sha256: of the file with the weights.
        freeze, stage_rates: as in `densely.runs.Start`.
    """

    trained: Run | ModelFile
    weights: str
    sha256: str
    freeze: str | None
    stage_rates: float

    @classmethod
    def chosen(
        cls, weights: str | Path | None, freeze: str | None, stage_rates: float | None, saved: Start | None
    ) -> Beginning | None:
        """What was asked for: in words, or in a saved config, of which what is given here goes first.

        Returns:
            `None` for fresh weights.

        Raises:
            UsageError: if there are no such weights, or nothing to freeze; for rates out of range.
            DataError: if they are damaged, or not those of the saved config any more.
        """
        name = weights if weights is not None else saved.weights if saved is not None else None
        if name is None:
            if freeze is not None or stage_rates is not None:
                option = "--freeze" if freeze is not None else "--stage-rates"
                raise UsageError(f"{option} is for trained weights: name them with --weights.")
            return None
        rates = stage_rates if stage_rates is not None else saved.stage_rates if saved is not None else 1.0
        if not 0 < rates <= 1:
            raise UsageError(f"--stage-rates must be above 0 and at most 1, not {rates}.")
        trained = open_trained(name)
        path = trained.folder / "final.weights.h5" if isinstance(trained, Run) else trained.path
        with reading(path), path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if weights is None and saved is not None and sha256 != saved.sha256:
            raise DataError(
                f"{path} has changed since the config was written: it says SHA-256 {saved.sha256[:12]}…, the file has "
                f"{sha256[:12]}…; name the weights to start from anew."
            )
        full = str(name) if pretrained.comes_along(name) else str(Path(os.path.expanduser(name)).resolve())
        return cls(trained, full, sha256, freeze or (saved.freeze if saved is not None else None), rates)

    def preprocessing_fits(self, asked: str | None) -> None:
        """Refuse another preprocessing than the weights were trained with.

        Raises:
            UsageError: if another one was asked for.
        """
        kind = self.trained.preprocessing.kind
        if asked not in (None, kind):
            raise UsageError(
                f"The weights of {self.weights} want their own preprocessing, {kind}: leave --preprocessing out."
            )

    def check_unseen(self, data: str, part: str, images: Dataset, fold: tuple[int, int] | None) -> None:
        """Refuse a score on images that the weights may have been trained on.

        Args:
            data: what the training's images are called.
            part: that will be scored, `"test"` or `"val"`.
            images: of that part.
            fold: of a cross-validation, or None.

        Raises:
            UsageError: if the weights come from the same images, divided otherwise.
        """
        if images.class_names != self.trained.inputs.class_names:
            return
        if isinstance(self.trained, Run):
            if _kind(self.trained.config.data) != _kind(data):
                return
            if read_fingerprints(self.trained.folder).get(part) == images.fingerprint():
                return
        elif self.weights not in pretrained.SHIPPED or _kind(data) != self.weights:
            return
        if part == "test" and fold is None and data in NAMES:
            return  # theirs is the same for everybody, whole or in part
        name = "validation" if part == "val" else part
        raise UsageError(
            f"The weights of {self.weights} have been trained on images of the {name} part, whose score would say "
            f"nothing: divide {data} as they did (seed, --limit, --folds), or take other weights."
        )

    def start(self, network: NetworkSpec, train: Dataset) -> Start:
        """What the config says of it.

        Args:
            network: that is trained.
            train: its images.
        """
        same = train.class_names == self.trained.inputs.class_names
        new_head = not (same and transfer.head_fits(self.trained.network, network))
        return Start(
            weights=self.weights,
            sha256=self.sha256,
            new_head=new_head,
            freeze=self.freeze,
            stage_rates=self.stage_rates,
        )


def _kind(data: str) -> str:
    """What built-in data are a choice of (`cifar10` of `cifar10-50`); of others what they are called."""
    return data.partition("-")[0] if data in NAMES else data


def set_up(model: keras.Model, begin: Beginning, start: Start) -> None:
    """Give a fresh network the weights, and freeze what is to be frozen."""
    transfer.give(model, begin.trained, new_head=start.new_head)
    if start.freeze is not None:
        fine_tuning.freeze(model, start.freeze)


def layer_rates(model: keras.Model, recipe: Recipe, start: Start | None) -> dict[str, float]:
    """How many times the rate each layer learns at; empty where all learn at one.

    Raises:
        UsageError: for an optimizer that knows one rate only.
    """
    if start is None or start.stage_rates == 1:
        return {}
    if recipe.optimizer == "adamw":
        raise UsageError("AdamW has one rate for all stages: leave --stage-rates out, or take --optimizer sgd or muon.")
    return fine_tuning.stage_rates(model, start.stage_rates)
