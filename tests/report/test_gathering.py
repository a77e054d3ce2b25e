"""What a report tells, against what can be computed in other ways."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from densely.architecture import spec
from densely.data import Parts
from densely.errors import UsageError
from densely.evaluation import probabilities
from densely.recipes import Task, change, choose
from densely.report import gathering
from densely.runs import Run
from densely.training.parts import parts_of
from densely.training.single import train


@pytest.fixture(scope="module")
def found(digits: Run) -> gathering.Findings:
    return gathering.gather(digits)


def test_mistakes_are_the_surest_wrong_answers(found: gathering.Findings, digits: Run) -> None:
    test = parts_of(digits).test
    p = probabilities(digits.model(), test.images, digits.preprocessing)
    wrong = np.flatnonzero(p.argmax(axis=1) != test.labels)
    surest = wrong[np.argsort(-p[wrong].max(axis=1), kind="stable")][:24]
    assert [one.index for one in found.mistakes] == surest.tolist()
    assert found.wrong == len(wrong) == round((1 - digits.accuracy) * len(test))
    for one in found.mistakes:
        assert one.truth == (test.class_names[test.labels[one.index]],)
        assert one.guess == (test.class_names[p[one.index].argmax()],)
        assert one.top[0] == (one.guess[0], pytest.approx(p[one.index].max(), abs=1e-6))


def test_each_class_has_its_surest_right_answer(found: gathering.Findings) -> None:
    labels, guess = found.held_out.labels, found.p.argmax(axis=1)
    for one in found.examples:
        label = labels[one.index]
        assert guess[one.index] == label
        assert one.of == found.held_out.class_names[label]
        assert found.p[one.index, label] == found.p[(labels == label) & (guess == label), label].max()
    assert len(found.examples) == len({labels[i] for i in range(len(labels)) if labels[i] == guess[i]})


def test_the_maps_explain_the_answers(found: gathering.Findings, digits: Run) -> None:
    from densely.explain import look

    images = np.stack([one.image for one in found.mistakes])
    seen = look(digits.model(), digits.preprocessing(images))
    for one, logits in zip(found.mistakes, seen.logits, strict=True):
        assert one.of == one.guess[0]
        assert one.heat.mean() == pytest.approx(logits[digits.inputs.class_names.index(one.of)], abs=1e-4)


def test_baselines_are_those_of_a_textbook(found: gathering.Findings) -> None:
    from sklearn.dummy import DummyClassifier

    train_part, test = found.parts.train, found.held_out
    flat = [part.images.reshape(len(part), -1) for part in (train_part, test)]
    dummy = DummyClassifier(strategy="most_frequent").fit(flat[0], train_part.labels)
    assert found.chance == pytest.approx(dummy.score(flat[1], test.labels))
    # Scans of 8×8 are their own thumbnails: the nearest one is a nearest neighbour by correlation, mirrored or not.
    both = [
        np.corrcoef(images, flat[0])[: len(test), len(test) :]
        for images in (flat[1], test.images[:, :, ::-1].reshape(len(test), -1))
    ]
    nearest = np.maximum(*both).argmax(axis=1)
    assert found.nearest == pytest.approx(np.mean(train_part.labels[nearest] == test.labels), abs=0.003)


def test_reuse_is_the_mean_absolute_weight_of_each_group_of_channels(found: gathering.Findings, digits: Run) -> None:
    model = digits.model()
    block = model.get_layer("dense_block_1")
    values = found.reuse[0]
    start = model.get_layer("stem_conv").filters
    kernel = np.abs(np.asarray(block.bottlenecks[1].conv.kernel.value.detach().cpu()))
    assert values[0, 1] == pytest.approx(kernel[0, 0, :start].mean())
    assert values[1, 1] == pytest.approx(kernel[0, 0, start : start + 8].mean())
    after = np.abs(np.asarray(model.get_layer("transition_1").unit.conv.kernel.value.detach().cpu()))
    assert values[2, 2] == pytest.approx(after[0, 0, start + 8 :].mean())
    assert np.isnan(values[np.tril_indices(3, -1)]).all()
    assert not np.isnan(values[np.triu_indices(3)]).any()
    last = np.abs(np.asarray(model.get_layer("logits").kernel.value.detach().cpu()))
    assert found.reuse[2][2, 2] == pytest.approx(last[-8:].mean())


def test_several_labels(several: tuple[Run, Parts]) -> None:
    run, parts = several
    found = gathering.gather(run, parts)
    # Of each label the image it was surest of, with that label's map and share.
    for one in found.examples:
        assert one.of in one.truth and one.of in one.guess
        assert one.of_share == found.p[one.index, parts.test.class_names.index(one.of)] >= 0.5
    assert len({one.of for one in found.examples}) == len(found.examples)
    errors = np.abs(found.p - parts.test.labels).max(axis=1)
    assert [one.index for one in found.mistakes] == np.argsort(-errors, kind="stable")[: len(found.mistakes)].tolist()
    assert all(set(one.truth) != set(one.guess) for one in found.mistakes)
    assert found.doubtful == [] and found.chance is None and found.nearest is None


def test_the_test_part_stays_unseen_with_tune(tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    run = train("digits", model="densenet-bc-16-8", out=tmp_path / "r", epochs=1, limit=300, tune=True, console=quiet)
    found = gathering.gather(run)
    assert found.part == "val"
    assert len(found.p) == len(found.held_out) == run.metrics["val"]["n"]


def test_digits_have_no_figure_of_the_paper_s(digits: Run) -> None:
    assert gathering.gather(digits).paper is None


@pytest.mark.parametrize(
    ("data", "model", "recipe", "changes", "network", "expected"),
    [
        ("cifar10", "densenet-bc-100-12", "paper", {}, {"dropout": 0.2}, ("C10", 0.9408)),
        ("cifar10", "densenet-bc-100-12", "paper-augmented", {}, {}, ("C10+", 0.9549)),
        ("cifar100", "densenet-40-12", "paper-augmented", {}, {}, ("C100+", 0.7558)),
        ("svhn-extra", "densenet-bc-100-12", "paper", {}, {}, ("SVHN", 0.9824)),
        ("svhn", "densenet-bc-100-12", "paper", {}, {}, None),
        ("cifar10", "densenet-bc-100-12", "paper", {"policy": "trivial"}, {}, None),
        ("cifar10", "densenet-bc-100-12", "paper", {"shift": 4}, {}, None),
        ("cifar10", "densenet-bc-100-12", "paper-augmented", {"cutmix": 1.0}, {}, None),
        ("cifar10", "densenet-bc-100-12", "paper", {}, {"growth_rate": 8}, None),
        ("cifar10", "densenet-fast-pooled", "fast", {}, {}, None),
    ],
)
def test_the_paper_s_figure_belongs_to_one_network_and_one_column(
    digits: Run, data: str, model: str, recipe: str, changes: dict, network: dict, expected: tuple[str, float] | None
) -> None:
    chosen = change(choose(recipe, Task(data, (32, 32, 3), 10, 50_000)).recipe, **changes)
    config = digits.config.model_copy(
        update={"data": data, "model": model, "recipe": chosen, "network": spec(model, **network)}
    )
    found = gathering._paper(Run(digits.folder, config, digits.inputs))
    assert found == (None if expected is None else (expected[0], pytest.approx(expected[1])))
    for part in ({"limit": 100}, {"fold": (1, 5)}, {"tune": True}):
        assert gathering._paper(Run(digits.folder, config.model_copy(update=part), digits.inputs)) is None


def test_an_unfinished_run_has_no_report(digits: Run, tmp_path: Path) -> None:
    for name in ("config.toml", "inputs.json", "splits.json", "history.csv", "environment.json"):
        (tmp_path / name).write_bytes((digits.folder / name).read_bytes())
    with pytest.raises(UsageError, match="did not finish"):
        gathering.gather(Run.open(tmp_path))
