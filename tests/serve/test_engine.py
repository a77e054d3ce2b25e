"""The ONNX file: what it must be, and that it answers as it should."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from serving import expected, write_model

from densely.errors import DataError, UsageError
from densely.serve.engine import Engine


def test_it_answers_as_its_graph_says(tmp_path: Path) -> None:
    engine = Engine(write_model(tmp_path / "m.onnx"))
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    found = engine.run(images, maps=True)
    np.testing.assert_allclose(found.probabilities, [expected(image) for image in images], atol=1e-5)
    assert found.maps is not None
    e = np.exp(found.maps.mean(axis=(1, 2)))  # the mean of a class's map is its logit
    np.testing.assert_allclose(e / e.sum(axis=1, keepdims=True), found.probabilities, atol=1e-5)
    assert engine.run(images).maps is None


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"with_preprocessing": False}, UsageError, "export it again --with-preprocessing"),
        ({"batch": 1}, UsageError, "takes exactly 1 image at a time"),
        ({"names": ("a", "b")}, DataError, r"gives \(2, 3\) probabilities for 2 images of 2 classes"),
        ({"input_shape": (8, 8, 1)}, DataError, r"not images of \(8, 8, 1\)"),
        ({"class_names": 5}, DataError, "class_names"),
        ({"format": 2}, DataError, "format"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    changes: dict[str, object], kind: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said):
        Engine(write_model(tmp_path / "m.onnx", **changes))


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="There is no model file"):
        Engine(tmp_path / "nothing.onnx")
    for damaged in (b"", b"rubbish", path.read_bytes()[:300]):
        (tmp_path / "damaged.onnx").write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged\.onnx"):
            Engine(tmp_path / "damaged.onnx")
    bare = onnx.load(path)
    del bare.metadata_props[:]
    onnx.save(bare, path)
    with pytest.raises(DataError, match="does not say what its numbers mean"):
        Engine(path)
