"""In which number format a network computes: float32, or bfloat16 with float32 weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import keras
import torch

Precision = Literal["float32", "bfloat16", "auto"]


def resolved(precision: Precision) -> Literal["float32", "bfloat16"]:
    """What `"auto"` means here: bfloat16 where the device multiplies it natively, float32 elsewhere."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if native else "float32"


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """Layers made inside the block compute in `precision`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if resolved(precision) == "bfloat16" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
