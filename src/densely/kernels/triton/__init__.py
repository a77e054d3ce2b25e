"""The engine of Triton kernels, for float32 and bfloat16 on a GPU: few launches a layer, and no wait for the GPU.

`source/` holds the kernels; `launch.py` chooses tiles and starts them; `block.py` puts them in order. Triton comes with
PyTorch's CUDA builds and is imported only where it is used.
"""

import importlib.util
import os

import torch

DTYPES = (torch.float32, torch.bfloat16)


def usable(x: torch.Tensor) -> bool:
    """Whether the kernels can take such maps, here and now."""
    return x.dtype in DTYPES and why_not(x.device) is None


def asked() -> bool:
    """Whether `DENSELY_TRITON=1` asks for them: their speed has not been measured yet."""
    return os.environ.get("DENSELY_TRITON") == "1"


def why_not(device: torch.device) -> str | None:
    """Why the kernels cannot be used on a device, or None if they can."""
    if not asked():
        return "DENSELY_TRITON is not 1"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda":
        return f"Triton runs on GPUs, not on {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None
