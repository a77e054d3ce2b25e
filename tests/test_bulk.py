"""Tables of many images: what is in them, against the model's own outputs; what ends them early; memory, measured."""

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import Command
from rich.console import Console

from densely import bulk, cli
from densely.architecture import NetworkSpec, build
from densely.bulk import Tally, predict_to_csv
from densely.data import Preprocessing, read_image
from densely.errors import DataError, UsageError
from densely.model_file import Header, ModelFile, write
from densely.runs import Inputs

NAMES = ("cat", "a, b", "line\nend")
SPEC = {"layers": (1, 1), "growth_rate": 4, "stem_filters": 4, "classes": len(NAMES)}


def model_file(path: Path, size: int = 16, **changes: object) -> ModelFile:
    """A network with random weights that answers differently to different images."""
    network = NetworkSpec(**{**SPEC, **changes, "input_shape": (size, size, 3)})
    model = build(network)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.endswith("kernel"):
            variable.assign(rng.normal(0, 1, variable.shape))
    inputs = Inputs(
        class_names=NAMES,
        multi_label=network.activation == "sigmoid",
        input_shape=(size, size, 3),
        preprocessing=Preprocessing("unit", (0.0,) * 3, (1.0,) * 3).as_dict(),
    )
    write(path, model, Header(name="custom", network=network, inputs=inputs))
    return ModelFile.open(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return model_file(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images in folders, two of them bad, and two other files."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for i, name in enumerate(("a.png", "b, c.png", "sub/new\nline.png", 'sub/"q".jpg', "z.bmp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256 // (i + 1), (20 + i, 24, 3), dtype=np.uint8)).save(folder / name)
    (folder / "bad.png").write_text("no image")
    (folder / "sub" / "gone.png").symlink_to("nowhere")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "sub" / "film.gif").write_text("not looked at")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_has_a_row_for_each_file_and_says_what_the_model_says(
    trained: ModelFile, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LARGEST_BATCH", 2)  # bad files in the middle of batches, and batches of bad ones
    tally = predict_to_csv(trained, [photos], tmp_path / "out.csv", all_classes=True)
    assert tally == Tally(predicted=5, bad=2, others=2)
    found = rows(tmp_path / "out.csv")
    names = ["a.png", "b, c.png", "bad.png", 'sub/"q".jpg', "sub/gone.png", "sub/new\nline.png", "z.bmp"]
    assert [row["file"] for row in found] == [str(photos / name) for name in names]
    assert list(found[0]) == ["file", "class", "probability", "error", "p_cat", "p_a, b", "p_line\nend"]
    for row in found:
        if Path(row["file"]).name in ("bad.png", "gone.png"):
            assert row["file"] in row["error"]
            assert {value for key, value in row.items() if key not in ("file", "error")} == {""}
            continue
        pixels = read_image(row["file"], (16, 16), 3)
        (p,) = trained.model().predict_on_batch(pixels[None] / np.float32(255))
        assert row["error"] == ""
        assert row["class"] == NAMES[int(np.argmax(p))]
        assert float(row["probability"]) == pytest.approx(p.max(), abs=1e-5)
        assert [float(row[f"p_{name}"]) for name in NAMES] == pytest.approx(p.tolist(), abs=1e-5)
    assert len({row["p_cat"] for row in found}) == 6  # five answers, and none
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "photos"]


def test_the_table_is_as_rfc_4180_has_it(trained: ModelFile, photos: Path, tmp_path: Path) -> None:
    predict_to_csv(trained, [photos / "a.png", photos / "b, c.png", photos / "bad.png"], tmp_path / "out.csv")
    content = (tmp_path / "out.csv").read_bytes()
    lines = content.split(b"\r\n")
    assert lines[0] == b"file,class,probability,error"
    assert lines[2].startswith(b'"' + os.fsencode(photos / "b, c.png") + b'",')
    assert lines[-1] == b""
    assert len(lines) == 5


def test_several_labels_an_image_are_named_together(photos: Path, tmp_path: Path) -> None:
    several = model_file(tmp_path / "m.safetensors", activation="sigmoid")
    predict_to_csv(several, [photos / "a.png", photos / "bad.png"], tmp_path / "out.csv")
    good, bad = rows(tmp_path / "out.csv")
    assert list(good) == ["file", "labels", "error", "p_cat", "p_a, b", "p_line\nend"]
    assert good["labels"] == "|".join(name for name in NAMES if float(good[f"p_{name}"]) >= 0.5)
    assert bad["labels"] == bad["p_cat"] == "" != bad["error"]


def test_names_that_are_no_text_are_spelt_out(trained: ModelFile, photos: Path, tmp_path: Path) -> None:
    odd = os.fsencode(photos) + b"/\xff.png"
    try:
        os.link(photos / "a.png", odd)
    except OSError:
        pytest.skip("the file system takes only text")
    predict_to_csv(trained, [os.fsdecode(odd)], tmp_path / "out.csv")
    (row,) = rows(tmp_path / "out.csv")
    assert row["file"] == f"{photos}/\\udcff.png"
    assert row["class"] in NAMES


def test_a_pipe_is_not_waited_for(trained: ModelFile, photos: Path, tmp_path: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    assert predict_to_csv(trained, [photos], tmp_path / "out.csv").bad == 3
    (row,) = [row for row in rows(tmp_path / "out.csv") if row["file"].endswith("pipe.png")]
    assert "is no regular file" in row["error"]


def test_a_circle_of_links_is_a_row(trained: ModelFile, photos: Path, tmp_path: Path) -> None:
    (photos / "sub" / "up").symlink_to(photos)
    assert predict_to_csv(trained, [photos], tmp_path / "out.csv").predicted == 5
    (row,) = [row for row in rows(tmp_path / "out.csv") if row["file"].endswith("up")]
    assert "leads back to a folder above it" in row["error"]


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="such a file is only on Linux")
def test_a_file_that_fails_when_it_is_read_is_a_row(trained: ModelFile, photos: Path, tmp_path: Path) -> None:
    (photos / "memory.png").symlink_to("/proc/self/mem")  # reading its first byte is an error, for root too
    assert predict_to_csv(trained, [photos], tmp_path / "out.csv").bad == 3
    (row,) = [row for row in rows(tmp_path / "out.csv") if row["file"].endswith("memory.png")]
    assert "Input/output error" in row["error"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_file_that_may_not_be_read_is_a_row(trained: ModelFile, photos: Path, tmp_path: Path) -> None:
    (photos / "a.png").chmod(0)
    assert predict_to_csv(trained, [photos], tmp_path / "out.csv").bad == 3
    assert "Permission denied" in rows(tmp_path / "out.csv")[0]["error"]


def test_where_no_image_can_be_read_the_table_says_why_and_it_is_an_error(
    trained: ModelFile, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"Of 1 image none could be read: .*out\.csv"):
        predict_to_csv(trained, [photos / "bad.png"], tmp_path / "out.csv")
    assert "not a PNG" in rows(tmp_path / "out.csv")[0]["error"]


def test_a_folder_without_images_is_told(trained: ModelFile, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"There is no image \(\.png, .*\) in .*photos\."):
        predict_to_csv(trained, [tmp_path / "photos"], tmp_path / "out.csv")
    (tmp_path / "photos" / "a.gif").touch()
    with pytest.raises(DataError, match=r"\(1 other file left out\)"):
        predict_to_csv(trained, [tmp_path / "photos"], tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("sources", "out", "words"),
    [
        (["photos"], "out.txt", "--csv must end in .csv, not 'out.txt'"),
        (["photos"], "nowhere/out.csv", "There is no folder nowhere"),
        (["photos"], "folder.csv", "folder.csv is a folder"),
        (["photos", "nowhere.png"], "out.csv", "no image or folder at nowhere.png"),
        (["photo"], "out.csv", "no image or folder at photo:"),
    ],
)
def test_wrong_use_is_told_before_anything_is_computed(
    sources: list[str], out: str, words: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.csv").mkdir()
    never = ModelFile(tmp_path / "never", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError) as told:
        predict_to_csv(never, sources, out)
    assert words in str(told.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.csv", "photos"]


def test_an_older_table_stays_until_the_new_one_is_whole(
    trained: ModelFile, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.csv").write_text("older")
    monkeypatch.setattr(bulk, "LARGEST_BATCH", 3)
    real, seen = bulk.probabilities, []

    def fails_at_the_second_batch(*words: object) -> np.ndarray:
        seen.append((tmp_path / "out.csv").read_text())
        if len(seen) == 2:
            raise OSError(28, "No space left on device")
        return real(*words)

    monkeypatch.setattr(bulk, "probabilities", fails_at_the_second_batch)
    with pytest.raises(DataError, match=r"No space left on device; the first 3 of 7 rows are in .*out\.partial\.csv"):
        predict_to_csv(trained, [photos], tmp_path / "out.csv")
    assert seen == ["older", "older"]
    assert (tmp_path / "out.csv").read_text() == "older"
    assert len(rows(tmp_path / "out.partial.csv")) == 3

    monkeypatch.setattr(bulk, "probabilities", real)
    said = io.StringIO()
    predict_to_csv(trained, [photos], tmp_path / "out.csv", console=Console(file=said))
    assert said.getvalue() == f"{tmp_path}/out.partial.csv, which earlier work was broken off in, is replaced\n"
    assert len(rows(tmp_path / "out.csv")) == 7
    assert not (tmp_path / "out.partial.csv").exists()


# ---- processes -------------------------------------------------------------------------------------------------------


Said = tuple[int, str, str]


@pytest.fixture
def densely(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command line in this process: its exit code, and what it printed."""

    def run(*words: object, cwd: Path) -> Said:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["densely", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


def test_the_command(densely: Callable[..., Said], trained: ModelFile, photos: Path) -> None:
    place = photos.parent
    code, said, errors = densely("predict", trained.path, "photos", "--csv", "out.csv", cwd=place)
    assert (code, errors) == (0, "")
    assert said.splitlines() == [
        "Table          out.csv, 5 images",
        "not read       2; the column error says why",
        "left out       2 other files, by their names no images",
    ]
    code, said, errors = densely("predict", trained.path, "photos/bad.png", "--csv", "none.csv", cwd=place)
    assert (code, said) == (1, "")
    assert errors == "densely: Of 1 image none could be read: the column error of none.csv says why.\n"


def test_a_folder_without_a_table_if_there_are_few(
    densely: Callable[..., Said], trained: ModelFile, photos: Path
) -> None:
    place = photos.parent
    for bad in ("bad.png", "sub/gone.png"):
        (photos / bad).unlink()
    code, said, _ = densely("predict", trained.path, "photos", "--top", 1, cwd=place)
    assert code == 0
    assert said.index("photos/a.png") < said.index('photos/sub/"q".jpg') < said.index("photos/z.bmp")
    for i in range(30):
        os.link(photos / "a.png", photos / f"{i}.png")
    code, said, errors = densely("predict", trained.path, "photos", cwd=place)
    assert (code, said) == (2, "")
    assert errors == (
        "densely: More than 20 images, as in photos, are too many to print: "
        "write a table of them with --csv FILE.csv.\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--csv", "o.csv", "--json"], "--csv does not go with --top or --json"),
        (["--csv", "o.csv", "--top", "2"], "--csv does not go with"),
        (["--all-classes"], "--all-classes is for a table"),
        (["--csv", "o.csv", "--weights", "best"], "holds one set of weights"),
        (["--csv", "no/o.csv"], "no folder no"),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], says: str, densely: Callable[..., Said], trained: ModelFile, photos: Path
) -> None:
    code, _, errors = densely("predict", trained.path, "photos", *words, cwd=photos.parent)
    assert code == 2
    assert says in errors and errors.count("\n") == 1
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 names of one small image, and 500 of them once more."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "photos").mkdir()
    (folder / "fewer").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    for i in range(5000):
        os.link(folder / "one.png", folder / "photos" / f"{i:04}.png")
        if i < 500:
            os.link(folder / "one.png", folder / "fewer" / f"{i:04}.png")
    model_file(folder / "m.safetensors", size=128, stem="imagenet", layers=(1,), stem_filters=2, growth_rate=1)
    return folder


PEAKS = """
import resource
from densely.bulk import predict_to_csv
from densely.model_file import ModelFile

opened = ModelFile.open("m.safetensors")
for folder in ("fewer", "photos"):
    predict_to_csv(opened, [folder], folder + ".csv")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(many: Path) -> None:
    """4,500 images more have 221 MB of pixels, as bytes; a third of that is allowed, for what allocators leave."""
    done = subprocess.run([sys.executable, "-c", PEAKS], cwd=many, capture_output=True, text=True, check=True)
    fewer, all_of_them = (int(line) * (1 if sys.platform == "darwin" else 1024) for line in done.stdout.split())
    assert [len(rows(many / f"{folder}.csv")) for folder in ("fewer", "photos")] == [500, 5000]
    assert all_of_them - fewer < 4500 * 128 * 128 * 3 / 3


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_what_was_done_is_kept_in_a_partial_table(number: signal.Signals, many: Path) -> None:
    partial, whole = many / "o.partial.csv", many / "o.csv"
    partial.unlink(missing_ok=True)
    with Command("predict", "m.safetensors", "photos", "--csv", "o.csv", cwd=many) as command:
        command.wait_until(lambda: partial.is_file() and partial.stat().st_size >= 1000)
        command.send_signal(number)
        code, _, errors = command.wait(60)
    assert not whole.exists()
    kept = rows(partial)
    assert 0 < len(kept) < 5000
    assert all(row["class"] in NAMES for row in kept)
    if number != signal.SIGKILL:
        assert code == 128 + number
        assert errors == (
            f"densely: interrupted after {len(kept):,} of 5,000 images; their rows are in o.partial.csv.\n"
        )
