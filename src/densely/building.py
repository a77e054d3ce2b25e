"""`densely.build`: a network with fresh weights, or one that starts from trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from densely import architecture
from densely.architecture import NETWORKS, NetworkSpec
from densely.errors import UsageError

if TYPE_CHECKING:
    import keras


def build(
    network: NetworkSpec | str | None = None,
    *,
    weights: str | Path | None = None,
    new_head: bool = False,
    fused: bool | None = None,
    **changes: Any,
) -> keras.Model:
    """Build a DenseNet: a functional `keras.Model` from `(N, *input_shape)` to `(N, classes)`.

    Args:
        network: a name in `NETWORKS` or a `NetworkSpec`; by default that of the weights, without weights
            `"densenet-bc-100-12"`.
        weights: start from trained weights: a run folder (its final weights), a `.safetensors` file of Densely's, or
            the name of weights that come with Densely (`"cifar10"`). They want images preprocessed as theirs were.
        new_head: with weights, keep the classifier fresh although its size has not changed: other classes. One of
            another size, or with a sigmoid in place of a softmax, is fresh anyway.
        fused: `False` to run the dense blocks by the reference path; see `DenseBlock`. No part of the network: the
            weights are the same.
        **changes: fields of `NetworkSpec` to change, e.g. `input_shape=(64, 64, 1), classes=3, dropout=0.2`. With
            weights: height, width, classes, activation, dropout, weight_decay, norm_momentum, initializer.

    Returns:
        An uncompiled model. What has no weights given is fresh, drawn from Keras's global seed
        (`keras.utils.set_random_seed`).

    Raises:
        UsageError: for an unknown name or field, values that do not go together, or a network that the weights do not
            fit.
        DataError: for weights that are damaged.

    Example:
        >>> model = build("densenet-bc-100-12", input_shape=(32, 32, 3), classes=10)
        >>> model.output_shape
        (None, 10)
    """
    if weights is None:
        if new_head:
            raise UsageError("new_head is for trained weights: name them as weights=….")
        return architecture.build(network or "densenet-bc-100-12", fused=fused, **changes)
    from densely import transfer
    from densely.model_file import open_trained

    trained = open_trained(weights)
    resolved = transfer.network_of(trained, network, changes)
    known = (network if isinstance(network, str) else trained.name if network is None else "").lower()
    model = architecture.build(resolved, fused=fused, name=known if known in NETWORKS else None)
    transfer.give(model, trained, new_head=new_head or not transfer.head_fits(trained.network, resolved))
    return model
