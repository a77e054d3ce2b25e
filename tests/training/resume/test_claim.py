"""Which folder a training gets: a new one or its own, never another's, and none that somebody is in."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from densely import runs
from densely.architecture import spec
from densely.errors import DataError, DenselyError, UsageError
from densely.recipes import Recipe
from densely.runs import RunConfig
from densely.training.resume import claim

CONFIG = RunConfig(data="digits", model="densenet-bc-16-8", network=spec("densenet-bc-16-8"), recipe=Recipe())
PRINTS = {"train": "aa", "validation": "bb", "test": "cc"}


def begun(folder: str | Path, config: RunConfig = CONFIG, *, prints: dict[str, str] | None = PRINTS) -> Path:
    """A folder in which a training was broken off; without fingerprints, before it knew its images."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    runs.write_config(folder / "config.toml", config)
    if prints is not None:
        runs.write_json(folder / "splits.json", {"fingerprints": prints})
    return folder


def finished(folder: str | Path) -> Path:
    runs.write_json(begun(folder) / "metrics.json", {})
    return Path(folder)


def given(out: str | Path | None = None, config: RunConfig = CONFIG, prints=PRINTS, **more: Any) -> Path:
    """The folder that a training gets."""
    with claim.claimed(out, config, prints, **more) as folder:
        return folder


def refused(kind: type[DenselyError], message: str, *asked: Any, **more: Any) -> None:
    """The whole message, whatever is in it."""
    with pytest.raises(kind) as caught:
        given(*asked, **more)
    assert type(caught.value) is kind and str(caught.value) == message


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `runs/` is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_it(tmp_path: Path) -> Iterator[Any]:
    """Puts another process into a folder, until the end of the test or until it is killed."""
    code = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire();"
        "print('in', flush=True); input()"
    )
    with ExitStack() as stack:

        def another(folder: Path) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, str(folder / ".lock")],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == "in\n"
            return process

        yield another


# --------------------------------------------------------------------------------------------------- a folder by name


def test_what_resume_can_be() -> None:
    claim.check("auto")
    claim.check("never")
    with pytest.raises(UsageError, match=r"^--resume is auto or never, not 'sometimes'\.$"):
        claim.check("sometimes")


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_new_folder_is_made_with_all_above_it_and_one_with_nothing_in_it_is_taken(tmp_path: Path, resume) -> None:
    assert given(tmp_path / "new" / "run", resume=resume) == tmp_path / "new" / "run"
    # Its lock is left, and what a process that was killed had begun to write: that is nothing.
    (tmp_path / "new" / "run" / ".17.config.toml").write_text("half")
    assert claim.empty(tmp_path / "new" / "run")
    assert given(str(tmp_path / "new" / "run"), resume=resume) == tmp_path / "new" / "run"
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("prints", [PRINTS, None])
def test_the_same_training_is_gone_on_with(tmp_path: Path, prints) -> None:
    folder = begun(tmp_path / "run", prints=prints)
    assert not claim.empty(folder) and claim.broken_off(folder)
    assert given(folder) == folder
    assert claim.empty(tmp_path / "run") is False
    refused(
        UsageError,
        f"{folder} already holds a training: choose another --out, or leave --resume out.",
        folder, resume="never",
    )  # fmt: skip


def test_what_is_scored_is_not_broken_off(tmp_path: Path) -> None:
    assert not claim.broken_off(finished(tmp_path / "run"))
    assert not claim.broken_off(tmp_path)
    assert given(tmp_path / "run") == tmp_path / "run"  # whoever names it gets it


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    refused(UsageError, f"{tmp_path} already holds something: choose another --out, or remove it first.", tmp_path)
    file = tmp_path / "thesis.tex"
    refused(UsageError, f"{file} is a file: --out names a folder.", file)
    refused(DataError, f"The run folder {file / 'run'} cannot be created: Not a directory.", file / "run")


def test_other_settings_are_named_the_first_three_of_them(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    others = {"seed": 1, "tune": True, "limit": 9, "deterministic": True, "sync_bn": True}
    told = {
        1: "seed=0, not 1",
        3: "limit=None, not 9; seed=0, not 1; tune=False, not True",
        4: "limit=None, not 9; seed=0, not 1; tune=False, not True (and 1 more)",
        5: "limit=None, not 9; seed=0, not 1; tune=False, not True (and 2 more)",
    }
    for count, said in told.items():
        refused(
            UsageError,
            f"{folder} holds a training with {said}: give the same settings to go on with it, or choose another --out.",
            folder, CONFIG.model_copy(update=dict(list(others.items())[:count])),
        )  # fmt: skip


def test_changed_data_are_named(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    for now, said in [
        ({**PRINTS, "test": "other"}, "test"),
        ({**PRINTS, "test": "other", "train": "other"}, "test, train"),
        ({"train": "aa", "test": "cc"}, "validation"),
        ({**PRINTS, "more": "dd"}, "more"),
    ]:
        refused(
            DataError,
            f"The data have changed since {folder} was begun ({said}): choose another --out.",
            folder, CONFIG, now,
        )  # fmt: skip


def test_a_folder_is_one_process_s_alone_until_that_ends(tmp_path: Path, in_it) -> None:
    folder = begun(tmp_path / "run")
    other = in_it(folder)
    busy = f"Another process is training in {folder}: wait for it, or choose another --out."
    refused(DenselyError, busy, folder)
    (folder / ".4.config.toml").touch()  # what it writes is not removed
    refused(DenselyError, busy, folder)
    assert (folder / ".4.config.toml").exists()
    other.kill()
    other.wait()
    assert given(folder) == folder


def test_a_folder_that_cannot_be_locked_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with ExitStack() as held, pytest.raises(DataError) as caught:
        claim.lock(tmp_path, held)
    assert re.fullmatch(re.escape(f"{tmp_path} cannot be locked: ") + r"\w[\w ]+\.", str(caught.value))


def test_what_others_began_between_look_and_lock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lock = tmp_path / "run", claim.lock

    def late(taken: Path, held: ExitStack) -> None:
        runs.write_config(taken / "config.toml", CONFIG.model_copy(update={"seed": 5}))
        lock(taken, held)

    monkeypatch.setattr(claim, "lock", late)
    with pytest.raises(UsageError, match="seed=5, not 0"):
        given(folder)


# ---------------------------------------------------------------------------------------------------- numbered folders


def test_without_a_name_the_newest_that_was_broken_off_or_the_next_free_one(home: Path) -> None:
    assert given() == Path("runs/digits-1")
    begun("runs/digits-2")
    begun("runs/digits-10")
    finished("runs/digits-11")
    begun("runs/digits-12", CONFIG.model_copy(update={"seed": 1}))
    begun("runs/digits-13", prints={**PRINTS, "train": "other"})
    (begun("runs/digits-14") / "config.toml").write_text("what is this")
    assert given() == Path("runs/digits-10")
    assert given(resume="never") == Path("runs/digits-3")
    assert given(config=CONFIG.model_copy(update={"data": "cifar10"})) == Path("runs/cifar10-1")


def test_one_that_another_process_is_in_is_passed_over(home: Path, in_it) -> None:
    for number in (1, 2, 3):
        begun(f"runs/digits-{number}")
    in_it(Path("runs/digits-3"))
    with claim.claimed(None, CONFIG, PRINTS) as folder, claim.claimed(None, CONFIG, PRINTS) as next_one:
        assert (folder, next_one) == (Path("runs/digits-2"), Path("runs/digits-1"))
        with claim.claimed(None, CONFIG, PRINTS) as new, ExitStack() as held:
            assert new == Path("runs/digits-4")
            for locked in (folder, next_one, new):
                with pytest.raises(DenselyError, match="Another process"):
                    claim.lock(locked, held)
    assert given() == Path("runs/digits-2")


def test_one_that_is_finished_while_it_is_looked_at_is_passed_over(home, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, lock = begun("runs/digits-1"), begun("runs/digits-2"), claim.lock

    def late(taken: Path, held: ExitStack) -> None:
        if taken == second:
            runs.write_json(second / "metrics.json", {})
        lock(taken, held)

    monkeypatch.setattr(claim, "lock", late)
    with claim.claimed(None, CONFIG, PRINTS) as folder:
        assert folder == first
        with ExitStack() as held:
            lock(second, held)  # nobody holds it


# ---------------------------------------------------------------------------------------- a folder of several trainings


def several(out: Path | None = None, asked: Any = 1, resume: str = "auto", **more: Any) -> Path:
    with ExitStack() as held:
        return claim.folder_for(out, "photos", asked, resume, held, **more)


def test_a_folder_of_several_is_taken_again_where_the_same_was_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    for resume in ("never", "auto", "auto"):
        assert several(folder, {"seeds": [1, 2]}, resume) == folder
        assert json.loads((folder / "asked.json").read_text()) == {"seeds": [1, 2]}
    for asked, resume in [({"seeds": [1]}, "auto"), ({"seeds": [1, 2]}, "never")]:
        with pytest.raises(UsageError) as caught:
            several(folder, asked, resume)
        assert str(caught.value) == f"{folder} already holds something else: choose another --out, or remove it first."
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing").touch()
    with pytest.raises(UsageError, match="something else"):
        several(tmp_path / "other")


@pytest.mark.parametrize("out", [True, False])
def test_a_folder_of_several_is_held(home: Path, out: bool) -> None:
    out_folder = home / "out" if out else None
    with ExitStack() as held:
        folder = claim.folder_for(out_folder, "photos", 1, "auto", held)
        for _ in range(2):
            with pytest.raises(DenselyError, match="Another process"), ExitStack() as more:
                claim.lock(folder, more)
            held.close()
            folder = claim.folder_for(out_folder, "photos", 1, "auto", held)  # a second time: found, not made
    claim.lock(folder, held)
    held.close()


def test_numbered_folders_of_several(home: Path, in_it) -> None:
    made = [
        several(asked=asked, resume=resume) for asked, resume in [(1, "auto"), (2, "auto"), (1, "never"), (1, "auto")]
    ]
    assert [path.name for path in made] == ["photos-1", "photos-2", "photos-3", "photos-3"]
    (Path("runs/photos-3") / "all.json").touch()
    assert several() == Path("runs/photos-3")
    assert several(end="all.json") == Path("runs/photos-1")
    assert several(Path("runs/photos-3"), end="all.json") == Path("runs/photos-3")
    (Path("runs/photos-3") / "asked.json").write_text("{")  # damaged
    assert several() == Path("runs/photos-1")
    in_it(Path("runs/photos-1"))
    assert several() == Path("runs/photos-4")
