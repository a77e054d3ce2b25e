"""Densely: DenseNets trained from scratch, where labelled images are scarce.

    import densely
    model = densely.build("densenet-bc-100-12", input_shape=(32, 32, 3), classes=10)   # a keras.Model
    run = densely.train("digits")                                                      # what `densely train` does

The engine is PyTorch unless you chose another through `KERAS_BACKEND`, or imported Keras before Densely.
Names load on first use, so that importing Densely (and `densely --help`) stays quick.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from densely.version import __version__

if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "torch")

if TYPE_CHECKING:
    from densely.architecture import NETWORKS, NetworkSpec
    from densely.building import build
    from densely.conversion import convert
    from densely.data import Dataset, Parts, load
    from densely.errors import DataError, DenselyError, UsageError
    from densely.layers import DenseBlock, NormReluConv, Transition
    from densely.model_file import ModelFile
    from densely.notebook import create_dense_net
    from densely.recipes import Recipe
    from densely.runs import Run
    from densely.sweeps.sweep import sweep
    from densely.training.optimizers import CoupledSGD
    from densely.training.progress import ProgressBar
    from densely.training.repeats import repeat
    from densely.training.single import train

_HOME = {
    "NETWORKS": "architecture",
    "NetworkSpec": "architecture",
    "build": "building",
    "convert": "conversion",
    "Dataset": "data",
    "Parts": "data",
    "load": "data",
    "DataError": "errors",
    "DenselyError": "errors",
    "UsageError": "errors",
    "DenseBlock": "layers",
    "NormReluConv": "layers",
    "Transition": "layers",
    "ModelFile": "model_file",
    "create_dense_net": "notebook",
    "CoupledSGD": "training.optimizers",
    "ProgressBar": "training.progress",
    "Recipe": "recipes",
    "repeat": "training.repeats",
    "Run": "runs",
    "sweep": "sweeps.sweep",
    "train": "training.single",
}

__all__ = [
    "NETWORKS",
    "CoupledSGD",
    "DataError",
    "Dataset",
    "DenseBlock",
    "DenselyError",
    "ModelFile",
    "NetworkSpec",
    "NormReluConv",
    "Parts",
    "ProgressBar",
    "Recipe",
    "Run",
    "Transition",
    "UsageError",
    "__version__",
    "build",
    "convert",
    "create_dense_net",
    "load",
    "repeat",
    "sweep",
    "train",
]


_MODULES = (
    "architecture",
    "building",
    "bulk",
    "conversion",
    "cost",
    "data",
    "display",
    "evaluation",
    "explain",
    "export",
    "fine_tuning",
    "kernels",
    "layers",
    "model_file",
    "notebook",
    "prediction",
    "pictures",
    "pretrained",
    "recipes",
    "report",
    "runs",
    "serve",
    "show",
    "sweeps",
    "training",
    "transfer",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"densely.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'densely' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"densely.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _show_networks() -> None:
    """Let IPython, if it runs, show our networks as boxes; what somebody else registers for `keras.Model` stays."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        # By name: Keras takes seconds to import, and may not be wanted at all.
        formatter = shell.display_formatter.formatters["text/html"]
        formatter.for_type_by_name("keras.src.models.model", "Model", lambda model: __getattr__("display").shown(model))


_show_networks()
