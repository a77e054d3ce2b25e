"""Cost, counted on paper, against the networks as built."""

import keras
import numpy as np
import pytest

from densely import cost
from densely.architecture import NETWORKS, NetworkSpec, build, spec
from densely.errors import UsageError


@pytest.mark.parametrize(
    "name",
    ["densenet-40-12", "notebook", "densenet-121", "densenet-bc-16-8", "densenet-fast", "densenet-fast-pooled"],
)
def test_stages_equal_the_built_network(name: str) -> None:
    network = NETWORKS[name]
    model = build(network)
    for stage in cost.stages(network):
        if stage.name in ("stem", "classifier"):
            continue
        layer = model.get_layer(stage.name)
        assert stage.shape == tuple(layer.output.shape[1:])
        assert stage.parameters == sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
    assert cost.parameters(network) == sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def test_multiply_adds_are_those_of_every_convolution() -> None:
    network = NetworkSpec(depth=10, growth_rate=3, bottleneck=True, compression=0.5, input_shape=(13, 8, 2), classes=4)
    model = build(network, fused=False)
    # Every convolution's own output size, seen while an image passes through the reference path.
    seen: list[int] = []
    original = keras.layers.Conv2D.call

    def watch(self, inputs, *args, **kwargs):
        outputs = original(self, inputs, *args, **kwargs)
        seen.append(int(np.prod(outputs.shape[1:3])) * int(np.prod(self.kernel.shape)))
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.layers.Conv2D, "call", watch)
        model(np.zeros((1, 13, 8, 2), "float32"))
    classifier = model.get_layer("logits").kernel.shape
    assert cost.multiply_adds(network) == sum(seen) + int(np.prod(classifier))


def test_the_papers_bc_100_12_costs_what_others_report() -> None:
    # 0.29 G multiply-adds and 0.8 M parameters: the figures that publications quote for DenseNet-BC (k = 12).
    assert round(cost.multiply_adds(NETWORKS["densenet-bc-100-12"]) / 1e9, 2) == 0.29
    assert round(cost.parameters(NETWORKS["densenet-bc-100-12"]) / 1e6, 1) == 0.8


def test_open_sizes_have_parameters_but_no_cost() -> None:
    network = spec("densenet-bc-16-8", input_shape=(None, None, 3))
    assert cost.parameters(network) == cost.parameters(NETWORKS["densenet-bc-16-8"])
    with pytest.raises(UsageError, match="height and a width"):
        cost.stages(network)
