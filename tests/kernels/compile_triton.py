"""Compiles each kernel that a small network's block starts, for a GPU that need not be there; prints a line for each.

python tests/kernels/compile_triton.py 90       # compute capability 9.0
"""

import sys
from typing import Any

import torch
import triton
from kernels.test_dense_block import everything_ours, make
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner

from densely.kernels import triton as engine
from densely.kernels.triton import block

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}
compiled: set[str] = set()


def compile_instead(kernel: Any, grid: Any, on: torch.Tensor, *arguments: Any, **settings: Any) -> None:
    """In place of a launch: nothing is computed. The first of the tiles that would be tried out."""
    options: dict[str, Any] = {"enable_fp_fusion": True}
    if isinstance(kernel, Autotuner):
        (first, *_), kernel = kernel.configs, kernel.fn
        settings |= first.kwargs
        options |= {"num_warps": first.num_warps, "num_stages": first.num_stages}
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | settings
    constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr or given[p.name] is None}
    signature = {name: "constexpr" if name in constants else kind(given[name]) for name in kernel.arg_names}
    aligned = [i for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    description = f"{kernel.__name__} {signature} {constants}"
    if description not in compiled:
        compiled.add(description)
        made = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
        print(kernel.__name__, len(made.asm["cubin"]), "bytes,", made.metadata.shared, "of shared memory")


def kind(value: Any) -> str:
    """A launch's argument in the compiler's words."""
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


if __name__ == "__main__":
    block.launch, engine.usable = compile_instead, lambda x: True
    for dtype in (torch.bfloat16, torch.float32):
        net, x = make(2, 24, 12, 48, torch.float32, (1, 8, 8), bias=True, rate=0.2)
        everything_ours(net, x.to(dtype), torch.zeros(1, 8, 8, 48, dtype=dtype))
