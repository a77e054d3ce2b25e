"""Images that wait go to the network together, each with its own answer."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from serving import NAMES, expected, write_model

from densely.serve.batching import Batcher
from densely.serve.engine import Engine
from densely.serve.metrics import Metrics
from densely.serve.refusal import Refused

RNG = np.random.default_rng(0)


def count(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(name) or 0.0


def test_what_arrives_together_is_answered_together_and_rightly(tmp_path: Path) -> None:
    engine, metrics = Engine(write_model(tmp_path / "m.onnx"), 1), Metrics()
    images = RNG.integers(0, 256, (100, *engine.meaning.input_shape), dtype=np.uint8)

    async def go() -> list[np.ndarray]:
        batcher = Batcher(engine, metrics, batch=16, queue=200)
        running = asyncio.create_task(batcher.run())
        asked = [batcher.answers([image], maps=i % 3 == 0) for i, image in enumerate(images)]
        found = await asyncio.gather(*asked)
        running.cancel()
        batcher.close()
        for i, (one,) in enumerate(found):
            assert (one.maps is not None) == (i % 3 == 0)
        return [one.probabilities for (one,) in found]

    np.testing.assert_allclose(asyncio.run(go()), [expected(image) for image in images], atol=1e-5)
    batches, whole = count(metrics, "densely_batch_size_count"), count(metrics, "densely_batch_size_sum")
    assert whole == 100
    assert 7 <= batches <= 9  # 16 at a time
    assert count(metrics, "densely_network_seconds_count") == batches


def test_one_alone_does_not_wait_for_company(tmp_path: Path) -> None:
    engine, metrics = Engine(write_model(tmp_path / "m.onnx"), 1), Metrics()

    async def go() -> None:
        batcher = Batcher(engine, metrics, batch=16, queue=200)
        running = asyncio.create_task(batcher.run())
        for _ in range(5):
            async with asyncio.timeout(5):
                await batcher.answers([np.zeros((8, 8, 3), np.uint8)])
        running.cancel()
        batcher.close()

    asyncio.run(go())
    assert count(metrics, "densely_batch_size_count") == 5


def test_a_full_queue_takes_all_images_of_a_request_or_none(tmp_path: Path) -> None:
    engine, metrics = Engine(write_model(tmp_path / "m.onnx"), 1), Metrics()
    images = list(RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))

    async def go() -> None:
        batcher = Batcher(engine, metrics, batch=4, queue=10)
        first = asyncio.create_task(batcher.answers(images))  # nothing is answered yet
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="Too many images are waiting") as refused:
            await batcher.answers(images)
        assert refused.value.status == 503
        assert count(metrics, "densely_queue_images") == 6
        running = asyncio.create_task(batcher.run())
        assert len(await first) == 6
        assert len(await batcher.answers(images)) == 6
        running.cancel()
        batcher.close()

    asyncio.run(go())


def test_who_has_gone_costs_nothing_and_a_fault_ends_only_its_batch(tmp_path: Path) -> None:
    engine, metrics = Engine(write_model(tmp_path / "m.onnx"), 1), Metrics()
    good, odd = np.full((8, 8, 3), (0, 0, 255), np.uint8), np.zeros((9, 9, 3), np.uint8)

    async def go() -> None:
        batcher = Batcher(engine, metrics, batch=4, queue=10)
        gone = asyncio.create_task(batcher.answers([good] * 4))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        running = asyncio.create_task(batcher.run())
        with pytest.raises(Exception, match="Got invalid dimensions"):
            await batcher.answers([odd])
        (found,) = await batcher.answers([good])
        assert NAMES[found.probabilities.argmax()] == "blue"
        running.cancel()
        batcher.close()

    asyncio.run(go())
    assert count(metrics, "densely_batch_size_sum") == 1
