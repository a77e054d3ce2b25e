"""Starting from trained weights: what is taken over, what is new, what is refused."""

from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

import densely
from densely import data, model_file
from densely.architecture import NetworkSpec
from densely.errors import DataError, UsageError
from densely.model_file import Header, ModelFile, open_trained
from densely.runs import Inputs, Run
from densely.training.single import train

SMALL = NetworkSpec(layers=(1, 2), growth_rate=4, stem_filters=8, compression=0.5, stem="whitened")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return train("digits", model=SMALL, epochs=1, limit=200, out=folder, console=Console(quiet=True))


@pytest.fixture(scope="module")
def file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "digits.safetensors"
    model_file.write(path, run.model(), Header(name="custom", network=run.network, inputs=run.inputs))
    return path


def weights(model: keras.Model) -> dict[str, bytes]:
    return {variable.path: variable.numpy().tobytes() for variable in model.weights}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return data.load("digits").test.images[:20].astype("float32") / 255


@pytest.mark.parametrize("kind", ["run", "text", "file"])
def test_a_network_from_weights_says_what_the_trained_one_says(kind: str, run: Run, file: Path, images) -> None:
    source = {"run": run.folder, "text": str(run.folder), "file": file}[kind]
    model = densely.build(weights=source)
    np.testing.assert_array_equal(model.predict_on_batch(images), run.model().predict_on_batch(images))


def test_other_classes_get_a_new_head_and_everything_else_is_taken_over(run: Run) -> None:
    old = weights(run.model())
    for changes in ({"classes": 3}, {"activation": "sigmoid"}, {"new_head": True}):
        new = weights(densely.build(weights=run.folder, **changes))
        differ = {path for path in old if new[path] != old[path]}
        assert differ == {"logits/kernel"} | ({"logits/bias"} if "logits/bias" in differ else set()), changes
        assert new.keys() == old.keys()


def test_a_new_head_is_drawn_from_the_seed(run: Run) -> None:
    def head(seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        return densely.build(weights=run.folder, classes=3).get_layer("logits").get_weights()[0]

    assert np.array_equal(head(1), head(1))
    assert not np.array_equal(head(1), head(2))
    assert np.abs(head(1)).max() > 0


def test_logits_need_no_new_head(run: Run, images) -> None:
    logits = densely.build(weights=run.folder, activation="none").predict_on_batch(images).astype("float64")
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, run.model().predict_on_batch(images), atol=1e-6)


def test_what_changes_no_shape_may_change(run: Run) -> None:
    changes = {"input_shape": (16, 24, 1), "dropout": 0.3, "weight_decay": 1e-3, "norm_momentum": 0.5}
    model = densely.build(weights=run.folder, **changes)
    assert model.input_shape == (None, 16, 24, 1)
    assert weights(model) == weights(run.model())
    assert model.get_layer("final_norm").momentum == 0.5
    assert model.get_layer("dense_block_2").convs[0].drop.rate == 0.3
    assert len(model.losses) > 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"growth_rate": 5}, r"growth_rates=\(4, 4\), not \(5, 5\)"),
        ({"layers": (1, 1)}, r"layers=\(1, 2\), not \(1, 1\)"),
        ({"stem_filters": 9}, "stem_filters=8, not 9"),
        ({"stem": "cifar"}, "stem=whitened, not cifar"),
        ({"compression": 0.6}, "compression=0.5, not 0.6"),
        ({"use_bias": True}, "use_bias=False, not True"),
        ({"bottleneck": True}, "bottleneck=False, not True"),
        ({"norm_epsilon": 1e-3}, "norm_epsilon=1e-05, not 0.001"),
        ({"input_shape": (8, 8, 3)}, "channels=1, not 3"),
        ({"network": "densenet-bc-16-8"}, r"layers=\(1, 2\), not \(1, 1, 1\)|layers"),
        ({"network": SMALL.model_copy(update={"growth_rate": 6, "input_shape": (8, 8, 1)})}, "growth_rates"),
    ],
)
def test_what_changes_the_shapes_is_named(changes: dict, named: str, run: Run) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        densely.build(weights=run.folder, **changes)
    assert "another network" in str(caught.value) and str(run.folder) in str(caught.value)


def test_a_network_of_the_same_name_or_written_otherwise_fits(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    network = densely.architecture.spec("densenet-bc-16-8", classes=4, input_shape=(8, 8, 1), dropout=0.1)
    unit = {"kind": "unit", "mean": [0], "std": [1]}
    inputs = Inputs(class_names=tuple("abcd"), multi_label=False, input_shape=(8, 8, 1), preprocessing=unit)
    first = densely.build(network)
    model_file.write(path, first, Header(name="densenet-bc-16-8", network=network, inputs=inputs))

    named = densely.build("DenseNet-BC-16-8", weights=path)
    assert named.input_shape == (None, 8, 8, 1) and named.output_shape == (None, 4)
    assert weights(named) == weights(first)
    assert densely.build(weights=path).name == named.name == "densenet_bc_16_8"
    # Two ways to write down one network.
    same = NetworkSpec(layers=(2, 2, 2), growth_rate=8, stem_filters=16, bottleneck=True, compression=0.5,
                       input_shape=(8, 8, 1), classes=4)  # fmt: skip
    assert weights(densely.build(same, weights=path)) == weights(first)


def test_without_weights_the_default_stays() -> None:
    model = densely.build(input_shape=(8, 8, 1))
    assert model.name == "densenet_bc_100_12"
    assert model.count_params() == densely.build("densenet-bc-100-12", input_shape=(8, 8, 1)).count_params()


@pytest.mark.parametrize("name", ["cifar100", "runs/nowhere-1"])
def test_weights_that_are_nowhere_are_told_with_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match=rf"There is no run folder {name}: .*\(cifar10\)"):
        densely.build(weights=name)
    with pytest.raises(UsageError, match=r"There is no model file none\.safetensors"):
        densely.build(weights="none.safetensors")


def test_damaged_weights_are_told(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"cut\.safetensors is damaged"):
        densely.build(weights=tmp_path / "cut.safetensors")


def test_a_run_folder_goes_before_shipped_weights_of_its_name_and_no_other_folder_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    assert isinstance(open_trained("cifar10"), ModelFile)
    (tmp_path / "cifar10" / "config.toml").write_bytes((run.folder / "config.toml").read_bytes())
    (tmp_path / "cifar10" / "inputs.json").write_bytes((run.folder / "inputs.json").read_bytes())
    assert isinstance(open_trained("cifar10"), Run)
