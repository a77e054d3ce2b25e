"""The dense block, fused: PyTorch tensors in, PyTorch tensors out; no Keras, no files."""

from densely.kernels.dense_block import dense_block
from densely.kernels.memory import release_memory
from densely.kernels.plan import LayerParameters, RunningStatistics
from densely.kernels.transition import transition

__all__ = ["LayerParameters", "RunningStatistics", "dense_block", "release_memory", "transition"]
