"""Reports of real runs in a real browser: nothing asked of anybody, nothing wrong, usable by key and on a phone."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from browser import DESK, PHONE, browsers_end, fits, opened  # noqa: F401
from PIL import Image

from densely import report, runs
from densely.data import Parts
from densely.errors import DataError, UsageError
from densely.report import gathering
from densely.report import page as pages
from densely.report.figures import Drawn
from densely.runs import Run

SECTIONS = ["verdict", "learning", "confusions", "mistakes", "looks", "trust", "second", "network", "data", "repeat"]


def page_of(run: Run) -> Path:
    return run.folder / "report.html"


def test_it_tells_the_story_in_order(digits: Run) -> None:
    with opened(page_of(digits), DESK) as page:
        assert page.title() == f"densenet-bc-16-8 on digits: {100 * digits.accuracy:.2f} %"
        ids = page.eval_on_selector_all("main h2", "all => all.map(one => one.id)")
        assert ids == SECTIONS
        assert f"{100 * digits.accuracy:.2f} %" in page.inner_text("section[aria-labelledby=verdict]")
        low, high = digits.metrics["test"]["accuracy_ci95"]
        assert f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" in page.inner_text("main")
        assert page.locator("section[aria-labelledby=learning] svg").count() == 3
        assert page.locator("section[aria-labelledby=network] svg").count() == 1 + 3
        assert f"densely train --config {digits.folder / 'config.toml'}" in page.inner_text("pre")


def test_every_picture_has_words_and_every_id_stands_once(digits: Run, cifar: Run) -> None:
    for run in (digits, cifar):
        with opened(page_of(run)) as page:
            assert page.locator("img:not([alt])").count() == 0
            assert page.locator("svg:not([aria-label])").count() == 0
            ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
            assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["digits", "cifar", pytest.param("hundred", marks=pytest.mark.slow), "several"])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(name: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(name)
    run = made[0] if isinstance(made, tuple) else made
    with opened(page_of(run), PHONE) as page:
        assert fits(page)
        page.set_viewport_size({"width": DESK[0], "height": DESK[1]})
        assert fits(page)
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        ink = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
        assert ink == page.evaluate("getComputedStyle(document.body).color")


def test_the_gallery_opens_leads_on_by_key_and_closes(cifar: Run) -> None:
    with opened(page_of(cifar), PHONE) as page:
        cards = page.locator("#mistakes-list button")
        assert cards.count() == 24
        cards.nth(0).focus()
        page.keyboard.press("Enter")
        dialog = page.locator("dialog")
        assert dialog.is_visible()
        first = dialog.locator("h3").inner_text()
        assert re.match(r".+, but it is .+", first)
        assert dialog.locator(".bars i").count() == 5
        assert dialog.locator("figcaption").all_inner_texts()[1].startswith("what speaks for")
        page.keyboard.press("ArrowRight")
        told = json.loads(cards.nth(1).get_attribute("data-told"))
        assert dialog.locator("h3").inner_text() == told["title"]
        page.keyboard.press("ArrowLeft")
        assert dialog.locator("h3").inner_text() == first
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert page.evaluate("document.activeElement === document.querySelector('#mistakes-list button')")


def test_the_gallery_can_be_narrowed_to_a_class_and_shown_without_colour(cifar: Run) -> None:
    with opened(page_of(cifar)) as page:
        name = page.locator("#only option").nth(1).inner_text()
        page.select_option("#only", name)
        shown = page.locator("#mistakes-list li:not([hidden])")
        assert 0 < shown.count() < 24
        assert all(name in json.loads(one.get_attribute("data-classes")) for one in shown.all())
        assert page.inner_text("#only-count").split()[0] == str(shown.count())
        heat = page.locator("#mistakes-list li:not([hidden]) .heat").first
        assert heat.is_visible()
        page.uncheck("#heat")
        assert not heat.is_visible()


def test_on_paper_everything_is_open(digits: Run) -> None:
    with opened(page_of(digits)) as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()


def test_figures_stand_beside_the_page_as_png_and_svg(digits: Run) -> None:
    folder = digits.folder / "figures"
    names = {"loss", "accuracy", "learning_rate", "confusion", "per_class", "reliability", "network", "balance"}
    names |= {"reuse_1", "reuse_2", "reuse_3"}
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for name in names:
        assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
        with Image.open(folder / f"{name}.png") as image:
            image.load()
            assert image.width >= 500


@pytest.mark.slow
def test_a_hundred_classes_stay_readable_and_small(hundred: tuple[Run, Parts]) -> None:
    run, _ = hundred
    assert page_of(run).stat().st_size < 4e6
    with opened(page_of(run), PHONE) as page:
        assert fits(page)
        matrix = page.locator("section[aria-labelledby=confusions] figure.scroll svg")
        assert matrix.locator("text").filter(has_text=re.compile(r"^kind number \d+$")).count() == 200
        assert matrix.bounding_box()["width"] >= 1000
        page.locator("section[aria-labelledby=confusions] summary").click()
        assert page.locator("section[aria-labelledby=confusions] details tr").count() == 101


def test_several_labels_an_image_and_names_like_markup(several: tuple[Run, Parts]) -> None:
    run, _ = several
    with opened(page_of(run)) as page:
        text = page.inner_text("main")
        assert "mean average precision" in text
        assert "What it misses" in text
        assert "red <b>" in text and "green & co" in text
        assert page.locator("section[aria-labelledby=confusions] b").count() == 0
        assert page.locator("#mistakes-list button").count() > 0
        assert "Labels that may be wrong" not in text
        assert "densely.train(data, config=" in page.inner_text("pre")


def test_it_is_written_again_from_what_the_folder_holds(digits: Run, tmp_path: Path) -> None:
    page = report.write(digits, out=tmp_path / "again.html")
    assert page.read_text() == page_of(digits).read_text()
    assert len(list((tmp_path / "again-figures").iterdir())) == 22


@pytest.fixture(scope="module")
def drawn(digits: Run) -> dict[str, Drawn]:
    """The figures of its page, for pages that differ in words."""
    return pages.draw_all(gathering.gather(digits))


def test_what_is_in_environment_json_cannot_break_it(digits: Run, drawn: dict[str, Drawn], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(digits.folder, copy)
    (copy / "environment.json").write_text('{"command": 5, "resumed": 3, "machine": "m", "started": null}')
    found = gathering.gather(Run.open(copy))
    assert "How to repeat it" in pages.page(found, drawn)
    (copy / "environment.json").write_text("{")
    with pytest.raises(DataError, match=r"environment\.json cannot be read"):
        pages.page(found, drawn)


def test_a_temperature_that_may_do_harm_is_told_and_a_damaged_interval_refused(
    digits: Run, drawn: dict[str, Drawn], tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(digits.folder, copy)
    metrics = copy / "metrics.json"
    told = json.loads(metrics.read_text())
    doubt = "too small to tell this temperature from 1 (95 % interval 0.80 to 1.30)"
    for interval, doubted in (([0.8, 1.3], True), ([1.1, 1.3], False)):
        told["test"]["calibration"]["temperature_ci95"] = interval
        metrics.write_text(json.dumps(told))
        assert (doubt in pages.page(gathering.gather(Run.open(copy)), drawn)) is doubted
    told["test"]["calibration"]["temperature_ci95"] = ["low", 3]
    metrics.write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"metrics\.json"):
        gathering.gather(Run.open(copy))


def test_predictions_of_other_data_are_refused(digits: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(digits.folder, copy)
    runs.write_predictions(copy / "predictions.safetensors", {}, {})
    with pytest.raises(DataError, match=r"predictions\.safetensors cannot be read"):
        report.write(Run.open(copy))
    (copy / "predictions.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(DataError, match=r"predictions\.safetensors cannot be read"):
        report.write(Run.open(copy))
    # A run of an earlier version kept none.
    (copy / "predictions.safetensors").unlink()
    assert report.write(Run.open(copy)).is_file()


def test_data_given_in_python_must_be_given_again(several: tuple[Run, Parts], tmp_path: Path) -> None:
    run, parts = several
    with pytest.raises(UsageError, match="cannot be read again"):
        report.write(run)
    assert report.write(run, parts, out=tmp_path / "r.html").read_text() == page_of(run).read_text()


@pytest.mark.slow
def test_ten_thousand_images_of_a_hundred_classes_give_a_page_under_8_mb(tmp_path: Path, cifar_dir: Path) -> None:
    import numpy as np
    from rich.console import Console

    from densely import data
    from densely.data import Dataset
    from densely.training.single import train

    parts = data.load("cifar10", data_dir=cifar_dir)
    assert parts.test is not None
    names = tuple(f"a class with a name of some length, number {i}" for i in range(100))
    train_part, test = (
        Dataset(part.images[:n], np.random.default_rng(0).permutation(np.arange(n) % 100), names, "many/train")
        for part, n in ((parts.train, 2_000), (parts.test, 10_000))
    )
    run = train(
        Parts(train_part, None, test), out=tmp_path / "run", recipe="paper", model="densenet-bc-16-8", epochs=1,
        report=True, console=Console(quiet=True),
    )  # fmt: skip
    assert page_of(run).stat().st_size < 8e6
    with opened(page_of(run), PHONE) as page:
        assert fits(page)
