"""Where in an image a network sees a class: class activation maps.

A DenseNet ends in ReLU, the mean over all pixels and one linear layer. The last two may change places; the logit of
class c is

    b_c + Σ_k w_kc · mean over pixels of a_k  =  mean over pixels of ( b_c + Σ_k w_kc · a_k )

so what is in brackets says exactly what each pixel of the last maps contributes, without a gradient and without an
approximation (B. Zhou et al., *Learning Deep Features for Discriminative Localization*, CVPR 2016). Maps of earlier
layers are larger but are not followed by a mean; for them there is Grad-CAM (R. R. Selvaraju et al., ICCV 2017): each
map is weighted by the mean gradient of the logit with respect to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densely import pictures
from densely.data import Preprocessing, read_image
from densely.errors import UsageError, unknown
from densely.evaluation import probabilities
from densely.model_file import ModelFile
from densely.runs import Run, Weights

if TYPE_CHECKING:
    import keras

FINAL = "final_relu"
"""The layer whose maps the classifier averages."""


@dataclass(frozen=True)
class Seen:
    """What a network gives for images on the way to its answer.

    Attributes:
        maps: float32, `(N, h, w, C)`: the last maps, after normalisation and ReLU.
        logits: float32, `(N, classes)`.
        kernel: `(C, classes)` of the classifier.
        bias: `(classes,)` of the classifier.
    """

    maps: NDArray[np.float32]
    logits: NDArray[np.float32]
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]

    def activation_maps(self, classes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """The exact class activation map of each image for one class of its own.

        Args:
            classes: one index an image.

        Returns:
            `(N, h, w)`; the mean of a map is the logit of that class.
        """
        chosen = np.asarray(classes, dtype=np.int64)
        share = np.einsum("nhwc,cn->nhw", self.maps, self.kernel[:, chosen])
        return np.asarray(share + self.bias[chosen][:, None, None])


def features(
    model: keras.Model, images: NDArray[np.uint8], preprocessing: Preprocessing, batch_size: int = 64
) -> NDArray[np.float32]:
    """What the classifier reads of images: the mean of each of the last maps.

    Args:
        model: one of Densely's networks.
        images: uint8 `(N, H, W, C)`.
        preprocessing: what the model was trained with.
        batch_size: images at a time; only their features are kept.

    Returns:
        `(N, C)`.
    """
    import keras

    inner = keras.Model(model.input, model.get_layer("global_pool").output)
    found = [
        keras.ops.convert_to_numpy(inner.predict_on_batch(preprocessing(images[i : i + batch_size])))
        for i in range(0, len(images), batch_size)
    ]
    return np.concatenate(found).astype(np.float32)


def look(model: keras.Model, pixels: NDArray[np.float32], batch_size: int = 64) -> Seen:
    """Run a network and keep its last maps: as many images as there is memory for, so not whole parts.

    Args:
        model: one of Densely's networks.
        pixels: `(N, H, W, C)`, preprocessed.
        batch_size: images at a time.

    Raises:
        UsageError: the model does not end as a DenseNet does.
    """
    import keras

    names = {layer.name for layer in model.layers}
    if not {FINAL, "logits"} <= names:
        raise UsageError(f"The model {model.name} has no layers {FINAL} and logits: it is not one of Densely's.")
    inner = keras.Model(model.input, [model.get_layer(FINAL).output, model.get_layer("logits").output])
    found = [
        [keras.ops.convert_to_numpy(output) for output in inner.predict_on_batch(pixels[i : i + batch_size])]
        for i in range(0, len(pixels), batch_size)
    ]
    maps, logits = (np.concatenate(part).astype(np.float32) for part in zip(*found, strict=True))
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in model.get_layer("logits").weights)
    return Seen(maps, logits, kernel, bias)


def grad_cam(
    model: keras.Model, pixels: NDArray[np.float32], classes: Sequence[int], layer: str
) -> NDArray[np.float32]:
    """Grad-CAM of a layer of your choice.

    Args:
        model: with a layer `logits`, on PyTorch.
        pixels: `(N, H, W, C)`, preprocessed; all of them go through the network at once.
        classes: one index an image.
        layer: name of a layer whose output is `(N, h, w, channels)`, e.g. `"dense_block_2"`.

    Returns:
        `(N, h, w)`, nowhere below 0: as Selvaraju et al. define it, what speaks against a class is left out.

    Raises:
        UsageError: there is no such layer, or its output is no map.
    """
    import keras
    import torch

    maps_of = [item.name for item in model.layers if len(item.output.shape) == 4]
    if layer not in maps_of:
        raise unknown("layer", layer, maps_of)
    inner = keras.Model(model.input, [model.get_layer(layer).output, model.get_layer("logits").output])
    with torch.enable_grad():
        x: Any = keras.ops.convert_to_tensor(pixels)
        maps, logits = inner(x.requires_grad_(), training=False)
        wanted = logits[torch.arange(len(pixels)), torch.as_tensor(list(classes), device=logits.device)].sum()
        (gradient,) = torch.autograd.grad(wanted, maps)
    weight = gradient.mean(dim=(1, 2), keepdim=True)
    return np.asarray((weight * maps).sum(-1).relu().float().cpu().detach().numpy())


def overlay(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map as a layer of colour to lay over its image: clear where the least speaks for the class, then red to yellow.

    Args:
        values: `(h, w)`; scaled from its lowest to its highest value. A map without differences stays clear.

    Returns:
        uint8 RGBA, `(h, w, 4)`.
    """
    low, high = float(values.min()), float(values.max())
    strength = (values - low) / (high - low) if high > low else np.zeros_like(values)
    # The eye should find the strongest places, not a veil over the whole image.
    strength = strength[..., None] ** 1.5
    red, yellow = np.array([224.0, 36.0, 94.0]), np.array([255.0, 226.0, 40.0])
    return np.dstack([red + (yellow - red) * strength, 165 * strength]).round().astype(np.uint8)


def laid_over(image: NDArray[np.uint8], values: NDArray[np.float32], side: int = 256) -> Image.Image:
    """An image with a class activation map over it, RGB.

    Args:
        image: uint8 `(H, W, C)`.
        values: `(h, w)`, of any size.
        side: longest side of the picture in pixels, at most.
    """
    base = pictures.resized(image, *pictures.fitting(image.shape[0], image.shape[1], side)).convert("RGBA")
    heat = Image.fromarray(overlay(values)).resize(base.size, Image.Resampling.BICUBIC)
    return Image.alpha_composite(base, heat).convert("RGB")


@dataclass(frozen=True)
class Explanation:
    """Why a network says what it says of one image.

    Attributes:
        image: uint8 `(H, W, C)`, as the network saw it.
        classes: names of the classes explained, likeliest first, or the one asked for.
        probabilities: of each of them.
        maps: `(classes, h, w)`, one class activation map each.
        layer: where the maps are from.
    """

    image: NDArray[np.uint8]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    maps: NDArray[np.float32]
    layer: str


def explain(
    run: Run | ModelFile,
    image: str | Path | NDArray[np.uint8],
    *,
    of: str | None = None,
    layer: str = FINAL,
    top: int = 3,
    weights: Weights = "final",
) -> Explanation:
    """Explain what a trained network says of an image: what `densely explain` does.

    Args:
        run: a trained network: an opened run, or a model file.
        image: a path, brought to the run's size as its training images were, or uint8 `(H, W, C)` of that size.
        of: a class to explain; by default the `top` likeliest.
        layer: `"final_relu"` (default) for the exact map, or another layer's name for Grad-CAM.
        top: how many classes.
        weights: `"final"` or `"best"`.

    Raises:
        UsageError: for a class, layer or file that does not exist, or `top` below 1.
        DataError: if the file is no image.
    """
    height, width, channels = run.inputs.input_shape
    names = run.inputs.class_names
    if of is not None and of not in names:
        raise unknown("class", of, names)
    if top < 1:
        raise UsageError(f"--top must be at least 1, not {top}.")
    shown = image if isinstance(image, np.ndarray) else read_image(image, (height, width), channels)
    if shown.shape != (height, width, channels):
        raise UsageError(f"The image is {shown.shape}, but the run's images are {(height, width, channels)}.")
    model = run.model(weights)
    p = probabilities(model, shown[None], run.preprocessing, views=run.views)[0]
    chosen = [names.index(of)] if of is not None else np.argsort(-p, kind="stable")[:top].tolist()
    pixels = run.preprocessing(np.repeat(shown[None], len(chosen), axis=0))
    maps = look(model, pixels).activation_maps(chosen) if layer == FINAL else grad_cam(model, pixels, chosen, layer)
    return Explanation(shown, tuple(names[i] for i in chosen), tuple(float(p[i]) for i in chosen), maps, layer)


def draw(found: Explanation, side: int = 256) -> Image.Image:
    """The picture of an explanation: the image, then each class's map laid over it, with its probability."""
    size = pictures.fitting(found.image.shape[0], found.image.shape[1], side)
    cells = [pictures.resized(found.image, *size), *(laid_over(found.image, values, side) for values in found.maps)]
    words = ["the image", *(f"{n}  {100 * p:.1f} %" for n, p in zip(found.classes, found.probabilities, strict=True))]
    return pictures.row(cells, words)
