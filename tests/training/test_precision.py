"""Which number format is meant, and that layers made under it compute in it."""

import keras
import numpy as np
import torch

from densely import architecture
from densely.training.precision import computing_in, resolved


def test_auto_is_bfloat16_only_where_it_is_native(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for found, expected in (
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx2": True, "avx512_bf16": False}, "float32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert resolved("auto") == expected
    assert resolved("float32") == "float32"
    assert resolved("bfloat16") == "bfloat16"


def test_layers_made_inside_compute_in_it_and_keep_float32_weights() -> None:
    before = keras.config.dtype_policy().name
    with computing_in("bfloat16"):
        model = architecture.build("densenet-bc-16-8", input_shape=(8, 8, 1))
    assert keras.config.dtype_policy().name == before
    block = model.get_layer("dense_block_1")
    assert (block.compute_dtype, block.variable_dtype) == ("bfloat16", "float32")
    exact = architecture.build("densenet-bc-16-8", input_shape=(8, 8, 1))
    exact.set_weights(model.get_weights())
    images = np.random.default_rng(0).random((4, 8, 8, 1), dtype="float32")
    np.testing.assert_allclose(model.predict_on_batch(images), exact.predict_on_batch(images), atol=0.05)
