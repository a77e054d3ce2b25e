"""The run folder: written whole, opened with suspicion."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tomli_w
from processes import densely
from rich.console import Console
from small import SMALL

from densely import runs
from densely.architecture import build
from densely.errors import DataError, UsageError
from densely.runs import Run, _find_room, write_weights
from densely.training.single import train


@pytest.fixture
def run(tmp_path: Path) -> Run:
    quiet = Console(quiet=True)
    return train("digits", model=SMALL, epochs=1, limit=100, out=tmp_path / "run", console=quiet)


def test_a_config_survives_its_file(run: Run) -> None:
    again = Run.open(run.folder)
    assert again.config == run.config
    assert again.inputs == run.inputs
    assert again.preprocessing == run.preprocessing
    assert "Test accuracy" in repr(again)


def test_differences_are_told_field_by_field(run: Run) -> None:
    other = run.config.model_copy(update={"seed": 3, "recipe": run.config.recipe.model_copy(update={"epochs": 9})})
    assert runs.differences(run.config, other) == ["seed=0, not 3", "recipe.epochs=1, not 9"]
    assert runs.differences(run.config, run.config) == []


def test_a_run_says_its_score_and_the_interval(run: Run) -> None:
    runs.write_json(
        run.folder / "metrics.json", {"test": {"n": 359, "accuracy": 357 / 359, "accuracy_ci95": [0.98, 0.998]}}
    )
    first = "Test accuracy  99.44 %  (357 of 359 images; 95 % interval 98.0 to 99.8 %)"
    assert repr(run).splitlines() == [first, f"Run folder     {run.folder}"]


def test_folders_without_a_name_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [runs.create_numbered(runs.name_for(data)) for data in ("digits", "digits", "/some/where/photos")]
    assert [str(folder) for folder in made] == ["runs/digits-1", "runs/digits-2", "runs/photos-1"]
    for number in (10, 9):
        (tmp_path / "runs" / f"digits-{number}").mkdir()
    (tmp_path / "runs" / "digits-old").mkdir()
    assert [folder.name for folder in runs.numbered("digits")] == ["digits-1", "digits-2", "digits-9", "digits-10"]


@pytest.mark.parametrize("broken", ["", "data = 3", "what is this"])
def test_a_damaged_config_is_named(run: Run, broken: str) -> None:
    (run.folder / "config.toml").write_text(broken)
    with pytest.raises(DataError, match=r"config\.toml"):
        Run.open(run.folder)


@pytest.mark.parametrize("broken", ["", "{}", "[1]", '{"class_names": 5}'])
def test_damaged_inputs_are_named(run: Run, broken: str) -> None:
    (run.folder / "inputs.json").write_text(broken)
    with pytest.raises(DataError, match=r"inputs\.json"):
        Run.open(run.folder)


def test_damaged_weights_are_named(run: Run) -> None:
    path = run.folder / "final.weights.h5"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"final\.weights\.h5 is damaged"):
        run.model()


def test_weights_of_another_network_are_refused(run: Run) -> None:
    build("densenet-bc-22-12", input_shape=(8, 8, 1)).save_weights(run.folder / "final.weights.h5")
    with pytest.raises(DataError, match="belongs to another network"):
        run.model()


def kernel(file: h5py.File) -> str:
    """The path of the first array in a file of weights that has four dimensions."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if getattr(item, "ndim", 0) == 4 else None)
    return found[0]


@pytest.mark.parametrize("kind", ["external link", "soft link", "external data", "virtual data"])
def test_weights_that_lead_out_of_their_file_are_refused(kind: str, run: Run, tmp_path: Path) -> None:
    path, secret = run.folder / "final.weights.h5", tmp_path / "secret.h5"
    with h5py.File(path, "r+") as file:
        name = kernel(file)
        shape, kind_of = file[name].shape, file[name].dtype
        with h5py.File(secret, "w") as other:
            other["stolen"] = file[name][()]
        del file[name]
        if kind == "external link":
            file[name] = h5py.ExternalLink(str(secret), "stolen")
        elif kind == "soft link":
            file["elsewhere"] = h5py.ExternalLink(str(secret), "stolen")
            file[name] = h5py.SoftLink("/elsewhere")
        elif kind == "external data":
            file.create_dataset(name, shape, kind_of, external=[(str(secret), 0, 10**6)])
        else:
            layout = h5py.VirtualLayout(shape, kind_of)
            layout[...] = h5py.VirtualSource(str(secret), "stolen", shape, kind_of)
            file.create_virtual_dataset(name, layout)
        file["filler"] = np.zeros(10**5, dtype=np.uint8)  # so that its size alone betrays nothing
    with pytest.raises(DataError, match=r"final\.weights\.h5 is damaged"):
        run.model()


def test_weights_that_claim_more_than_they_hold_are_refused(run: Run) -> None:
    path = run.folder / "final.weights.h5"
    with h5py.File(path, "r+") as file:
        name = kernel(file)
        del file[name]
        file.create_dataset(name, (3, 3, 2**20, 2**8), np.float32, chunks=(3, 3, 64, 64), compression="gzip")
    with pytest.raises(DataError, match="bytes of arrays"):
        run.model()


def change_network(run: Run, change: dict[str, object]) -> None:
    """Write other values into the run's config, past its schema; `None` takes one out."""
    values = run.config.model_dump(mode="json", exclude_none=True)
    values["network"] = {k: v for k, v in {**values["network"], **change}.items() if v is not None}
    (run.folder / "config.toml").write_text(tomli_w.dumps(values))


@pytest.mark.parametrize("change", [{"growth_rate": 9000}, {"layers": [4000] * 3, "depth": None, "blocks": None}])
def test_a_config_of_a_giant_network_gets_no_memory(change: dict[str, object], run: Run) -> None:
    change_network(run, change)
    with pytest.raises(DataError, match="belongs to another network"):
        Run.open(run.folder).model()


@pytest.mark.parametrize("change", [{"classes": 10**9}, {"input_shape": [10**6, 10**6, 1]}])
def test_a_config_of_other_images_or_classes_than_the_inputs_is_refused(change: dict[str, object], run: Run) -> None:
    change_network(run, change)
    with pytest.raises(DataError, match=r"inputs\.json .* not those of config\.toml"):
        Run.open(run.folder)


@pytest.mark.parametrize("change", [{"depth": 10**12}, {"layers": [10**9]}, {"growth_factor": 10**9}, {"code": "x"}])
def test_a_config_beyond_the_schema_is_refused(change: dict[str, object], run: Run) -> None:
    change_network(run, change)
    with pytest.raises(DataError, match=rf"config\.toml: network\.{next(iter(change))}"):
        Run.open(run.folder)


def test_an_unfinished_training_says_so(run: Run) -> None:
    (run.folder / "metrics.json").unlink()
    (run.folder / "final.weights.h5").unlink()
    again = Run.open(run.folder)
    assert "Test accuracy" not in repr(again)
    with pytest.raises(UsageError, match="did not finish"):
        again.accuracy  # noqa: B018
    with pytest.raises(UsageError, match=r"no final weights; there are best weights \(--weights best\), and"):
        again.model()


def test_no_folder_and_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no run folder"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"has no config\.toml"):
        Run.open(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are POSIX's")
@pytest.mark.parametrize("share", [0.1, 0.99])
def test_weights_that_find_no_room_end_in_a_sentence(tmp_path: Path, share: float) -> None:
    """HDF5 alone would leave a hundred lines of its own, or a segmentation fault."""
    whole = tmp_path / "whole.weights.h5"
    write_weights(whole, build("densenet-bc-16-8"))
    limit = int(share * whole.stat().st_size)
    script = tmp_path / "limited.py"
    script.write_text(
        "import resource, pathlib, densely, densely.runs\n"
        "model = densely.build('densenet-bc-16-8')\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "densely.runs.write_weights(pathlib.Path('some.weights.h5'), model)\n"
    )
    done = densely(script=script, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("some.weights.h5 cannot be written: File too large.")
    assert "id ref count" not in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {whole.name, script.name}


@pytest.mark.parametrize("network", ["densenet-bc-16-8", "densenet-fast", "notebook"])
def test_the_room_that_weights_are_given_is_enough(tmp_path: Path, network: str) -> None:
    model, path = build(network), tmp_path / "some.weights.h5"
    _find_room(path, model)
    room = path.stat().st_size
    write_weights(path, model)
    assert path.stat().st_size <= room
