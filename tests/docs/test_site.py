"""The pages against what they speak of: links, pictures, commands, public names; and the site that is made of them."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from browser import PHONE, browsers_end, fits, opened  # noqa: F401
from markdown_it import MarkdownIt
from markdown_it.token import Token

import densely
from densely.architecture import spec
from densely.cli import app
from densely.data import NAMES
from densely.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted((ROOT / "docs").rglob("*.md"))
COMMANDS: Any = typer.main.get_command(app).commands
TARGETS = re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def lines(page: Path) -> Iterator[str]:
    """What a reader is told to type: `sh` blocks, and what stands behind the prompt in `console` blocks."""
    for token in tokens(page):
        if token.type == "fence" and token.info in ("sh", "console"):
            for line in token.content.splitlines():
                if token.info == "sh":
                    yield line
                elif line.startswith("$ "):
                    yield line.removeprefix("$ ")


@each_page
def test_links_and_pictures_exist(page: Path) -> None:
    for token in tokens(page):
        target = token.attrGet("href" if token.type == "link_open" else "src")
        if token.type not in ("link_open", "image") or re.match(r"[a-z]+:|#", str(target)):
            continue
        file = (page.parent / str(target).partition("#")[0]).resolve()
        assert file.exists(), f"{page.name} links to {target}"
        assert file.is_relative_to(ROOT)
    assert "src=" not in page.read_text(encoding="utf-8"), "a picture in HTML is not looked at here"


@each_page
def test_command_lines_are_what_the_command_line_takes(page: Path) -> None:
    for line in lines(page):
        words = shlex.split(line, comments=True)
        for command in [list(group) for is_joint, group in groups(words) if not is_joint]:
            if command[0] == "densely":
                check(command[1:], line)
            elif command[0] == "make":
                assert set(command[1:]) <= set(TARGETS), line
            elif "pytest" in command or command[0].endswith("python"):
                assert all((ROOT / word).exists() for word in command if word.endswith(".py")), line


def groups(words: list[str]) -> Iterator[tuple[bool, list[str]]]:
    found: list[str] = []
    for word in [*words, "&&"]:
        if word == "&&":
            if found:
                yield False, found
            found = []
        else:
            found.append(word)


def check(words: list[str], line: str) -> None:
    """Parsed as it would be, types and all; nothing is run."""
    assert words[0] in COMMANDS, line
    try:
        given = COMMANDS[words[0]].make_context(words[0], words[1:]).params
    except Exception as error:
        pytest.fail(f"{line}: {error}")
    assert given.get("recipe", "auto") in RECIPES, line
    if given.get("model"):
        spec(given["model"])  # raises for an unknown name
    source = str(given.get("source") or "photos")
    assert source in NAMES or source.startswith("photos"), line


@pytest.mark.parametrize(
    "wrong",
    [
        "densely trian digits", "densely train digits --epoch 3", "densely train digits --epochs x", "densely predict",
        "densely train cifar11", "densely train digits --recipe quick",
    ],
)  # fmt: skip
def test_a_wrong_command_line_would_be_noticed(wrong: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(wrong.split()[1:], wrong)


def test_every_public_name_stands_in_the_reference() -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"^::: densely\.(\w+)$", reference, re.MULTILINE))
    assert set(densely.__all__) - documented == {"__version__"}
    assert "`densely.__version__`" in reference


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning is an error."""
    if shutil.which("mkdocs", path=Path(sys.executable).parent) is None:
        pytest.skip("no MkDocs: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_holds_the_docstrings_and_asks_nobody_for_anything(site: Path) -> None:
    assert "Train a DenseNet and score it once" in (site / "api" / "training.html").read_text(encoding="utf-8")
    assert "What is trusted" in (site / "security.html").read_text(encoding="utf-8")
    assert not list(site.rglob("*.py"))
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]*src="?(?:https?:)?//|<link[^>]*stylesheet[^>]*//', text), (
            page
        )


@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_can_be_read_on_a_phone_and_searched_from_the_disk(site: Path, dark: bool) -> None:
    pages = ("reproduce.html", "benchmarks.html", "own-images.html", "api/training.html", "dense-block.html")
    with opened(site / "index.html", PHONE, dark, own=site.as_uri()) as page:
        for name in pages:
            page.goto((site / name).as_uri())
            assert fits(page), name
            broken = "Array.from(document.images).filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
            page.wait_for_load_state("load")
            assert page.evaluate(broken) == [], name
        assert page.evaluate("document.body.dataset.mdColorScheme") == ("slate" if dark else "default")
        page.locator("label[for=__search]").first.click()
        page.locator(".md-search__input").press_sequentially("bottleneck")
        page.locator(".md-search-result__link").first.wait_for(timeout=10_000)
