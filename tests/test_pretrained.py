"""The weights that come with Densely: what they are, what their card says, and what they reach."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import densely as command
from rich.console import Console

import densely
from densely import data, evaluation
from densely.errors import UsageError
from densely.model_file import ModelFile, open_trained
from densely.pretrained import SHIPPED, make, path_of
from densely.runs import Run
from densely.training.single import train

ROOT = Path(__file__).parents[1]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: What the card and the documentation state of the file: test accuracy in %, by how many views.
STATED = {6: 93.32, 1: 92.54}


@pytest.fixture(scope="module")
def shipped() -> ModelFile:
    found = open_trained("cifar10")
    assert isinstance(found, ModelFile)
    return found


def test_every_file_is_small_has_a_card_and_tells_no_path() -> None:
    files = {path.stem for path in path_of("cifar10").parent.glob("*.safetensors")}
    assert files == set(SHIPPED)
    for name in SHIPPED:
        assert path_of(name).stat().st_size <= 5_000_000
        card = path_of(name).with_suffix(".md").read_text(encoding="utf-8")
        for text in (card, ModelFile.open(path_of(name)).header.model_dump_json()):
            assert not re.search(r"(?<![\w.])/(tmp|home|root|work|usr|var|data)/", text)


def test_it_is_the_network_of_the_recipe_with_its_classes(shipped: ModelFile) -> None:
    assert shipped.inputs.class_names == CLASSES
    assert shipped.network == densely.architecture.spec("densenet-fast-pooled")
    for model in (densely.build(weights="cifar10"), densely.build("densenet-fast-pooled", weights="cifar10")):
        assert model.name == "densenet_fast_pooled" and model.output_shape == (None, 10)
    assert densely.build(weights="cifar10", classes=3, input_shape=(48, 48, 3)).output_shape == (None, 3)
    with pytest.raises(UsageError, match="another network"):
        densely.build("densenet-bc-100-12", weights="cifar10")


def test_it_sees_what_is_in_most_real_images(shipped: ModelFile, cifar_dir: Path) -> None:
    test = data.load("cifar10", data_dir=cifar_dir).test.take(range(0, 10_000, 25))
    model = densely.build(weights="cifar10")
    p = evaluation.probabilities(model, test.images, shipped.preprocessing)
    assert np.mean(p.argmax(axis=1) == test.labels) > 0.87


@pytest.mark.slow
@pytest.mark.parametrize("views", [6, 1])
def test_it_reaches_what_is_stated_on_the_whole_test_part(views: int, shipped: ModelFile, cifar_dir: Path) -> None:
    test = data.load("cifar10", data_dir=cifar_dir).test
    seen = shipped.views if views == 6 else evaluation.Views()
    found = evaluation.evaluate(shipped.model(), test, shipped.preprocessing, views=seen)
    # Other machines round otherwise: up to five images of 10,000.
    assert 100 * found["accuracy"] == pytest.approx(STATED[views], abs=0.05 + 1e-9)


@pytest.mark.parametrize("page", ["src/densely/pretrained/cifar10.md", "docs/weights.md"])
def test_the_pages_state_these_accuracies(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for accuracy in (*STATED.values(), 93.31):
        assert f"{accuracy:.2f} %" in text
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if front is not None:
        assert re.findall(r"value: ([\d.]+)", front[1]) == ["93.32"]


def test_a_photo_is_named_and_explained_with_nothing_trained_here(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (90, 140, 230)).save(tmp_path / "sky.png")
    done = command("predict", "cifar10", "sky.png", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert {guess["class"] for guess in row["top"]} <= set(CLASSES)
    found = densely.explain.explain(open_trained("cifar10"), tmp_path / "sky.png", top=2)
    assert found.classes[0] == row["top"][0]["class"]


def test_a_run_gives_the_same_file_wherever_it_lies(tmp_path: Path) -> None:
    network = densely.NetworkSpec(layers=(1, 1), growth_rate=4, stem_filters=8)
    run = train("digits", model=network, epochs=1, limit=60, out=tmp_path / "one", console=Console(quiet=True))
    (tmp_path / "other").mkdir()
    run.folder.rename(tmp_path / "other" / "place")
    for name in ("a", "b"):
        make.make(Run.open(tmp_path / "other" / "place"), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found = ModelFile.open(tmp_path / "a.safetensors")
    assert str(tmp_path) not in found.header.model_dump_json()
    assert "densely train digits --recipe auto, seed 0" in found.header.origin
    for mine, its in zip(found.model().weights, Run.open(tmp_path / "other" / "place").model().weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), its.numpy().astype("float16").astype("float32"))
    with pytest.raises(UsageError, match="must end in"):
        make.make(Run.open(tmp_path / "other" / "place"), tmp_path / "a.h5")
