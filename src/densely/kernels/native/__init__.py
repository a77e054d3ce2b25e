"""The engine of compiled loops, for float32 and bfloat16 on the CPU: built once a machine, where there is a compiler.

`source/` is C++20 with the compiler's own vectors; `library.py` builds and loads it; the other files call it:
`training.py` for all layers of a block at once, `block.py` layer by layer. Results depend on shapes alone, never on the
number of threads, which is PyTorch's (`torch.set_num_threads`).
"""

from densely.kernels.native.batch_norm import NativeBatchNorm
from densely.kernels.native.block import NativeEngine
from densely.kernels.native.library import usable
from densely.kernels.native.sgd import sgd, takes
from densely.kernels.native.transition import NativeTransition

__all__ = ["NativeBatchNorm", "NativeEngine", "NativeTransition", "sgd", "takes", "usable"]
