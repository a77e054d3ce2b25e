"""The command as a user runs it: a process of its own, its output, its exit code."""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from PIL import Image
from processes import Command, Done

from densely import data
from densely.architecture import NETWORKS
from densely.cli import main


def densely(*words: object, cwd: Path, **env: str) -> Done:
    return processes.densely(*words, cwd=cwd, **{"COLUMNS": "150", **env})


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process: one of its own imports the engine each time, ten seconds on a busy machine.

    All commands have one way in, which other tests here start for real.
    """

    def inside(*words: object, cwd: Path, **env: str) -> Done:
        for name, value in {"COLUMNS": "150", **env}.items():
            monkeypatch.setenv(name, value)
        # The first download of a process fixes its proxies for the rest of it.
        monkeypatch.setattr(urllib.request, "_opener", None)
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["densely", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return inside


@pytest.fixture
def refused(inside: Callable[..., Done]) -> Callable[..., tuple[int, str]]:
    """What ends before anything is computed: its exit code, and what it says."""

    def refused(*words: object, cwd: Path, **env: str) -> tuple[int, str]:
        done = inside(*words, cwd=cwd, **env)
        return done.returncode, done.stderr

    return refused


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small run in it, `runs/digits-1`."""
    folder = tmp_path_factory.mktemp("place")
    done = densely(
        "train", "digits", "--model", "densenet-bc-16-8", "--epochs", 3, "--limit", 300, "--batch-size", 32, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    (folder / "train.log").write_text(done.stdout)
    return folder


def test_train_prints_epochs_accuracy_and_folder(place: Path) -> None:
    log = (place / "train.log").read_text()
    assert "digits: 270 to train, 30 to validate, 300 to test" in log
    assert log.count("epoch ") == 3
    last = log.splitlines()[-2:]
    metrics = json.loads((place / "runs" / "digits-1" / "metrics.json").read_text())
    assert last[0].startswith(f"Test accuracy  {100 * metrics['test']['accuracy']:.2f} %")
    assert last[1] == "Run folder     runs/digits-1"


def test_report_explain_and_compare(place: Path, tmp_path: Path, inside: Callable[..., Done]) -> None:
    report = densely("report", "runs/digits-1", "--out", tmp_path / "page.html", cwd=place)
    assert report.returncode == 0, report.stderr
    assert "<title>densenet-bc-16-8 on digits" in (tmp_path / "page.html").read_text()

    Image.fromarray(data.load("digits").test.images[0, ..., 0]).save(tmp_path / "a digit.png")
    explained = inside("explain", place / "runs/digits-1", "a digit.png", "--top", 2, cwd=tmp_path)
    assert explained.returncode == 0, explained.stderr
    assert len(re.findall(r"^ *\d+\.\d\d %  \d$", explained.stdout, re.MULTILINE)) == 2
    with Image.open(tmp_path / "a digit-explained.png") as picture:
        assert picture.width > 2 * 256

    shutil.copytree(place / "runs/digits-1", tmp_path / "other")
    compared = inside("compare", place / "runs/digits-1", "other", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "Page           compare.html" in compared.stdout
    assert "Nothing: their configs are equal." in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "nowhere"], "There is no run folder nowhere"),
        (["report", "runs"], "runs is no run folder: it has no config.toml; the newest in it is runs/"),
        (["explain", "runs/digits-1", "runs"], "runs is a folder: name an image in it"),
        (["report", "runs/digits-1", "--out", "page.pdf"], "--out must end in .html"),
        (["explain", "runs/digits-1", "none.png"], "There is no image at none.png"),
        (["compare", "runs/digits-1", "runs/digits-1"], "given twice"),
    ],
)
def test_wrong_use_of_the_pages_is_told(
    place: Path, words: list[str], said: str, refused: Callable[..., tuple[int, str]]
) -> None:
    code, told = refused(*words, cwd=place)
    assert code == 2
    assert said in told
    assert "Traceback" not in told


def test_train_can_be_watched_and_ends_with_a_report(tmp_path: Path) -> None:
    words = ["--model", "densenet-bc-16-8", "--epochs", 1, "--limit", 100, "--live", "--tensorboard", "--report"]
    done = densely("train", "digits", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Report         runs/digits-1/report.html"
    assert (tmp_path / "runs" / "digits-1" / "report.html").is_file()
    assert re.search(r"^Live page      http://127\.0\.0\.1:\d+/$", done.stdout, re.MULTILINE)
    assert list((tmp_path / "runs" / "digits-1" / "tensorboard").iterdir())
    config = (tmp_path / "runs" / "digits-1" / "config.toml").read_text()
    assert "live" not in config
    assert "tensorboard" not in config


def test_evaluate_gives_the_same_score(place: Path, inside: Callable[..., Done]) -> None:
    recorded = json.loads((place / "runs" / "digits-1" / "metrics.json").read_text())["test"]
    done = densely("evaluate", "runs/digits-1", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["part"], found["weights"]) == ("test", "final")
    scaled, again = recorded.pop("calibration"), found.pop("calibration")
    assert again.pop("temperature_ci95") == pytest.approx(scaled.pop("temperature_ci95"))
    assert again == pytest.approx(scaled)
    for score, value in recorded.items():
        again = found[score]
        if score in ("reliability", "per_class"):
            assert len(again) == len(value)
        else:
            assert again == (value if isinstance(value, list) else pytest.approx(value)), score
    shown = inside("evaluate", "runs/digits-1", "--part", "val", "--weights", "best", cwd=place).stdout
    assert "balanced accuracy" in shown
    assert "taken for" in shown
    assert "val part, best weights" in shown


def test_predict_names_classes(place: Path, inside: Callable[..., Done]) -> None:
    Image.fromarray(data.load("digits").test.images[0, ..., 0]).save(place / "one.png")
    done = densely("predict", "runs/digits-1", "one.png", "one.png", "--json", cwd=place)
    rows = json.loads(done.stdout)
    assert [row["image"] for row in rows] == ["one.png", "one.png"]
    assert len(rows[0]["top"]) == 5
    assert rows[0] == rows[1]
    shutil.copy(place / "one.png", place / "caf\udce9.png")  # a name in Latin-1
    (one,) = json.loads(inside("predict", "runs/digits-1", "caf\udce9.png", "--json", cwd=place).stdout)
    assert (one["image"], one["top"][0]["class"]) == ("caf\udce9.png", rows[0]["top"][0]["class"])
    table = inside("predict", "runs/digits-1", "one.png", "--top", 2, cwd=place).stdout
    assert rows[0]["top"][0]["class"] in table
    assert "%" in table


def test_show_draws_a_picture(tmp_path: Path, inside: Callable[..., Done]) -> None:
    done = densely("show", "digits", "--recipe", "paper-augmented", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "digits-paper-augmented.png"
    assert inside("show", "digits", "--out", "mine.png", "--seed", 1, cwd=tmp_path).stdout.strip() == "mine.png"
    assert {path.name for path in tmp_path.iterdir()} == {"digits-paper-augmented.png", "mine.png"}
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_models_lists_every_network_with_the_paper_s_errors(tmp_path: Path) -> None:
    shown = densely("models", cwd=tmp_path).stdout
    for name in NETWORKS:
        assert name in shown
    assert "769,162" in shown
    assert "4.51" in shown


def test_summary_adds_up(tmp_path: Path) -> None:
    shown = densely("summary", "densenet-bc-100-12", "--classes", 100, cwd=tmp_path).stdout
    assert "dense_block_2" in shown
    assert "16×16×300" in shown
    assert f"{769_162 + 90 * 343:,}" in shown


def test_help_and_version_come_at_once(tmp_path: Path) -> None:
    for option, says in (("--help", "train"), ("--version", "densely ")):
        command = [sys.executable, "-m", "densely", option]
        assert says in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    # Neither loads the engine, which alone takes seconds.
    imported = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, densely.cli; print([m for m in ('torch', 'keras', 'numpy') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
    ).stdout
    assert imported.strip() == "[]"


def test_the_help_of_train_names_every_data_set(tmp_path: Path) -> None:
    words = re.split(r"[\s,;│]+", densely("train", "--help", cwd=tmp_path).stdout)
    assert set(data.NAMES) <= set(words)


def test_every_setting_reaches_the_training_under_the_recipe_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: Callable[..., Done]
) -> None:
    numbers = {
        "epochs": 3, "batch_size": 5, "warmup": 0.1, "cooldown": 0.2, "momentum": 0.8, "beta_factor": 2.0,
        "weight_decay": 0.01, "label_smoothing": 0.05, "ema": 0.9, "clip_norm": 1.5, "accumulate": 2, "early_stop": 4,
        "val_fraction": 0.25, "shift": 1, "crop": 0.5, "cutout": 6, "mixup": 0.3, "cutmix": 0.7, "shift_test": 7,
    }  # fmt: skip
    words = {
        "schedule": "constant", "optimizer": "adamw", "decay_on": "kernels", "precision": "bfloat16",
        "preprocessing": "unit", "fill": "reflect", "policy": "none",
    }  # fmt: skip
    yes = ("class_weights", "flip", "flip_vertically", "flip_test")
    no = ("flip_in_turn", "turn")
    line = ["--lr", 0.4]
    for name, value in (numbers | words).items():
        line += [f"--{name.replace('_', '-')}", value]
    line += [f"--{name.replace('_', '-')}" for name in yes] + [f"--no-{name.replace('_', '-')}" for name in no]
    expected = {"learning_rate": 0.4, **numbers, **words, **dict.fromkeys(yes, True), **dict.fromkeys(no, False)}
    trained: list[dict] = []
    monkeypatch.setattr("densely.train", lambda source, **options: trained.append(options))
    assert inside("train", "digits", *line, "--depth", 22, cwd=tmp_path).returncode == 0
    assert inside("train", "digits", cwd=tmp_path).returncode == 0
    full, bare = trained
    assert {name: full.pop(name) for name in expected} == expected
    assert full == bare | {"network": {"depth": 22}}  # what was left out has no name at all: the recipe decides


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["train", "digitz"], 2, "did you mean digits"),
        (["train", "digits", "--model", "densnet-40-12"], 2, "did you mean densenet-40-12"),
        (["train", "digits", "--depth", "23"], 2, "depth 23 does not fit"),
        (["train", "digits", "--epochs", "many"], 2, "--epochs"),
        (["train", "digits", "--epoch", "3"], 2, "--epoch"),
        (["train", "digits", "--size", "banana"], 2, "--size must look like"),
        (["train"], 2, "DATA"),
        (["train", "./nowhere"], 2, "nowhere"),
        (["train", "nowhere.csv"], 2, "no table at nowhere.csv"),
        (["train", "cifar10", "--data-dir", "."], 1, "cifar-10-python.tar.gz"),
        (["train", "empty"], 1, "class folder"),
        (["evaluate", "nowhere"], 2, "no run folder"),
        (["evaluate", "empty"], 2, "no run folder"),
        (["summary", "densenet-40-12", "--input-shape", "2x2x3"], 2, "too small"),
        (["summary", "densenet-40-12", "--input-shape", "2"], 2, "--input-shape must look like"),
        (["predict", "empty", "x.png"], 2, "no run folder"),
        (["show", "digits", "--out", "nowhere/x.png"], 2, "no folder nowhere"),
        (["show", "digits", "--out", "x.jpg"], 2, "must end in .png"),
        (["show", "digits", "--recipe", "papre"], 2, "did you mean paper"),
        (["show", "digitz"], 2, "did you mean digits"),
        (["find-lr", "digits", "--out", "x.banana"], 2, "x.banana has no picture's ending"),
        (["find-lr", "digits", "--model", "densenet-40"], 2, "did you mean densenet-40-12"),
        (["find-lr", "digits", "--size", "big"], 2, "--size must look like 64 or 48x64"),
        (["train", "digits", "--seeds", "2", "--epochs", "0"], 2, "epochs=0"),
        (["train", "digits", "--jobs", "2"], 2, "--jobs is for --seeds and --folds"),
        (["train", "digits", "--jobs", "2", "--devices", "2"], 2, "--jobs is for --seeds and --folds"),
        (["train", "digits", "--workers", "2"], 2, "digits is always held in memory whole"),
        (["train", "digits", "--shift-test", "8"], 2, "shift_test=8 moves images of 8×8 out of themselves"),
        (["train", "~nobody-here/photos"], 2, "There is no folder at ~nobody-here/photos"),
        (["train", "photos\udce9"], 2, "is not UTF-8: rename"),
        (["evaluate", "a" * 300], 1, "a cannot be used: File name too long."),
        (["sweep", "space.toml", "digits"], 2, "--trials"),
        (["sweep", "space.toml", "digits", "--trials", "3"], 2, "There is no space space.toml"),
        (["trian", "digits"], 2, "trian"),
    ],
)
def test_wrong_use_gets_one_sentence_and_an_exit_code(
    words: list[str], code: int, says: str, tmp_path: Path, refused: Callable[..., tuple[int, str]]
) -> None:
    (tmp_path / "empty").mkdir()
    # A closed port: the download fails here as it would without a network.
    proxy = "http://127.0.0.1:9"
    found, said = refused(*words, cwd=tmp_path, http_proxy=proxy, https_proxy=proxy)
    assert found == code, said
    assert says in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_wrong_options_of_a_run_are_told(place: Path, refused: Callable[..., tuple[int, str]]) -> None:
    for words, says in (
        (["evaluate", "runs/digits-1", "--part", "tset"], "--part must be one of test, val, train"),
        (["evaluate", "runs/digits-1", "--weights", "last"], "--weights must be one of"),
        (["predict", "runs/digits-1", "train.log"], "train.log is not a PNG"),
    ):
        code, said = refused(*words, cwd=place)
        assert code in (1, 2)
        assert says in said
        assert "Traceback" not in said


def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    with Command("train", "digits", "--epochs", 500, "--model", "densenet-bc-16-8", cwd=tmp_path) as command:
        command.wait_until(lambda: "epoch   2/500" in command.stdout)
        command.send_signal(signal.SIGINT)
        code, output, errors = command.wait(60)
    assert code == 130
    assert "densely: interrupted" in errors
    assert "Go on with:  densely train digits --epochs 500 --model densenet-bc-16-8" in errors
    assert "Traceback" not in output + errors
    kept = {path.name for path in (tmp_path / "runs" / "digits-1").iterdir()}
    assert {"config.toml", "history.csv", "best.weights.h5"} <= kept
    assert "metrics.json" not in kept


@pytest.mark.parametrize("name", ["cifar10", pytest.param("cifar100", marks=pytest.mark.slow)])
def test_real_cifar_trains(name: str, cifar_dir: Path, tmp_path: Path, inside: Callable[..., Done]) -> None:
    words = ["--limit", 200, "--epochs", 1, "--model", "densenet-bc-16-8"]
    done = inside("train", name, *words, cwd=tmp_path, DENSELY_DATA=str(cifar_dir))
    assert done.returncode == 0, done.stderr
    assert "Test accuracy" in done.stdout


@pytest.mark.slow
def test_real_cifar_learns(cifar_dir: Path, tmp_path: Path) -> None:
    """Two epochs of 2,000 images teach more than chance: 10 %."""
    done = densely("train", "cifar10", "--limit", 2000, "--epochs", 2, cwd=tmp_path, DENSELY_DATA=str(cifar_dir))
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "runs" / "cifar10-1" / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.18
