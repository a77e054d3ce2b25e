"""What a network costs before it is built: parameters and multiply-adds, stage by stage (the paper's Table 1)."""

from typing import NamedTuple

from densely.architecture import NetworkSpec
from densely.errors import UsageError


class Stage(NamedTuple):
    """One part of a network.

    Attributes:
        name: the Keras layer's name, or `classifier` for all that follows the last block.
        shape: (height, width, channels) of what it puts out.
        parameters: trainable parameters.
        multiply_adds: of convolutions and the classifier, for one image.
    """

    name: str
    shape: tuple[int, int, int]
    parameters: int
    multiply_adds: int


def stages(network: NetworkSpec) -> list[Stage]:
    """The stages of a network with their sizes.

    Raises:
        UsageError: if the input's height or width is open (`None`).
    """
    height, width, channels = network.input_shape
    if height is None or width is None:
        raise UsageError("The cost of a network depends on the image size: give input_shape a height and a width.")
    bias = int(network.use_bias)

    def unit(channels: int, filters: int, side: int) -> tuple[int, int]:
        """Parameters, and multiply-adds a pixel, of one norm-ReLU-convolution."""
        kernel = side * side * channels * filters
        return 2 * channels + kernel + bias * filters, kernel

    found: list[Stage] = []
    side = 7 if network.stem == "imagenet" else 3
    kernel = side * side * channels * network.stem_width
    parameters = kernel + bias * network.stem_width
    if network.stem == "imagenet":
        height, width = (height + 1) // 2, (width + 1) // 2
        adds = kernel * height * width
        height, width = (height + 1) // 2, (width + 1) // 2
        parameters += 2 * network.stem_width
    elif network.stem in ("whitened", "pooled"):
        # The whitening itself is not trained; its maps, twice as many as a 2×2 patch has numbers, feed the 3×3.
        patch = 4 * channels
        kernel = 9 * 2 * patch * network.stem_width
        parameters = kernel + bias * network.stem_width
        adds = 2 * patch * patch * height * width
        if network.stem == "pooled":
            adds += kernel * height * width
            height, width = height // 2, width // 2
        else:
            height, width = (height + 1) // 2, (width + 1) // 2
            adds += kernel * height * width
    else:
        adds = kernel * height * width
    channels = network.stem_width
    found.append(Stage("stem", (height, width, channels), parameters, adds))

    blocks = zip(network.block_layers, network.growth_rates, strict=True)
    for i, (num_layers, growth_rate) in enumerate(blocks, start=1):
        if i > 1:
            filters = int(channels * network.compression)
            parameters, pixel = unit(channels, filters, 1)
            adds = pixel * height * width
            height, width, channels = height // 2, width // 2, filters
            found.append(Stage(f"transition_{i - 1}", (height, width, channels), parameters, adds))
        total, adds = 0, 0
        for _ in range(num_layers):
            width_in = channels
            if network.bottleneck:
                width_in = 4 * growth_rate
                parameters, pixel = unit(channels, width_in, 1)
                total, adds = total + parameters, adds + pixel * height * width
            parameters, pixel = unit(width_in, growth_rate, 3)
            total, adds = total + parameters, adds + pixel * height * width
            channels += growth_rate
        found.append(Stage(f"dense_block_{i}", (height, width, channels), total, adds))

    parameters = 2 * channels + (channels + 1) * network.classes
    found.append(Stage("classifier", (1, 1, network.classes), parameters, channels * network.classes))
    return found


def parameters(network: NetworkSpec) -> int:
    """Trainable parameters."""
    shaped = network.model_copy(update={"input_shape": (1024, 1024, network.input_shape[2])})
    return sum(stage.parameters for stage in stages(shaped))


def multiply_adds(network: NetworkSpec) -> int:
    """Multiply-adds of convolutions and classifier for one image of `input_shape`, forward."""
    return sum(stage.multiply_adds for stage in stages(network))
