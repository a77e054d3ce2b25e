"""One training by two real processes: the same weights as by one, whatever ends them, whoever goes on."""

import importlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from rich.console import Console

from densely import cost
from densely.architecture import build, spec
from densely.cli import main
from densely.data import Dataset, Preprocessing, load
from densely.recipes import Recipe
from densely.runs import Run
from densely.training.batches import Batches
from densely.training.distributed import place
from densely.training.distributed.peers import Peers
from densely.training.distributed.replica import Replica
from densely.training.losses import CrossEntropy
from densely.training.optimizers import CoupledSGD
from densely.training.resume import checkpoint
from densely.training.single import train

#: 20 steps in 4 epochs; the last batch of an epoch is smaller and odd. Weights are averaged and classes weighed. At a
#: higher rate it is a matter of luck: in some step a map is so near zero that it is in one sum and not in another, and
#: what ReLU makes of that grows from step to step.
SETTINGS = {"model": "densenet-bc-16-8", "limit": 153, "epochs": 4, "batch_size": 30, "shift": 1, "ema": 0.9}
RATE = 0.01
OPTIONS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
OPTIONS += ["--lr", str(RATE)]
SETTINGS["learning_rate"] = RATE
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What one process makes of it."""
    quiet = Console(quiet=True)
    return train("digits", out=tmp_path_factory.mktemp("alone") / "run", class_weights=True, console=quiet, **SETTINGS)


def command(folder: Path, *more: str) -> list[str]:
    return ["-m", "densely", "train", "digits", "--out", str(folder), "--class-weights", *OPTIONS, *more]


@contextmanager
def started(*words: str, within: Sequence[str] = (), **variables: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*within, sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **variables},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ranks(launcher: int) -> dict[int, int]:
    """The processes that a launcher has started: rank to process number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (path / "environ").read_bytes()
        except OSError:
            continue
        rank = re.search(rb"(?:^|\0)RANK=(\d+)", variables)
        if parent == launcher and rank is not None:
            found[int(rank[1])] = int(path.name)
    return found


def wait_for_epochs(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    history = folder / "history.csv"
    while len(history.read_text().splitlines() if history.exists() else ()) <= count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def check_same(folder: Path, alone: Run) -> None:
    """The weights and the history of one process, to rounding."""
    run = Run.open(folder)
    for name in ("final", "best"):
        for mine, other in zip(run.model(name).weights, alone.model(name).weights, strict=True):
            np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-5, atol=1e-5, err_msg=mine.path)
    for mine_row, row in zip(run.history, alone.history, strict=True):
        assert {**mine_row, "seconds": 0} == pytest.approx({**row, "seconds": 0}, rel=1e-5)


def test_two_processes_end_with_the_weights_of_one_and_write_one_run(alone: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*TORCHRUN, *command(folder, "--sync-bn")) as process:
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    check_same(folder, alone)
    assert [line.split("  ")[0] for line in printed.splitlines() if line.startswith("epoch")] == [
        f"epoch {i}/4" for i in range(1, 5)
    ]
    assert "on 2 processes, batch normalisation over the whole batch" in printed
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.folder.iterdir()}
    assert json.loads((folder / "environment.json").read_text())["machine"]["processes"] == 2
    assert Run.open(folder).metrics["test"]["accuracy"] == pytest.approx(alone.accuracy, abs=1e-6)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces with a wire between them, as two machines have: 10.213.77.1 and 10.213.77.2."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    names = [f"dens{os.getpid()}{end}" for end in "ab"]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no network namespaces may be made here")
        for number, name in enumerate(names, start=1):
            ip("link", "set", name, "netns", name)
            ip("-n", name, "address", "add", f"10.213.77.{number}/24", "dev", name)
            for device in ("lo", name):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_machines_with_a_wire_between_them_do_the_same(alone: Run, machines: list[str], tmp_path: Path) -> None:
    """Only the first has the run folder; the variables are set by hand, as a scheduler's script does."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "10.213.77.1", "MASTER_PORT": "29777"}
    first, second = (
        started(
            *command(tmp_path / str(rank), "--sync-bn"),
            within=["ip", "netns", "exec", name],
            RANK=str(rank),
            GLOO_SOCKET_IFNAME=name,
            **shared,
        )
        for rank, name in enumerate(machines)
    )
    with first as writer, second as helper:
        _, errors = writer.communicate(timeout=300)
        assert writer.returncode == 0, errors
        assert helper.wait(timeout=60) == 0
    check_same(tmp_path / "0", alone)
    assert not (tmp_path / "1").exists()


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_in_one_step_and_one_process_goes_on(alone: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*command(folder, "--sync-bn", "--devices", "2")) as process:
        wait_for_epochs(process, folder, 1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert len(re.findall("interrupted (in|after) epoch", errors)) == 1
    assert "Traceback" not in errors
    assert errors.count("Go on with:") == 1 and "--devices 2" in errors
    assert len(list((folder / "checkpoints").iterdir())) == 1
    said = io.StringIO()
    train("digits", out=folder, class_weights=True, sync_bn=True, console=Console(file=said, width=300), **SETTINGS)
    assert "processes 2 then, 1 now" in said.getvalue()
    check_same(folder, alone)


def test_a_process_that_is_killed_ends_all_with_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # Each normalises its own part here, and half of it is dropped: nothing of that is the same in both.
    options = ["--devices", "2", "--dropout", "0.5", "--save-every", "2", "--epochs", "1000"]
    with started(*command(folder, *options)) as process:
        wait_for_epochs(process, folder, 1)
        os.kill(ranks(process.pid)[1], signal.SIGKILL)
        killed = time.monotonic()
        _, errors = process.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert process.returncode == 1
    assert errors.count("densely:") == 1
    assert "Process 1 of 2 has died, or hangs. The last checkpoint is whole" in errors
    assert checkpoint.newest(folder, pytest.fail) is not None


def test_a_beat_that_was_left_before_the_end_is_no_sign_of_life() -> None:
    """The first process hears of the end at once, and of the last beat within the next second."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mine = dist.TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
    store.add("come", 1)
    store.set("beat/1", "1 0")
    first = Peers(place.Place(0, 2, 0, 2, "127.0.0.1", store.port), store, mine, patience=60)
    first.gather()
    store.set("beat/1", "2 3")
    verdict = first.verdict(RuntimeError("Connection closed by peer"), lost=True)
    assert str(verdict).startswith("Process 1 of 2 has died, or hangs.")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_ends_all_with_a_sentence(tmp_path: Path, rank: int) -> None:
    folder = tmp_path / "run"
    options = ["--save-every", "2", "--epochs", "1000", "--peer-timeout", "10", "--devices", "2"]
    with started(*command(folder, *options)) as process:
        wait_for_epochs(process, folder, 1)
        stopped = ranks(process.pid)[rank]
        os.kill(stopped, signal.SIGSTOP)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Process {rank} of 2 has died, or hangs." in errors
    assert checkpoint.newest(folder, pytest.fail) is not None
    assert not Path(f"/proc/{stopped}").exists()


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_weights_of_one_process(alone: Run, tmp_path: Path) -> None:
    folder, chance = tmp_path / "run", random.Random(0)
    sentences = 0
    for number in range(8):
        with started(*command(folder, "--sync-bn", "--save-every", "1", "--devices", "2")) as process:
            before = checkpoints(folder)
            # Sometimes while it starts, mostly in some step after its first; one process or the launcher.
            while process.poll() is None and number % 3 and checkpoints(folder) == before:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5 if number % 3 else 10))
            victim = chance.choice([process.pid, *ranks(process.pid).values()])
            if process.poll() is None:
                os.kill(victim, signal.SIGKILL)
            _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        assert process.returncode in (0, 1, -signal.SIGKILL)
        sentences += "has died, or hangs" in errors
    with started(*command(folder, "--sync-bn", "--devices", "2")) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    check_same(folder, alone)
    assert sentences


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("0*")}


@pytest.mark.slow
def test_what_cannot_be_shared_is_told_once(tmp_path: Path) -> None:
    with started(*TORCHRUN, *command(tmp_path / "run", "--batch-size", "1")) as process:
        _, errors = process.communicate(timeout=120)
    assert errors.count("A batch of 1 cannot be shared by 2 processes") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (["--devices", "0"], {}, "--devices must be at least 1, not 0."),
        (["--devices", "-1"], {}, "--devices must be at least 1, not -1."),
        (["--devices", "9999"], {}, ", not 9999: each process needs a "),
        (["--devices", "2", "--seeds", "2"], {}, "--seeds and --folds train one after the other"),
        (["--devices", "2"], {"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR, MASTER_PORT are not set"),
        (["--devices", "2"], dict.fromkeys(place.NEEDED, "1") | {"RANK": "0", "WORLD_SIZE": "2"}, "under torchrun"),
        (
            [],
            {"RANK": "zero", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "RANK must be a whole number",
        ),
        ([], {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "counted from 0"),
        (["--peer-timeout", "1"], {}, "at least 5 seconds"),
    ],
)
def test_what_cannot_be_is_told(
    arguments: list[str],
    variables: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["densely", "train", "digits", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_process_that_stands_for_all_of_them_is_alone() -> None:
    assert place.find({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}) is None
    assert place.find({"MASTER_ADDR": "x"}) is None


EVERYTHING = {"shift": 1, "flip": True, "turn": True, "crop": 0.5, "policy": "trivial", "cutout": 3}


@pytest.mark.parametrize("more", [{}, {**EVERYTHING, "fill": "reflect"}, {**EVERYTHING, "mixup": 0.3, "cutmix": 0.3}])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_parts_of_all_processes_are_the_batches_of_one(count: int, more: dict[str, object]) -> None:
    images: Dataset = load("digits").train.take(np.arange(23))
    recipe = Recipe(batch_size=10, preprocessing="unit", **more)  # 10, 10 and 3: fewer than five processes
    made = (images, Preprocessing.fit(images.images, "unit"), recipe, 7)
    for training in (True, False):
        whole = Batches(*made, training=training)
        parts = [Batches(*made, training=training, part=(i, count)) for i in range(count)]
        for step in range(3):
            counted = [part for part in parts if part.share(step)]
            assert sum(part.share(step) for part in parts) == pytest.approx(1)
            for which in (0, 1):
                together = np.concatenate([part[step][which] for part in counted])
                np.testing.assert_array_equal(together, whole[step][which])
            # Whoever has nothing sees one image, which does not count.
            assert all(len(part[step][0]) == 1 for part in parts if part not in counted)


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("changes", [{}, {"bottleneck": False}, {"stem": "imagenet", "compression": 1.0}])
@pytest.mark.parametrize("sync_bn", [True, False])
def test_what_a_step_sends_is_what_the_docs_count(
    changes: dict[str, object], sync_bn: bool, group_of_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    traffic = importlib.import_module("traffic")
    network = spec("densenet-bc-16-8", **changes)
    whole = build(network)
    model = Replica(whole.inputs, whole.get_layer("logits").output)
    model.compile(CoupledSGD(), CrossEntropy(), metrics=["sparse_categorical_accuracy"])
    model.join(sync_bn, lambda: None)
    sent: list[int] = []
    send = dist.all_reduce

    def counted(tensor: torch.Tensor, **options: object) -> object:
        sent.append(tensor.nbytes)
        return send(tensor, **options)

    monkeypatch.setattr(dist, "all_reduce", counted)
    model.fit(np.zeros((2, 32, 32, 3), np.float32), np.zeros(2, np.int64), batch_size=2, verbose=0)
    scores = 16  # sums and counts of loss and accuracy
    statistics = list(traffic.messages(network)) if sync_bn else [8 * sum(traffic.normalised(network))]
    gradients = [bucket.flat.nbytes for bucket in model.gradients.buckets]
    assert sum(gradients) == 4 * cost.parameters(network)
    assert sorted(sent) == sorted([*gradients, *statistics, scores])
