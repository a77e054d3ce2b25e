"""Which engine does the work of a call, and its making."""

import torch

from densely.kernels import native, triton
from densely.kernels.engine import Convolution, Engine, TransitionEngine
from densely.kernels.operators.block import OperatorEngine
from densely.kernels.operators.transition import OperatorTransition
from densely.kernels.plan import EngineName, Plan, TransitionPlan


def chosen(x: torch.Tensor) -> EngineName:
    """The fastest that can take such maps, here and now; builds the compiled loops if need be."""
    if triton.usable(x):
        return "triton"
    return "native" if native.usable(x) else "operators"


def block_engine(plan: Plan) -> Engine:
    """The engine of a dense block's pass."""
    if plan.engine == "triton":
        from densely.kernels.triton.block import TritonEngine

        return TritonEngine(plan)
    return native.NativeEngine(plan) if plan.engine == "native" else OperatorEngine(plan)


def transition_engine(x: torch.Tensor, plan: TransitionPlan, conv: Convolution) -> TransitionEngine:
    """The engine of a transition's pass over x, (N, H, W, C), contiguous."""
    if plan.engine == "triton":
        from densely.kernels.triton.transition import TritonTransition

        return TritonTransition(x, plan, conv)
    return (native.NativeTransition if plan.engine == "native" else OperatorTransition)(x, plan, conv)
