"""Many clients at one time, and bad ones among them: the load test of `benchmarks/serve.py`, made short."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from serving import NAMES, Served, expected, served

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "load.py"
    found = importlib.util.spec_from_file_location("load", path)
    module = importlib.util.module_from_spec(found)
    sys.modules["load"] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


def test_many_clients_are_answered_rightly_and_in_batches(server: Served, load: ModuleType) -> None:
    files = [load.png(image) for image in IMAGES]
    batches, images = server.metric("densely_batch_size_count"), server.metric("densely_batch_size_sum")
    numbers = [i % 32 for i in range(600)]
    found = asyncio.run(load.run(server.port, files, numbers, clients=32))
    for i, number in enumerate(numbers):
        status, body = found.answers[i]
        assert status == 200
        np.testing.assert_allclose(load.probabilities(body, NAMES), expected(IMAGES[number]), atol=1e-5)
    batches = server.metric("densely_batch_size_count") - batches
    assert server.metric("densely_batch_size_sum") - images == 600
    assert batches < 500  # on average more than one


def test_it_stands_bad_clients_of_every_kind_and_answers_the_good_ones(tiny: Path, load: ModuleType) -> None:
    files = [load.png(image) for image in IMAGES]
    bad = load.kinds(files[0])
    numbers = [i % 32 for i in range(800)]
    with served(tiny, "--head-timeout", 2, "--body-timeout", 2) as server:
        asyncio.run(load.run(server.port, files, numbers[:100], clients=8))
        before = server.memory()

        async def both() -> tuple[object, object]:
            spoilt = load.Load()
            task = asyncio.create_task(load.spoil(server.port, spoilt, bad, 3 * len(bad), 4.0))
            found = await load.run(server.port, files, numbers, clients=16)
            await task
            return found, spoilt

        found, spoilt = asyncio.run(both())
        assert spoilt.wrong == []
        assert spoilt.bad == dict.fromkeys(bad, 3)
        for i, number in enumerate(numbers):
            status, body = found.answers[i]
            assert status == 200
            np.testing.assert_allclose(load.probabilities(body, NAMES), expected(IMAGES[number]), atol=1e-5)
        assert server.memory() - before < 200e6  # images of nine million pixels were decoded meanwhile
        for kind in ("too_large", "too_many_pixels", "slow_body", "slow_head", "not_an_image", "damaged", "gone"):
            assert server.metric(f'densely_errors_total{{kind="{kind}"}}') >= 3, kind
        assert server.metric('densely_errors_total{kind="internal"}') == 0
