"""The live page of a training, read as its readers read it: over HTTP, and in a real browser."""

import http.client
import io
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
from browser import DESK, PHONE, browsers_end, fits, opened  # noqa: F401
from rich.console import Console
from small import SMALL

from densely.errors import DenselyError
from densely.interruption import Interrupted
from densely.runs import Run
from densely.training.batches import Batches
from densely.training.live import followed, page
from densely.training.live.page import LivePage
from densely.training.repeats import repeat
from densely.training.single import train

TINY = {"model": SMALL, "epochs": 2, "limit": 200, "batch_size": 32, "val_fraction": 0.2}
#: Words of a chart that its frame cuts off.
OUTSIDE = """[...document.querySelectorAll("svg.chart text")].filter(text => {
    const word = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
    return word.left < frame.left || word.right > frame.right || word.top < frame.top || word.bottom > frame.bottom;
}).map(text => text.textContent)"""


@pytest.fixture(autouse=True)
def any_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the usual ports: another worker's page may come to one that this one has just left."""
    monkeypatch.setattr(page, "PORTS", (0,))


@pytest.fixture
def live_page() -> Iterator[LivePage]:
    """A page about forty epochs of a long training, with a number that is none."""
    rows = [
        {
            "epoch": n,
            "learning_rate": 0.05 * (1 + math.cos(math.pi * n / 300)),
            "loss": 2.3 * 0.93**n + 0.02,
            "accuracy": 1 - 0.9 * 0.93**n,
            "val_loss": math.nan if n == 7 else 2.2 * 0.94**n + 0.15,
            "val_accuracy": 0.95 - 0.8 * 0.93**n,
            "seconds": 61.5,
        }
        for n in range(1, 41)
    ]
    told = LivePage(
        {
            "run": "runs/photographs-of-mushrooms-in-the-woods-around-the-house-and-garden-12/seed-3",
            "data": "photographs-of-mushrooms-in-the-woods-around-the-house-and-garden",
            "network": "densenet-bc-100-12",
            "recipe": "paper-augmented",
            "epochs": 300,
            "seed": 3,
            "phase": "training",
            "epoch": 41,
            "step": 300,
            "steps": 704,
            "loss": 0.131,
            "accuracy": 0.957,
            "learning_rate": 0.0956,
            "images_per_second": 1234.5,
            "seconds_left": 15_993.0,
            "history": tuple(rows),
        }
    )
    yield told
    told.asked = -math.inf  # nobody to wait for
    told.close()


def answer(address: str, path: str, host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=10)
    connection.putrequest(method, path, skip_host=host is not None)
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    found = connection.getresponse()
    found.body = found.read()
    connection.close()
    return found


def state(address: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    with urlopen(f"{address}state.json", timeout=10) as found:
        return json.loads(found.read(), parse_constant=refuse)


def test_a_training_is_followed_to_its_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, made, log, done = threading.Event(), 0, io.StringIO(), {}
    original = Batches.__getitem__

    def waiting(self: Batches, step: int) -> object:
        nonlocal made
        made += self.training
        if made == 9:  # Keras makes one to see what it looks like, then five an epoch
            assert go_on.wait(120)
        return original(self, step)

    def work() -> None:
        done["run"] = train("digits", out=tmp_path / "run", live=True, console=Console(file=log), **TINY)

    monkeypatch.setattr(Batches, "__getitem__", waiting)
    training = threading.Thread(target=work, daemon=True)
    training.start()
    while made < 9:
        assert training.is_alive(), log.getvalue()
        time.sleep(0.05)
    (address,) = (line.split()[-1] for line in log.getvalue().splitlines() if line.startswith("Live page "))
    assert address.startswith("http://127.0.0.1:")
    with opened(address, own=address) as browser:
        browser.locator("#verdict", has_text="Training, epoch 2 of 2.").wait_for()
        assert browser.title().endswith(str(tmp_path / "run"))
        assert browser.locator("svg.chart").count() == 3
        assert browser.locator("tbody tr").count() == 1
        told = state(address)
        assert (told["phase"], told["epoch"], told["steps"], len(told["history"])) == ("training", 2, 5, 1)
        assert 1 <= told["step"] <= 3
        assert 0 < told["accuracy"] <= 1
        assert told["images_per_second"] > 0
        assert told["seconds_left"] > 0
        go_on.set()
        browser.locator("#verdict.finished").wait_for(timeout=60_000)
        verdict = browser.locator("#verdict").inner_text()
        assert browser.locator("svg.chart path").count() == 5  # a line of two epochs for each column
        assert browser.locator("tbody tr").count() == 2
    training.join(60)
    assert verdict == f"Finished. Test accuracy {100 * done['run'].accuracy:.2f} %."
    with pytest.raises(OSError):  # noqa: PT011 (refused, or reset)
        urlopen(address, timeout=5)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_can_be_read_on_every_screen(size: tuple[int, int], dark: bool, live_page: LivePage) -> None:
    with opened(live_page.address, size, dark, own=live_page.address) as browser:
        browser.wait_for_selector("svg.chart path.val")
        assert fits(browser)
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(15, 19, 24)" if dark else "rgb(255, 255, 255)")
        assert browser.evaluate(OUTSIDE) == []
        assert "4:26:33" in browser.locator("#figures").inner_text()
        full = {"epoch": 40, "epochs": 40, "step": 704, "accuracy": 1.0}
        rows = [
            *live_page.state["history"][:-1],
            {**live_page.state["history"][-1], "accuracy": 1.0, "val_accuracy": 1.0},
        ]
        live_page.tell(phase="finished", part="val", score=1.0, history=rows, **full)
        browser.locator("#verdict.finished", has_text="Finished. Validation accuracy 100.00 %.").wait_for()
        assert browser.evaluate(OUTSIDE) == []


def test_it_can_be_read_with_the_keyboard(live_page: LivePage) -> None:
    with opened(live_page.address, own=live_page.address) as browser:
        browser.wait_for_selector("svg.chart path.val")
        loss = browser.locator("svg.chart").first
        assert loss.get_attribute("aria-valuetext").startswith("epoch 40: training 0.146, validation 0.335")
        browser.keyboard.press("Tab")
        browser.keyboard.press("Home")
        for _ in range(6):
            browser.keyboard.press("ArrowRight")
        assert loss.get_attribute("aria-valuetext") == "epoch 7: training 1.40, validation –"
        assert loss.locator(".cross").count() == 1
        browser.keyboard.press("Escape")
        assert loss.locator(".cross").count() == 0
        for _ in range(3):
            browser.keyboard.press("Tab")
        browser.keyboard.press("Enter")
        assert browser.locator("tbody tr").first.is_visible()


def test_the_last_picture_stays_when_the_process_has_gone(live_page: LivePage) -> None:
    def go() -> None:
        with opened(live_page.address, own=live_page.address) as browser:
            browser.wait_for_selector("svg.chart path.val")
            live_page.asked = -math.inf  # nobody to wait for
            live_page.close()
            browser.locator("#verdict.gone").wait_for()
            assert "process has gone" in browser.locator("#verdict").inner_text()
            assert browser.locator("svg.chart path.val").count() == 2
            assert browser.title().startswith("gone")

    # Chromium itself complains of a question that nobody answered.
    with pytest.raises(AssertionError, match="ERR_CONNECTION_REFUSED"):
        go()


def test_only_two_addresses_and_only_for_this_machine(live_page: LivePage) -> None:
    address, port = live_page.address, live_page.address.rstrip("/").rsplit(":", 1)[1]
    found = answer(address, "/")
    assert found.status == 200
    assert found.getheader("Content-Security-Policy").startswith("default-src 'none'")
    assert found.getheader("Access-Control-Allow-Origin") is None
    assert found.getheader("Server") == "densely"
    for path in ("/favicon.ico", "/state.json?x", "/../config.toml", "/page.html", "/state.json/"):
        assert answer(address, path).status == 404, path
    assert answer(address, "http://example.org/").status == 403
    for host in ("localhost:9000", "[::1]:8765", "127.0.0.1", f"LOCALHOST:{port}"):
        assert answer(address, "/state.json", host).status == 200, host
    for host in ("", "example.org", f"example.org:{port}", "127.0.0.1.example.org", "localhost.example.org"):
        found = answer(address, "/state.json", host)
        assert found.status == 403, host
        assert b"mushrooms" not in found.body
    assert answer(address, "/state.json", method="POST").status == 501


def test_numbers_that_are_none_are_null(live_page: LivePage) -> None:
    live_page.tell(loss=math.inf, seconds_left=math.nan)
    told = state(live_page.address)
    assert told["loss"] is None
    assert told["seconds_left"] is None
    assert [row["epoch"] for row in told["history"] if row["val_loss"] is None] == [7]


def test_a_port_that_is_taken_is_passed_over(live_page: LivePage, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(live_page.address.rstrip("/").rsplit(":", 1)[1])
    monkeypatch.setattr(page, "PORTS", (port, 0))
    other = LivePage(live_page.state)
    assert other.address != live_page.address
    assert state(other.address) == state(live_page.address)
    other.asked = -math.inf  # nobody to wait for
    other.close()


def test_a_training_goes_on_without_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(page, "PORTS", (taken.getsockname()[1],))
        log = io.StringIO()
        run = train("digits", out=tmp_path, live=True, console=Console(file=log), **{**TINY, "epochs": 1})
    assert run.accuracy >= 0
    assert log.getvalue().count("No live page: ") == 1


def test_what_ended_a_training_is_told_and_a_reader_waited_for(live_page: LivePage) -> None:
    recipe = SimpleNamespace(name="fast", epochs=2)
    config = SimpleNamespace(data="digits", model="densenet-bc-16-8", seed=0, recipe=recipe, watched="validation")
    seen: dict[str, Any] = {}

    def read(address: str) -> None:
        while seen.get("phase") != "stopped":
            seen.update(state(address))

    def diverge() -> None:
        with followed(Run(Path("nowhere"), config, None), True, Console(quiet=True)) as told:
            threading.Thread(target=read, args=(told.address,), daemon=True).start()
            for _ in range(1000):
                if seen:
                    break
                time.sleep(0.01)
            raise DenselyError("The loss is no longer a number.")

    with pytest.raises(DenselyError):
        diverge()
    for _ in range(500):
        if seen.get("phase") == "stopped":
            break
        time.sleep(0.01)
    assert seen["phase"] == "stopped"
    assert seen["said"] == "The loss is no longer a number."


def test_a_training_that_goes_on_tells_of_the_epochs_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, told, original, tell = 0, [], Batches.__getitem__, LivePage.tell

    def stopped(self: Batches, step: int) -> object:
        nonlocal made
        made += self.training
        if made == 8:  # in the second step of the second epoch, and never again
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step)

    def listening(self: LivePage, **changes: Any) -> None:
        tell(self, **changes)
        told.append(self.state)

    monkeypatch.setattr(Batches, "__getitem__", stopped)
    with pytest.raises(Interrupted, match="in epoch 2, after step 2"):
        train("digits", out=tmp_path / "run", console=Console(quiet=True), **TINY)
    monkeypatch.setattr(LivePage, "tell", listening)
    train("digits", out=tmp_path / "run", live=True, console=Console(quiet=True), **TINY)
    first, last = told[0], told[-1]
    assert (first["epoch"], first["step"], first["steps"], len(first["history"])) == (2, 3, 5, 1)
    assert 0 < first["seconds_left"] < math.inf
    assert 0 < first["images_per_second"] < math.inf
    assert (last["phase"], last["part"], len(last["history"])) == ("finished", "test", 2)


def test_several_trainings_are_followed_one_after_the_other(tmp_path: Path) -> None:
    log, options = io.StringIO(), {**TINY, "epochs": 1, "limit": 100}
    repeat("digits", seeds=2, out=tmp_path / "seeds", live=True, tensorboard=True, console=Console(file=log), **options)
    assert log.getvalue().count("Live page ") == 2
    assert len(list((tmp_path / "seeds").glob("seed-*/tensorboard/events.*"))) == 2
    # It is the same training without them, and goes on with or without.
    asked = json.loads((tmp_path / "seeds" / "asked.json").read_text())
    assert not {"live", "tensorboard"} & asked.keys()


def test_a_recipe_that_watches_the_test_part_is_told_so(live_page: LivePage) -> None:
    live_page.tell(watched="test")
    with opened(live_page.address, DESK, own=live_page.address) as browser:
        browser.locator(".legend", has_text="test").first.wait_for()
        assert "validation" not in browser.inner_text("main")
