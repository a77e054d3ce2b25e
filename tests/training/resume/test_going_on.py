"""A training that is killed and begun again ends with the very weights that it would have had; nothing is lost."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import Command, Done, densely
from rich.console import Console
from small import SMALL

from densely.errors import DataError, DenselyError, UsageError
from densely.interruption import Interrupted
from densely.runs import Run
from densely.training import single
from densely.training.batches import Batches
from densely.training.resume import checkpoint, state
from densely.training.single import train

# Everything that is random or remembers: dropout, augmentation, averaged weights, momentum, accumulation, a schedule.
OPTIONS = [
    *("--model", "densenet-bc-16-8", "--limit", "200", "--epochs", "4", "--batch-size", "32", "--dropout", "0.2"),
    *("--shift", "1", "--flip", "--ema", "0.9", "--accumulate", "2", "--mixup", "0.2", "--save-every", "3"),
]
QUICK = {"model": SMALL, "limit": 200, "epochs": 2, "batch_size": 32, "console": Console(quiet=True)}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def dying(moment: int, folder: Path, options: Sequence[str] = OPTIONS) -> Done:
    script = Path(__file__).with_name("dying.py")
    return densely(moment, folder, "train", "digits", "--out", folder, *options, script=script)


def digest(folder: Path) -> dict[str, str]:
    """Of all that a training leaves, but for times."""
    scores = json.loads((folder / "metrics.json").read_text())
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in Run.open(folder).history]
    weights = {name: hash_of_weights(Run.open(folder), name) for name in ("final", "best")}
    return {**weights, "scores": json.dumps(scores), "history": json.dumps(history)}


def hash_of_weights(run: Run, name: str) -> str:
    return hashlib.sha256(b"".join(w.numpy().tobytes() for w in run.model(name).weights)).hexdigest()


#: Another optimizer and schedule, a whitened stem, flips in turn; and best weights that are gone back to.
FAST = [
    *(
        "--recipe",
        "fast",
        "--model",
        "densenet-bc-16-8",
        "--limit",
        "150",
        "--epochs",
        "3",
        "--flip",
        "--early-stop",
        "2",
    ),
    *("--dropout", "0.1", "--save-every", "2"),
]


@pytest.mark.slow
def test_killed_twice_with_muon_and_early_stop(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = dying(0, whole, FAST)
    assert done.returncode == 0, done.stderr
    moments = int(done.stdout.splitlines()[-1])
    check_kills((digest(whole), moments), killed, [0.5, 0.4], FAST)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], int]:
    """What the training leaves when nothing happens to it, and how many moments it has."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = dying(0, folder)
    assert done.returncode == 0, done.stderr
    assert not (folder / "checkpoints").exists()
    return digest(folder), int(done.stdout.splitlines()[-1])


def check_kills(
    whole: tuple[dict[str, str], int], folder: Path, shares: list[float], options: Sequence[str] = OPTIONS
) -> None:
    """Kill a training again and again, at so large a share of the moments that are left; then let it end."""
    expected, moments = whole
    for share in shares:
        died = dying(1 + int(share * (moments - 1)), folder, options)
        # A training that goes on has fewer moments left, and may come to its end before the chosen one.
        assert died.returncode in (-signal.SIGKILL, 0), died.stderr
    ended = dying(0, folder, options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert digest(folder) == expected
    assert not (folder / "checkpoints").exists()


def test_killed_three_times_it_ends_with_the_very_same_weights(
    whole: tuple[dict[str, str], int], tmp_path: Path
) -> None:
    check_kills(whole, tmp_path / "run", [0.35, 0.3, 0.6])


@pytest.mark.slow
def test_killed_while_it_is_fine_tuned_it_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    train("digits", out=tmp_path / "first", **{**QUICK, "model": "densenet-bc-16-8", "epochs": 1})
    options = [
        *("--weights", str(tmp_path / "first"), "--freeze", "dense_block_1", "--stage-rates", "0.4"),
        *("--optimizer", "muon", "--limit", "150", "--epochs", "2", "--batch-size", "32", "--save-every", "3"),
        *("--beta-factor", "4", "--seed", "1"),
    ]
    done = dying(0, tmp_path / "whole", options)
    assert done.returncode == 0, done.stderr
    assert "densenet-bc-16-8" in done.stdout and "classifier and all, frozen up to dense_block_1" in done.stdout
    expected = digest(tmp_path / "whole"), int(done.stdout.splitlines()[-1])
    check_kills(expected, tmp_path / "killed", [0.5], options)
    # The weights it started from are no longer there to start from.
    (tmp_path / "first").rename(tmp_path / "gone")
    (tmp_path / "killed" / "metrics.json").unlink()
    again = dying(0, tmp_path / "killed", options)
    assert again.returncode == 2 and "There is no run folder" in again.stderr


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(shares=st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=3))
def test_killed_at_any_moments_it_ends_with_the_very_same_weights(
    whole: tuple[dict[str, str], int], tmp_path_factory: pytest.TempPathFactory, shares: list[float]
) -> None:
    check_kills(whole, tmp_path_factory.mktemp("killed") / "run", shares)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_writes_a_checkpoint_and_says_how_to_go_on(
    number: int, code: int, whole: tuple[dict[str, str], int], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    history = folder / "history.csv"
    with Command("train", "digits", "--out", folder, *OPTIONS) as command:
        command.wait_until(lambda: history.exists() and len(history.read_text().splitlines()) > 1)
        command.send_signal(number)
        ended, _, errors = command.wait(60)
    assert ended == code
    assert re.search(r"interrupted (in|after) epoch \d", errors)
    assert f"Go on with:  densely train digits --out {folder}" in errors
    assert "Traceback" not in errors
    assert checkpoint.newest(folder, pytest.fail) is not None
    again = dying(0, folder)
    assert re.search(r"going on with it (in|after) epoch \d", again.stdout)
    assert digest(folder) == whole[0]


def test_what_cannot_be_gone_on_with_keeps_its_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = break_off("runs/digits-1")
    history = (folder / "history.csv").read_bytes()
    assert history.count(b"\n") == 2  # the names, and the first epoch

    def other(*_: object) -> None:
        raise DataError("The checkpoint is of another network or optimizer.")

    monkeypatch.setattr(state, "put_tensors_back", other)
    with pytest.raises(DataError, match="another network"):
        train("digits", **QUICK)
    assert (folder / "history.csv").read_bytes() == history


def test_a_signal_before_the_first_step_ends_at_once(tmp_path: Path) -> None:
    program = "from densely.cli import main; print('up', flush=True); main()"
    command = [sys.executable, "-c", program, "train", "digits", "--out", str(tmp_path / "run"), *OPTIONS]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"  # before that, a signal is Python's own affair
        time.sleep(0.1)  # and so it is in the moment after that
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_the_same_again_without_a_folder_goes_on_with_what_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = break_off("runs/digits-1")
    again = train("digits", **QUICK)
    assert again.folder == first == Path("runs/digits-1")
    assert train("digits", **QUICK).folder == Path("runs/digits-2")
    assert train("digits", **{**QUICK, "epochs": 1}).folder == Path("runs/digits-3")
    break_off("runs/digits-4", resume="never")
    assert train("digits", resume="never", **QUICK).folder == Path("runs/digits-5")


def break_off(folder: str, **options: object) -> Path:
    """A training that stops in its second epoch, as if a signal had come."""
    made = 0

    def make_batch(self: Batches, step: int) -> object:
        nonlocal made
        made += self.training
        if made == 9:  # Keras makes one to see what it looks like, then six an epoch
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step)

    original, Batches.__getitem__ = Batches.__getitem__, make_batch
    try:
        with pytest.raises(Interrupted, match="in epoch 2, after step"):
            train("digits", **QUICK, **options)
    finally:
        Batches.__getitem__ = original
    assert (Path(folder) / "checkpoints").is_dir()
    return Path(folder)


def test_a_signal_while_it_is_scored_ends_at_once_and_only_the_score_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = train("digits", out=tmp_path / "whole", **QUICK)
    score = single.probabilities

    def stopped(*args: object, **more: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return score(*args, **more)

    monkeypatch.setattr(single, "probabilities", stopped)
    with pytest.raises(Interrupted) as caught:
        train("digits", out=tmp_path / "run", **QUICK)
    monkeypatch.undo()
    assert caught.value.folder == tmp_path / "run"
    assert caught.value.exit_code == 143
    weights = (tmp_path / "run" / "final.weights.h5").stat().st_mtime_ns
    run = train("digits", out=tmp_path / "run", **{**QUICK, "console": Console()})
    assert "going on with it where it was to be scored" in capsys.readouterr().out
    assert (tmp_path / "run" / "final.weights.h5").stat().st_mtime_ns == weights
    assert run.metrics == expected.metrics


def test_what_is_finished_is_handed_back_and_nothing_else_is_trained_over_it(tmp_path: Path) -> None:
    run = train("digits", out=tmp_path / "run", **QUICK)
    before = {path: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != ".lock"}
    assert train("digits", out=tmp_path / "run", **QUICK).metrics == run.metrics
    with pytest.raises(UsageError, match=r"recipe\.learning_rate=0\.1, not 0\.05"):
        train("digits", out=tmp_path / "run", learning_rate=0.05, **QUICK)
    with pytest.raises(UsageError, match="already holds a training"):
        train("digits", out=tmp_path / "run", resume="never", **QUICK)
    assert {path: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != ".lock"} == before
    splits = json.loads((run.folder / "splits.json").read_text())
    splits["fingerprints"]["test"] = "other images"
    (run.folder / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(DataError, match=r"data have changed since .* \(test\)"):
        train("digits", out=tmp_path / "run", **QUICK)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[dict[str, str], int]
) -> None:
    folder = tmp_path / "run"
    assert dying(int(0.7 * whole[1]), folder).returncode == -signal.SIGKILL
    kept = sorted((folder / "checkpoints").glob("0*"))
    assert len(kept) == 2
    with (kept[-1] / "tensors.safetensors").open("r+b") as file:
        file.seek(3000)
        file.write(b"\x00\xff\x00\xff")
    ended = dying(0, folder)
    assert f"The checkpoint {kept[-1]} is damaged" in ended.stdout
    assert digest(folder) == whole[0]


def test_a_loss_that_runs_away_is_told_with_epoch_and_step(tmp_path: Path) -> None:
    options = {**QUICK, "stages": ((1, 0.01), (2, 1e30)), "epochs": 3}
    with pytest.raises(DenselyError, match=r"in epoch 2, step \d \(learning rate 1e\+30\): lower --lr"):
        train("digits", out=tmp_path / "run", save_every=1, **options)
    newest = checkpoint.newest(tmp_path / "run", pytest.fail)
    assert newest is not None
    assert newest.epoch == 1
    assert state.all_finite(newest.tensors)


def test_a_loss_that_runs_away_in_the_last_step_is_told_too(tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1, "batch_size": 200, "learning_rate": 1e39, "schedule": "constant"}
    with pytest.raises(DenselyError, match=r"no longer numbers in epoch 1, step 1 "):
        train("digits", out=tmp_path / "run", **options)
    assert not (tmp_path / "run" / "final.weights.h5").exists()
    assert not (tmp_path / "run" / "best.weights.h5").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "what"),
    [
        (300_000, "checkpoint"),  # bytes a file may have: less than a checkpoint's tensors, more than everything else
        (150_000, "weights"),
    ],
)
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    limit: int, what: str, whole: tuple[dict[str, str], int], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert dying(whole[1] // 2, folder).returncode == -signal.SIGKILL
    before = checkpoint.newest(folder, pytest.fail)
    assert before is not None
    begun = set((folder / "checkpoints").glob(".*"))  # when it was killed; the next checkpoint removes it
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.argv[0] = 'densely';"
        "from densely.cli import main; main()"
    )
    script = tmp_path / "full.py"
    script.write_text(code)
    full = densely("train", "digits", "--out", folder, *OPTIONS, script=script)
    assert full.returncode == 1
    assert re.search(rf"{what}\S* .*cannot be written", full.stderr)
    assert ("is whole" in full.stderr) == (what == "checkpoint")
    assert "Traceback" not in full.stderr
    assert set((folder / "checkpoints").glob(".*")) <= begun
    after = checkpoint.newest(folder, pytest.fail)
    assert after is not None
    assert (after.epoch, after.step) == (before.epoch, before.step)
    assert dying(0, folder).returncode == 0
    assert digest(folder) == whole[0]


def test_how_often_to_save_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every so many steps"):
        train("digits", out=tmp_path / "run", save_every="5h", **QUICK)
    assert not (tmp_path / "run").exists()


def test_what_resume_can_be_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="auto or never, not 'sometimes'"):
        train(tmp_path / "nowhere", resume="sometimes", **QUICK)
