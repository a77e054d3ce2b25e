"""Which room imports which: only downwards in the drawing of docs/design.md, and no module in a circle with another."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "densely"
UPWARDS = {("densely.training.single", "densely.report")}
"""A training ends by writing its report."""


def dotted(path: Path) -> str:
    parts = ["densely", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that one imports, anywhere in it; what only type checkers read is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    unread = {id(node) for block in typing for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "densely":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


#: `densely` itself hands out names that load on first use: it is no room, and neither is asking it for its version.
IMPORTS = {name: {*imported(path)} - {"densely"} for name, path in MODULES.items() if name != "densely"}


@pytest.fixture(scope="module")
def house() -> ModuleType:
    path = ROOT / "docs" / "draw_house.py"
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_is_drawn_once_and_told(house: ModuleType) -> None:
    drawn = [name for _, rooms in house.LEVELS.values() for name in rooms]
    assert sorted(drawn) == sorted({room(module) for module in IMPORTS})
    table = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    first_cells = "".join(re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE))
    assert {name for name in drawn if f"`{name}`" not in first_cells} == set()


def test_rooms_import_downwards(house: ModuleType) -> None:
    height = {name: -i for i, (_, rooms) in enumerate(house.LEVELS.values()) for name in rooms}
    up = {
        (module, other)
        for module, others in IMPORTS.items()
        for other in others
        if height[room(other)] > height[room(module)]
    }
    assert up == UPWARDS


def test_no_module_imports_itself_by_way_of_others() -> None:
    seen: dict[str, bool] = {}  # whether everything that it leads to has been looked at

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"{' → '.join((*way[way.index(module) :], module))}"
        if module in seen:
            return
        for other in IMPORTS[module]:
            follow(other, (*way, module))
        seen[module] = True

    for module in IMPORTS:
        follow(module, ())


def test_the_pictures_are_those_that_the_script_draws(house: ModuleType) -> None:
    for name, draw in house.PICTURES.items():
        assert (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8") == draw(), name


def test_what_the_two_ways_name_is_there(house: ModuleType) -> None:
    for rooms, _, _ in (*house.BATCH, *house.PREDICTION):
        for name in rooms.split(", "):
            assert any((PACKAGE / f"{name}{ending}").exists() for ending in ("", ".py")), name
