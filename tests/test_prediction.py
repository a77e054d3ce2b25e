"""Predictions of image files against the model's own outputs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from densely import data
from densely.errors import DataError, UsageError
from densely.explain import explain
from densely.model_file import Header, open_trained, write
from densely.prediction import predict
from densely.runs import Run
from densely.training.single import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return train("digits", model="densenet-bc-16-8", epochs=2, out=folder, console=Console(quiet=True))


def test_a_saved_image_is_seen_as_it_was_in_the_test_part(run: Run, tmp_path: Path) -> None:
    test = data.load("digits").test
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(test.images[i, ..., 0]).save(paths[-1])
    p = run.model().predict_on_batch(run.preprocessing(test.images[:3]))
    for row, guesses in zip(p, predict(run, paths, top=3), strict=True):
        assert [g.label for g in guesses] == [str(i) for i in np.argsort(-row)[:3]]
        assert [g.probability for g in guesses] == pytest.approx(sorted(row, reverse=True)[:3], abs=1e-6)


def test_any_image_is_brought_to_the_run_s_size(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (640, 300), "white").save(path)
    (guesses,) = predict(run, [path], top=99)
    assert len(guesses) == 10
    assert sum(g.probability for g in guesses) == pytest.approx(1, abs=1e-5)


def test_what_is_no_image_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(DataError, match=r"notes\.png"):
        predict(run, [tmp_path / "notes.png"])
    with pytest.raises(UsageError, match=r"nowhere\.png"):
        predict(run, [tmp_path / "nowhere.png"])
    with pytest.raises(UsageError, match="--top"):
        predict(run, [tmp_path / "notes.png"], top=0)


def test_a_model_file_predicts_and_explains_as_its_run_does(run: Run, tmp_path: Path) -> None:
    header = Header(name=run.name, network=run.network, inputs=run.inputs, views=run.views)
    write(tmp_path / "m.safetensors", run.model(), header)
    opened = open_trained(tmp_path / "m.safetensors")
    Image.fromarray(data.load("digits").test.images[0, ..., 0]).save(tmp_path / "a.png")
    (expected,), (found,) = predict(run, [tmp_path / "a.png"]), predict(opened, [tmp_path / "a.png"])
    assert [g.label for g in found] == [g.label for g in expected]
    assert [g.probability for g in found] == pytest.approx([g.probability for g in expected], abs=1e-6)
    ours, theirs = explain(opened, tmp_path / "a.png"), explain(run, tmp_path / "a.png")
    assert ours.classes == theirs.classes
    np.testing.assert_allclose(ours.maps, theirs.maps, atol=1e-5)
