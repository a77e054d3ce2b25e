"""What of a network learns, and how fast: frozen layers, and rates that fall towards the input.

Early layers see edges and colours, which most images share; late ones see what the classes are. A network that starts
from other images' weights may keep the first as they are (`freeze`), or move them less (`stage_rates`; *discriminative
fine-tuning*, Howard & Ruder 2018, *Universal Language Model Fine-tuning for Text Classification*, Section 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densely.errors import UsageError, unknown
from densely.transfer import HEAD

if TYPE_CHECKING:
    import keras


def freeze(model: keras.Model, last: str) -> None:
    """Freeze all layers of a network up to and including one: no step moves their weights.

    Their batch normalisation then normalises by its moving statistics, in training too, and leaves them as they are.
    Freeze before the model is compiled.

    Args:
        model: one of Densely's networks.
        last: a layer's name before the classifier, e.g. `"dense_block_2"`, `"transition_1"`, `"stem_conv"`;
            `"final_norm"` leaves nothing but the classifier to train.

    Raises:
        UsageError: if the network has no such layer; then nothing is frozen.
    """
    names = [layer.name for layer in model.layers]
    able = [layer.name for layer in model.layers[: names.index(HEAD)] if layer.weights]
    if last not in able:
        raise unknown("layer to freeze", last, able)
    for layer in model.layers[: names.index(last) + 1]:
        layer.trainable = False


def stages(model: keras.Model) -> list[list[str]]:
    """The stages of a network, as names of layers with weights, from the input on.

    Args:
        model: one of Densely's networks.

    Returns:
        The stem; each dense block with the transition after it (with the last normalisation after the last block); the
        classifier.
    """
    found: list[list[str]] = [[]]
    for layer in model.layers:
        if layer.name.startswith("dense_block_") or layer.name == HEAD:
            found.append([])
        if layer.weights:
            found[-1].append(layer.name)
    return found


def stage_rates(model: keras.Model, factor: float) -> dict[str, float]:
    """How many times the learning rate each layer learns at: the classifier at 1, each stage before at `factor` less.

    Args:
        model: one of Densely's networks.
        factor: above 0, at most 1: a stage's rate over that of the stage after it. Howard & Ruder take 1 / 2.6.

    Returns:
        For `layer_rates` of `densely.CoupledSGD` and `Muon`: a factor by a layer's name.

    Raises:
        UsageError: for another factor.

    Example:
        >>> import densely
        >>> stage_rates(densely.build("densenet-40-12"), 0.5)["dense_block_3"]
        0.5
    """
    if not 0 < factor <= 1:
        raise UsageError(f"The rates of the stages must fall by a factor above 0 and at most 1, not {factor}.")
    found: Any = stages(model)
    return {name: factor**behind for behind, names in enumerate(reversed(found)) for name in names}
