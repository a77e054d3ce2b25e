"""The page in a real browser: drop, paste, choose, camera; by key, on a phone, in the dark; nothing asked elsewhere."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import DESK, PHONE, browsers_end, fits, opened  # noqa: F401
from PIL import Image
from playwright.sync_api import FileChooser, Page
from serving import NAMES, Served, coloured, encoded, served, write_model

RED, GREEN, BLUE = coloured(220, 20, 30), coloured(20, 220, 30), coloured(10, 40, 220)

#: A file dropped onto the page, or pasted, as a browser tells of it.
GIVE = """([kind, data, name, type]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const given = new DataTransfer();
    given.items.add(new File([bytes], name, { type }));
    const options = { bubbles: true, cancelable: true };
    const event = kind === "paste" ? new ClipboardEvent(kind, { ...options, clipboardData: given })
        : new DragEvent(kind, { ...options, dataTransfer: given });
    document.getElementById("stage").dispatchEvent(event);
}"""


def give(page: Page, kind: str, data: bytes, name: str = "photo.png", type: str = "image/png") -> None:
    page.evaluate(GIVE, [kind, base64.b64encode(data).decode(), name, type])


@pytest.fixture
def page(server: Served) -> Iterator[Page]:
    with opened(server.address, own=server.address) as found:
        found.locator("#stage").wait_for()
        yield found


def answered(page: Page, name: str) -> None:
    page.locator("#verdict", has_text=name).wait_for()
    assert page.locator("#bars li").count() == 3
    assert page.locator("#bars button span").first.inner_text() == name


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted_and_its_class_stands_first(page: Page, kind: str) -> None:
    give(page, kind, GREEN)
    answered(page, NAMES[1])  # with its markup as letters
    assert "99.9 % sure" in page.inner_text("#verdict")
    shown = page.evaluate("(i => [i.naturalWidth, i.naturalHeight])(document.getElementById('shown'))")
    assert shown == [8, 8]
    heat = page.locator("#heat")
    assert heat.is_visible()
    assert heat.get_attribute("alt") == f"where in the image it sees {NAMES[1]}"
    assert page.evaluate("(i => [i.naturalWidth, i.naturalHeight])(document.getElementById('heat'))") == [2, 2]
    page.uncheck("#show")
    assert not heat.is_visible()
    give(page, kind, RED)
    answered(page, "red")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_it_works_on_every_screen(server: Served, size: tuple[int, int], dark: bool) -> None:
    with opened(server.address, size, dark, own=server.address) as page:
        page.locator("#samples button").nth(1).wait_for()
        assert fits(page)
        give(page, "drop", BLUE)
        answered(page, "blue")
        assert fits(page)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 28)" if dark else "rgb(246, 247, 249)")
        for one in page.locator("button:visible").all():
            assert one.bounding_box()["height"] >= 40  # a finger's width


def test_samples_are_offered_and_answered(page: Page) -> None:
    assert page.title() == "brightest-channel: try it"
    assert "3 classes: red, green & <b>, blue. Sees 8×8 pixels." in page.inner_text("#what")
    samples = page.locator("#samples button")
    samples.nth(1).wait_for()
    assert samples.all_inner_texts() == ["a red one", "b blue one"]
    samples.nth(1).click()
    answered(page, "blue")


def test_it_works_by_keyboard_alone(page: Page, tmp_path: Path) -> None:
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda one: choosers.append(one))  # early: the browser hears of it with a delay
    page.locator("#samples button").nth(1).wait_for()
    page.wait_for_timeout(300)
    assert page.evaluate("document.activeElement.id") == "stage"
    page.keyboard.press("Enter")
    while not choosers:
        page.wait_for_timeout(20)
    (tmp_path / "green.png").write_bytes(GREEN)
    choosers[0].set_files(tmp_path / "green.png")
    answered(page, NAMES[1])
    ways = []
    for _ in range(5):
        page.keyboard.press("Tab")
        ways.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert ways[:3] == ["choose", "camera", "show"]
    assert ways[3].startswith(NAMES[1])
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowDown")
    assert page.locator("#bars button").nth(1).get_attribute("aria-pressed") == "true"
    second = page.locator("#bars button span").nth(2).inner_text()
    assert page.get_attribute("#heat", "alt") == f"where in the image it sees {second}"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement === document.querySelectorAll('#bars button')[2]")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # a sample
    answered(page, "red")


def test_the_camera_takes_a_picture(server: Served) -> None:
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with opened(server.address, PHONE, own=server.address, more=fake) as page:
        page.locator("#camera").click()
        while page.evaluate("document.querySelector('video').videoWidth") == 0:
            page.wait_for_timeout(50)
        page.locator("#take").click()
        answered(page, NAMES[1])  # Chromium's picture is of green
        assert not page.locator("#look").is_visible()
        assert page.evaluate("document.querySelector('video').srcObject === null")  # and is off
        page.evaluate("document.getElementById('camera').click(); document.getElementById('camera').click()")
        page.locator("#look").wait_for()
        assert page.evaluate("document.querySelector('video').videoWidth") > 0  # or the keys would move
        page.evaluate("kept = document.querySelector('video').srcObject; undefined")
        page.locator("#leave").click()
        page.locator("#look").wait_for(state="hidden")
        while page.evaluate("document.querySelector('video').srcObject !== null"):  # told a moment after
            page.wait_for_timeout(20)
        assert page.evaluate("kept.getTracks().every(track => track.readyState === 'ended')")


def test_what_is_wrong_is_told_in_words(server: Served) -> None:
    def go() -> None:
        with opened(server.address, own=server.address) as page:
            page.locator("#stage").wait_for()
            give(page, "drop", b"no image at all", "letter.txt", "text/plain")
            page.locator("#verdict.bad", has_text="not a PNG, JPEG, WebP or BMP image").wait_for()
            assert page.locator("#words").is_visible()
            give(page, "drop", RED)
            answered(page, "red")
            assert page.locator("#verdict.bad").count() == 0

    # Chromium itself complains of the status, and of nothing else.
    with pytest.raises(AssertionError, match=r"^\['Failed to load resource: [^']*415[^']*'\]$"):
        go()


def test_a_photograph_with_too_many_pixels_is_made_smaller_before_it_is_sent(tmp_path: Path) -> None:
    large = encoded(Image.new("RGB", (1200, 1000), (20, 30, 220)))
    with (
        served(write_model(tmp_path / "m.onnx"), "--max-megapixels", 1) as small,
        opened(small.address, own=small.address) as page,
    ):
        page.locator("#stage").wait_for()
        assert small.client.post("predict", content=large, headers={"Content-Type": "image/png"}).status_code == 413
        give(page, "drop", large)
        answered(page, "blue")


def test_the_token_is_asked_for_and_kept_for_the_tab(tmp_path: Path) -> None:
    def go() -> None:
        with (
            served(write_model(tmp_path / "m.onnx"), "--token", "correct-horse") as locked,
            opened(locked.address, own=locked.address) as page,
        ):
            page.locator("#token").wait_for()
            assert not page.locator("#stage").is_visible()
            page.keyboard.type("wrong horse")
            page.keyboard.press("Enter")
            page.locator("#what", has_text="That is not its token.").wait_for()
            page.keyboard.type("correct-horse")
            page.keyboard.press("Enter")
            page.locator("#stage").wait_for()
            give(page, "drop", RED)
            answered(page, "red")
            page.reload()
            page.locator("#stage").wait_for()
            assert not page.locator("#token").is_visible()

    # Chromium itself complains of the two refusals.
    with pytest.raises(AssertionError, match=r"^\['Failed[^']*401[^']*', 'Failed[^']*401[^']*'\]$"):
        go()


def test_several_labels_an_image(tmp_path: Path) -> None:
    with (
        served(write_model(tmp_path / "m.onnx", multi_label=True)) as several,
        opened(several.address, PHONE, own=several.address) as page,
    ):
        page.locator("#stage").wait_for()
        give(page, "drop", coloured(220, 10, 230))
        page.locator("#verdict", has_text="blue, red").wait_for()
        assert page.locator("#bars .yes").count() == 2
        give(page, "drop", coloured(0, 0, 0))
        page.locator("#verdict", has_text="None of its classes").wait_for()


def test_the_page_says_when_the_server_has_gone(tmp_path: Path) -> None:
    def go() -> None:
        with served(write_model(tmp_path / "m.onnx")) as gone, opened(gone.address, own=gone.address) as page:
            page.locator("#stage").wait_for()
            gone.process.terminate()
            gone.process.wait(10)
            give(page, "drop", RED)
            page.locator("#verdict.bad", has_text="did not answer").wait_for()

    # Chromium itself complains of a question that nobody answered.
    with pytest.raises(AssertionError, match="ERR_CONNECTION_REFUSED"):
        go()
