"""A real browser for pages: Debian's Chromium, headless, driven by Playwright; without it, tests of pages skip."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

PHONE, DESK = (390, 844), (1280, 900)
"""Widths and heights of a window, in pixels."""
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@contextmanager
def opened(
    target: str | Path, size: tuple[int, int] = DESK, dark: bool = False, own: str = "", more: tuple[str, ...] = ()
) -> Iterator[Page]:
    """A page in a new window; afterwards nothing may have gone wrong in it, or been asked of anybody else.

    Args:
        target: an address, or a file.
        size: of the window.
        dark: whether the reader prefers dark pages.
        own: how addresses begin that the page may ask for: those of its own server.
        more: of Chromium's switches.
    """
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: install Debian's package chromium, or set CHROMIUM to the program")
    address = target.resolve().as_uri() if isinstance(target, Path) else target
    wrong: list[str] = []

    def allowed(url: str) -> bool:
        return url == address or url.startswith(("data:", "blob:")) or bool(own and url.startswith(own))

    # A context of its own: no cookies, no storage, no cache of the tests before it.
    page = _browser(chromium, more).new_page(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    try:
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if not allowed(request.url) else None)
        page.goto(address)
        yield page
    finally:
        page.close()
    assert wrong == [], wrong


_running: dict[tuple[str, ...], Browser] = {}
_driver: list[Playwright] = []


def _browser(chromium: str, more: tuple[str, ...]) -> Browser:
    """Started once a module of tests: it takes longer than most of what is looked at in it."""
    if not _driver:
        _driver.append(sync_playwright().start())
    if more not in _running:
        _running[more] = _driver[0].chromium.launch(executable_path=chromium, args=[*QUIET, *more])
    return _running[more]


@pytest.fixture(scope="module", autouse=True)
def browsers_end() -> Iterator[None]:
    """To be imported by every module that opens pages: while Playwright runs, nobody else in its thread has asyncio."""
    yield
    for browser in _running.values():
        browser.close()
    for driver in _driver:
        driver.stop()
    _running.clear()
    _driver.clear()


def fits(page: Page) -> bool:
    """Whether the page is no wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))
