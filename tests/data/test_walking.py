"""The walk through a folder, against real folders: order, what is left out, links, what cannot be entered."""

import inspect
import os
import sys
from pathlib import Path

import pytest

from densely.data.walking import Found, images_below


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def below(root: Path) -> tuple[list[str], int]:
    """What is found, from the root, and how many other files there are."""
    others: list[int] = []
    found = list(images_below(root, lambda: others.append(1)))
    assert all(item.wrong == "" for item in found)
    return [os.path.relpath(item.path, root) for item in found], len(others)


def test_images_come_in_the_order_of_their_sorted_paths(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.png", "a/z.JPG", "a/b/c.webp", "a.png", "a/b.bmp", "Z.jpeg", "notes.txt", "a/x.gif", "png", "é.png"
    )
    found, others = below(tmp_path)
    expected = [p.relative_to(tmp_path) for p in tmp_path.rglob("*.*") if p.is_file()]
    expected = [p for p in expected if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp")]
    assert found == [str(p) for p in sorted(expected, key=lambda p: p.parts)]
    assert len(found) == 7
    assert others == 3


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden.png", ".git/a.png", "a/.b/c.png", "a/._d.png", "a/d.png", ".notes")
    assert below(tmp_path) == (["a/d.png"], 0)


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert below(tmp_path) == ([], 0)


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "root/a/1.png", "else/2.png")
    root = tmp_path / "root"
    (root / "b").symlink_to(tmp_path / "else")
    (root / "a" / "round").symlink_to(root)
    (root / "self").symlink_to(root / "self")  # leads nowhere, and is not called an image; the next is
    (root / "self.png").symlink_to(root / "self.png")
    found = list(images_below(root))
    assert [item.path for item in found] == [
        f"{root}/a/1.png",
        f"{root}/a/round",
        f"{root}/b/2.png",
        f"{root}/self.png",
    ]
    assert [item.wrong for item in found if item.wrong] == [
        f"{root}/a/round is a link that leads back to a folder above it: remove it."
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into any folder")
def test_a_folder_that_may_not_be_entered_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a").chmod(0)
    try:
        found = list(images_below(tmp_path))
    finally:
        (tmp_path / "a").chmod(0o700)
    assert found[0] == Found(f"{tmp_path}/a", f"{tmp_path}/a cannot be looked into: Permission denied.")
    assert found[1] == Found(f"{tmp_path}/b/2.png")


def test_a_folder_that_vanishes_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    walk = images_below(tmp_path)
    assert next(walk).path == f"{tmp_path}/a/1.png"
    os.rename(tmp_path / "b", tmp_path / "c")
    assert [item.wrong for item in walk] == [f"{tmp_path}/b cannot be looked into: No such file or directory."]


def test_folders_may_be_nested_deeper_than_python_calls(tmp_path: Path) -> None:
    depth, before = 120, sys.getrecursionlimit()
    touch(tmp_path, "a/" * depth + "deep.png")
    try:
        sys.setrecursionlimit(len(inspect.stack()) + depth // 2)
        found = list(images_below(tmp_path))
    finally:
        sys.setrecursionlimit(before)
    assert [item.path for item in found] == [str(tmp_path / ("a/" * depth + "deep.png"))]
