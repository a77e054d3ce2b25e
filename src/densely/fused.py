"""Between the Keras layers and the kernels: which path a call takes, and Keras variables as plain tensors.

A dense block runs fused where the engine is PyTorch and real numbers are at hand. Symbolic calls (shape inference),
stateless calls, tracing and export take the reference path: they want a graph of ordinary operators.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

# Keras makes the scope public but not the question whether one is open.
from keras.src.backend.common.stateless_scope import in_stateless_scope


def possible(x: Any, units: Sequence[Any]) -> bool:
    """Whether a layer of these `NormReluConv` can run fused on this input, here and now."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return (
        isinstance(x, torch.Tensor)
        and x.device.type in ("cpu", "cuda")
        and x.is_floating_point()
        and x.numel() > 0
        # In a stateless scope a variable's value is not its own, and nothing may be updated in place.
        and not in_stateless_scope()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.onnx.is_in_onnx_export()
        # A kernel with LoRA is a sum, computed anew in each call.
        and not any(unit.conv.lora_enabled for unit in units)
    )


def normalises(layer: keras.layers.BatchNormalization, x: Any) -> bool:
    """Whether `kernels.batch_norm` can normalise this batch in training as the layer would, here and now.

    Not where somebody else finds the statistics, as Keras's renormalisation and processes that train together do.
    """
    return (
        layer.trainable
        and possible(x, [])
        and layer.axis in (-1, x.ndim - 1)
        and layer.scale
        and layer.center
        and not (layer.renorm or layer.synchronized or "_moments" in vars(layer))
    )


def normalised(layer: keras.layers.BatchNormalization, x: Any) -> Any:
    """A batch (…, C) normalised by its own statistics, which move the layer's; in the dtype the layer computes in."""
    import torch

    from densely.kernels.batch_norm import batch_norm
    from densely.kernels.normalisation import move

    y, *statistics = batch_norm(x, layer.gamma._value, layer.beta._value, layer.epsilon)
    move((layer.moving_mean._value, layer.moving_variance._value), tuple(statistics), layer.momentum)
    return y.to(getattr(torch, layer.compute_dtype))


def explain(precision: str, say: Callable[[str], None]) -> str:
    """What the dense blocks run on, in a word or with the reason; compiles what has to be compiled.

    Args:
        precision: what the network computes in, `float32` or `bfloat16`.
        say: called with a sentence where a user waits for the compiler, or gets less speed than there is.
    """
    if keras.backend.backend() != "torch":
        return "Keras operations"
    import torch
    from keras.src.backend.torch.core import get_device

    from densely.kernels import triton
    from densely.kernels.native import library

    device = torch.device(get_device())
    reason = triton.why_not(device)
    if reason is None:
        return "Triton kernels"
    if device.type != "cpu":
        if triton.asked():
            say(f"The dense blocks run on PyTorch's operators: {reason}.")
        return f"PyTorch operators: {reason}"
    dtype = getattr(torch, precision)
    if library.must_build(dtype):
        say("Compiling the dense block for this processor: once, about ten seconds.")
    reason = library.why_not(dtype)
    if reason is None:
        return "compiled loops"
    say(f"The dense blocks run on PyTorch's operators, about three times slower than compiled: {reason}.")
    return f"PyTorch operators: {reason}"


def tensors(*units: Any) -> tuple[Any, Any]:
    """The weights of one or two `NormReluConv`, in a row, as the kernels take them: parameters, moving statistics.

    The tensors are the variables' own. Inside a layer Keras hands out copies cast to the policy's compute dtype; the
    kernels cast by themselves, and give the gradients of float32 weights in float32.
    """
    from densely import kernels

    parameters: list[Any] = []
    moving: list[Any] = []
    frozen: dict[str, Any] = {}
    for number, unit in enumerate(units, start=1):
        norm, conv = unit.norm, unit.conv
        parameters += [v if v is None else v._value for v in (norm.gamma, norm.beta, conv.kernel, conv.bias)]
        moving += [norm.moving_mean._value, norm.moving_variance._value]
        frozen[f"frozen{number}"] = not norm.trainable
    return kernels.LayerParameters(*parameters), kernels.RunningStatistics(*moving)._replace(**frozen)


def options(
    x: Any, conv_options: dict[str, Any], training: bool, generator: keras.random.SeedGenerator | None, replicas: Any
) -> dict[str, Any]:
    """What the kernels are told besides tensors; draws a seed where dropout will need one."""
    from densely.kernels import triton

    draw = draw_seed_on_device if triton.usable(x) else draw_seed
    return {
        "training": training,
        "momentum": conv_options["momentum"],
        "epsilon": conv_options["epsilon"],
        "dropout": conv_options["dropout"],
        "seed": draw(generator) if training and generator is not None else None,
        "replicas": replicas,
    }


def draw_seed(generator: keras.random.SeedGenerator) -> int:
    """The next seed of a Keras generator, as one number; Keras saves the generator's state with the weights.

    Where several processes train together they have the same state, and each drops others of its own images' elements.
    """
    state = keras.ops.convert_to_numpy(generator.next()).astype(np.uint32)
    # PyTorch's CPU generator looks at 32 bits only, so the seed and its counter are mixed into that many.
    rank = _rank()
    own = (rank,) if rank else ()
    return int(np.random.SeedSequence(state.tolist(), spawn_key=own).generate_state(1)[0])


def draw_seed_on_device(generator: keras.random.SeedGenerator) -> Any:
    """The same without a look at the numbers, which may still be to come: as a tensor where the state is."""
    state, rank = generator.next(), _rank()
    if not rank:
        return state
    import torch

    return torch.cat([state, state.new_full((1,), rank)])


def _rank() -> int:
    """Of this process among those that PyTorch's default group joins; 0 where there is none."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
