"""What a notebook shows of a run and of a network: complete, escaped, readable in both themes, ours alone."""

import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from browser import browsers_end, fits, opened  # noqa: F401
from IPython.core.formatters import DisplayFormatter
from rich.console import Console

import densely
from densely import display
from densely.data import Dataset
from densely.notebook import create_dense_net

NASTY = '<script>alert("x")</script>&amp;'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> densely.Run:
    folder = tmp_path_factory.mktemp("card") / "a <b> folder"
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    data = Dataset(images, np.arange(60) % 3, (NASTY, "b", "c"), f"{NASTY}/train")
    quiet = Console(quiet=True)
    return densely.train(data, model="densenet-bc-16-8", epochs=2, out=folder, console=quiet)


@pytest.fixture
def run(made: densely.Run) -> densely.Run:
    """A run whose folder is as it was."""
    return densely.Run(made.folder, made.config, made.inputs)


def moved(run: densely.Run, folder: Path, without: tuple[str, ...]) -> densely.Run:
    """The run in another folder that lacks some files."""
    folder.mkdir()
    for path in run.folder.iterdir():
        if path.name not in without and path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return densely.Run.open(folder)


def test_a_finished_run_shows_its_score_data_network_recipe_curves_and_folder(run: densely.Run) -> None:
    card = run._repr_html_()
    for word in (
        f"{100 * run.accuracy:.2f} %",
        "Test accuracy",
        "95 % interval",
        "8×8×1, 3 classes",
        "densenet-bc-16-8: 2 + 2 + 2 layers, k = 8; ",
        " trainable parameters",
        "auto: 2 epochs",
        "seed 0",
        "accuracy (%)",
        ">loss<",
        "validation",
    ):
        assert word in card
    assert card.count("<svg") == 2
    assert card.count("<polyline") == 4


def test_what_a_user_names_is_escaped(run: densely.Run) -> None:
    card = run._repr_html_()
    assert "<script" not in card
    assert "<b> folder" not in card
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;amp;" in card
    assert "a &lt;b&gt; folder" in card


def test_an_unfinished_run_shows_what_there_is(run: densely.Run, tmp_path: Path) -> None:
    begun = moved(run, tmp_path / "begun", ("metrics.json", "final.weights.h5", "history.csv"))
    assert "Not finished: 0 of 2 epochs." in begun._repr_html_()
    assert "<svg" not in begun._repr_html_()
    lines = (run.folder / "history.csv").read_text().splitlines()
    (begun.folder / "history.csv").write_text("\n".join(lines[:2]) + "\n")
    card = begun._repr_html_()
    assert "Not finished: 1 of 2 epochs." in card
    assert card.count("<circle") == 4  # one epoch is a dot


@pytest.mark.parametrize("file", ["metrics.json", "history.csv"])
def test_a_damaged_file_is_named_on_the_card(file: str, run: densely.Run, tmp_path: Path) -> None:
    damaged = moved(run, tmp_path / "damaged", ())
    (damaged.folder / file).write_text("epoch,loss\n1,what\n")
    assert f"{file} cannot be read" in damaged._repr_html_()


def test_a_loss_that_is_no_number_is_left_out(run: densely.Run, tmp_path: Path) -> None:
    other = moved(run, tmp_path / "nan", ())
    (other.folder / "history.csv").write_text("epoch,loss,accuracy\n1,nan,0.5\n2,inf,0.6\n")
    _, *charts = other._repr_html_().split("<svg")
    assert len(charts) == 1
    assert "nan" not in charts[0] and "inf" not in charts[0]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_both_in_both_themes(dark: bool, width: int, run: densely.Run, tmp_path: Path) -> None:
    model = display.network(densely.build("densenet-bc-100-12"))
    page_file = tmp_path / "page.html"
    page_file.write_text(
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<style>:root { color-scheme: light dark } body { color: light-dark(#000, #eee);"
        f"background: light-dark(#fff, #111) }}</style>{run._repr_html_()}<p>{model}"
    )
    with opened(page_file, (width, 900), dark) as page:
        assert fits(page)
        assert page.title() == ""
        assert page.evaluate("document.scripts.length") == 0
        text = page.locator("svg text").first.evaluate("element => getComputedStyle(element).fill")
        assert text == ("rgb(238, 238, 238)" if dark else "rgb(0, 0, 0)")
        assert page.get_by_text("dense block 1").is_visible()


def test_a_network_is_a_row_of_boxes() -> None:
    model = densely.build("densenet-bc-22-12", input_shape=(8, 8, 1))
    shown = display.network(model)
    assert shown is not None
    for word in (
        "stem",
        "dense block 1",
        "3 layers, k = 12, bottleneck",
        "24 → 60",
        "8×8",
        "transition 2",
        "classifier",
    ):
        assert word in shown
    assert f"{model.count_params():,} parameters" in shown
    assert shown.index("dense block 1") < shown.index("transition 1") < shown.index("dense block 2")


@pytest.mark.parametrize("name", ["densenet-121", "densenet-fast", "densenet-40-12"])
def test_every_kind_of_network_is_drawn(name: str) -> None:
    model = densely.build(name, classes=7)
    shown = display.network(model)
    assert shown is not None
    assert shown.count("dense block") == len(densely.NETWORKS[name].block_layers)
    assert ">→ 7<" in shown


def test_a_network_of_open_size_or_of_the_notebooks_words_is_drawn() -> None:
    assert "any×any" in str(display.network(densely.build("densenet-bc-16-8", input_shape=(None, None, 3))))
    image = keras.Input((32, 32, 3))
    assert "dense block 3" in str(display.network(keras.Model(image, create_dense_net(10, image, depth=16))))


def a_branching_model() -> keras.Model:
    image = keras.Input((8, 8, 3))
    block = densely.DenseBlock(2, 4)(image)
    return keras.Model(image, keras.layers.Concatenate()([image, block]))


class OfSomebody(keras.Model):
    def call(self, inputs):
        return inputs

    def _repr_html_(self) -> str:
        return "somebody's own"


OTHERS = [
    lambda: keras.Sequential([keras.layers.Dense(3)]),
    lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]),
    lambda: keras.Model(*[keras.Input((3,))] * 2),
    a_branching_model,
    OfSomebody,
]


@pytest.mark.parametrize("make", OTHERS)
def test_other_models_are_left_alone(make) -> None:
    assert display.network(make()) is None


@pytest.fixture
def formatter(monkeypatch: pytest.MonkeyPatch) -> DisplayFormatter:
    """Of an IPython that runs, with nothing registered."""
    formatter = DisplayFormatter()
    shell = SimpleNamespace(display_formatter=formatter)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return formatter


def test_ipython_shows_our_networks_and_what_others_say_of_themselves(formatter: DisplayFormatter) -> None:
    densely._show_networks()
    densely._show_networks()
    ours, _ = formatter.format(densely.build("densenet-bc-16-8"))
    assert "dense block 1" in ours["text/html"]
    for make in OTHERS[:4]:
        assert set(formatter.format(make())[0]) == {"text/plain"}
    assert formatter.format(OfSomebody())[0]["text/html"] == "somebody's own"


def test_what_somebody_registered_stays(formatter: DisplayFormatter) -> None:
    formatter.formatters["text/html"].for_type(keras.Model, lambda model: "theirs")
    densely._show_networks()
    assert formatter.format(densely.build("densenet-bc-16-8"))[0]["text/html"] == "theirs"


def test_without_ipython_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    densely._show_networks()
    assert "IPython" not in sys.modules
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    densely._show_networks()
