"""Start from trained weights: which networks they fit, what may change, and what is new.

Everything but the classifier is taken over; the classifier too, where it means the same. Other classes get a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densely.architecture import NetworkSpec, spec
from densely.errors import UsageError

if TYPE_CHECKING:
    import keras

    from densely.model_file import ModelFile
    from densely.runs import Run

#: The classifier's layer.
HEAD = "logits"
#: Fields of `NetworkSpec` in which a network may differ from the one that its weights were trained in.
FREE = ("input_shape", "classes", "activation", "dropout", "weight_decay", "norm_momentum", "initializer")


def network_of(trained: Run | ModelFile, network: NetworkSpec | str | None, changes: dict[str, Any]) -> NetworkSpec:
    """The network that starts from trained weights.

    Args:
        trained: where the weights are from.
        network: `None` for the network of the weights; a name or a spec must be that network, but for what is free.
        changes: fields of `NetworkSpec` to change: those in `FREE`, and not the number of channels.

    Returns:
        The weights' own network with the changes, or, where a spec was given, that one.

    Raises:
        UsageError: for an unknown name or field, or a network that the weights do not fit; the message says in what.
    """
    own = trained.network
    asked = spec(own if network is None else network, **changes)
    before, now = _fixed(own), _fixed(asked)
    if isinstance(network, str) and "input_shape" not in changes:
        del now["channels"]  # a name says nothing of the images
    other = [f"{field}={before[field]}, not {now[field]}" for field in now if before[field] != now[field]]
    if other:
        raise UsageError(
            f"The weights of {_where(trained)} are of another network, with {'; '.join(other)}: keep that as it is, or "
            "train from scratch."
        )
    if isinstance(network, str):
        return spec(own, **{field: value for field, value in changes.items() if field in FREE})
    return asked


def head_fits(before: NetworkSpec, now: NetworkSpec) -> bool:
    """Whether the classifier of one network can go on in another: as many outputs, which mean the same.

    Logits (`activation="none"`) are what the probabilities are computed from, so they need no new classifier.
    """
    activations = {before.activation, now.activation} - {"none"}
    return before.classes == now.classes and len(activations) < 2


def give(model: keras.Model, trained: Run | ModelFile, *, new_head: bool) -> None:
    """Give a network the trained weights, moving statistics included.

    Args:
        model: of a network that `network_of` allows.
        trained: where the weights are from.
        new_head: whether the classifier keeps the weights that it has.

    Raises:
        DataError: if the weights are damaged.
    """
    values = {variable.path: variable for variable in trained.model().weights}
    for variable in model.weights:
        if not (new_head and variable.path.startswith(f"{HEAD}/")):
            variable.assign(values[variable.path].value)


def _fixed(network: NetworkSpec) -> dict[str, Any]:
    """What decides the weights' shapes and what they compute, however it was written down."""
    return {
        "layers": network.block_layers,
        "growth_rates": network.growth_rates,
        "stem_filters": network.stem_width,
        **{name: getattr(network, name) for name in ("bottleneck", "compression", "use_bias", "stem", "norm_epsilon")},
        "channels": network.input_shape[2],
    }


def _where(trained: Run | ModelFile) -> str:
    from densely.runs import Run

    return str(trained.folder if isinstance(trained, Run) else trained.path)
