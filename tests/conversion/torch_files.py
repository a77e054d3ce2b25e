"""torchvision's DenseNets with random weights, and their state dicts as files."""

import sys
import types
import warnings
from typing import Any

import pytest
import torch


def densenet(name: str = "densenet121", classes: int = 1000, seed: int = 0, **options: Any) -> torch.nn.Module:
    """A network as after a training: random weights and running statistics, no two arrays alike."""
    models = _torchvision().models
    make = models.DenseNet if options else getattr(models, name)
    network = make(num_classes=classes, **options)
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif key.endswith("running_var") or ("norm" in key and key.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.3, generator=generator)
    return network.eval()


def _torchvision() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot read JPEG on its own
        try:
            return __import__("torchvision")
        except ImportError:
            pytest.skip("no torchvision")
        except RuntimeError:
            # Built for another PyTorch than this one: its own operators are missing, of which a DenseNet has none.
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
            return __import__("torchvision")
