"""A checkpoint is whole or not there, and nothing damaged is ever used."""

import errno
from pathlib import Path

import numpy as np
import pytest

from densely.errors import DataError
from densely.files import write_whole
from densely.training.resume import checkpoint
from densely.training.resume.checkpoint import Checkpoint


def made(step: int, epoch: int = 0) -> Checkpoint:
    tensors = {"weight": np.full((3, 2), step, dtype=np.float32), "seed": np.array([1, step], dtype=np.uint32)}
    return Checkpoint(epoch, step, tensors, {"best": [0.5, -1.25], "history": [{"loss": 0.1 + 0.2}]})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(7, epoch=2))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    assert (found.epoch, found.step, found.state) == (2, 7, made(7).state)
    for name, value in made(7).tensors.items():
        np.testing.assert_array_equal(found.tensors[name], value)
        assert found.tensors[name].dtype == value.dtype


def test_the_newest_and_the_one_before_it_stay(tmp_path: Path) -> None:
    for epoch, step in [(0, 9), (0, 10), (1, 0), (1, 5)]:
        checkpoint.save(tmp_path, made(step, epoch))
    assert names(tmp_path) == ["000001-000000", "000001-000005"]
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    assert (found.epoch, found.step) == (1, 5)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_one_is_named_and_the_one_before_it_used(tmp_path: Path, name: str, damage: str) -> None:
    checkpoint.save(tmp_path, made(1))
    path = checkpoint.save(tmp_path, made(2)) / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-10] if damage == "cut" else content[:-5] + b"#" + content[-4:])
    told: list[str] = []
    found = checkpoint.newest(tmp_path, told.append)
    assert found is not None
    assert found.step == 1
    assert len(told) == 1
    assert str(path.parent) in told[0]
    # What is written next, before it or after it, takes nothing sound away.
    checkpoint.save(tmp_path, made(3))
    assert names(tmp_path) == ["000000-000001", "000000-000002.damaged", "000000-000003"]


def test_a_training_that_begins_anew_after_damage_keeps_what_it_writes(tmp_path: Path) -> None:
    for step in (8, 9):
        (checkpoint.save(tmp_path, made(step, epoch=3)) / "state.json").write_text("{")
    told: list[str] = []
    assert checkpoint.newest(tmp_path, told.append) is None
    assert len(told) == 2
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, made(step))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    assert (found.epoch, found.step) == (0, 3)


def test_best_weights_go_back_to_what_they_were(tmp_path: Path) -> None:
    best = tmp_path / "best.weights.h5"
    write_whole(best, lambda aside: aside.write_text("of epoch 2"))
    checkpoint.save(tmp_path, made(0, epoch=2))
    write_whole(best, lambda aside: aside.write_text("of epoch 5, lost"))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    checkpoint.put_best_back(tmp_path, found)
    assert best.read_text() == "of epoch 2"


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, made(1))

    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint, "_sum", refused)
    with pytest.raises(DataError, match="000000-000001 cannot be read: Permission denied"):
        checkpoint.newest(tmp_path, pytest.fail)


def test_what_was_not_finished_does_not_count_and_is_in_nobodys_way(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(1))
    aside = tmp_path / "checkpoints" / ".000000-000002.part"
    aside.mkdir()
    (aside / "tensors.safetensors").write_bytes(b"half")
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    assert found.step == 1
    checkpoint.save(tmp_path, made(2))
    assert names(tmp_path) == ["000000-000001", "000000-000002"]


def test_a_disk_that_refuses_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, made(1))

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "flush", full)
    with pytest.raises(DataError, match=r"No space left on device; .*000000-000001 is whole"):
        checkpoint.save(tmp_path, made(2))
    assert names(tmp_path) == ["000000-000001"]


def test_none_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, pytest.fail) is None
    checkpoint.remove_all(tmp_path)


@pytest.mark.parametrize(("epoch", "step", "words"), [(0, 3, "in epoch 1, after step 3"), (2, 0, "after epoch 2")])
def test_how_far_it_came(epoch: int, step: int, words: str) -> None:
    assert checkpoint.reached(epoch, step) == words


def test_the_same_step_is_written_again_and_damaged_again(tmp_path: Path) -> None:
    for content in ("[]", "{}", '{"tensors.safetensors": "0"}'):
        checkpoint.save(tmp_path, made(1))
        checkpoint.save(tmp_path, made(2))
        path = checkpoint.save(tmp_path, made(2))
        (path / "manifest.json").write_text(content)
        told: list[str] = []
        found = checkpoint.newest(tmp_path, told.append)
        assert found is not None and found.step == 1
        assert len(told) == 1
        assert told[0].startswith(f"The checkpoint {path} is damaged (manifest.json is not what was written): going")


def test_steps_are_counted_not_spelt(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 1_000_001):
        checkpoint.save(tmp_path, made(step))
    assert names(tmp_path) == ["000000-1000000", "000000-1000001"]
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None and found.step == 1_000_001


def test_what_is_left_of_a_disk_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for before in ("there was none before it", f"{tmp_path / 'checkpoints' / '000000-000001'} is whole"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_file", full)
            with pytest.raises(DataError) as caught:
                checkpoint.save(tmp_path, made(2))
        assert f"cannot be written: No space left on device; {before}. Make room" in str(caught.value)
        checkpoint.save(tmp_path, made(1))


def test_best_weights_are_kept_where_a_disk_knows_no_second_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    best = tmp_path / "best.weights.h5"
    best.write_bytes(b"of epoch 1")
    checkpoint.save(tmp_path, made(1))
    write_whole(best, lambda aside: aside.write_bytes(b"of epoch 2"))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    checkpoint.put_best_back(tmp_path, made(1))
    assert best.read_bytes() == b"of epoch 2"  # of no folder, there are none to put back
    checkpoint.put_best_back(tmp_path, found)
    assert best.read_bytes() == b"of epoch 1"


def test_nothing_is_left_of_those_of_a_run_that_has_ended(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(1))
    checkpoint.remove_all(tmp_path)
    assert list(tmp_path.iterdir()) == []
