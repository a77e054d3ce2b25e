"""What a model says of images: the batch does not matter, the views are averaged."""

import numpy as np

from densely.architecture import build
from densely.data import Preprocessing
from densely.evaluation import Views, probabilities


def test_batch_size_does_not_change_the_result() -> None:
    model = build("densenet-bc-16-8", input_shape=(8, 8, 1), classes=3)
    images = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 1), dtype=np.uint8)
    unit = Preprocessing.fit(images, "unit")
    whole = probabilities(model, images, unit)
    np.testing.assert_allclose(probabilities(model, images, unit, batch_size=5), whole, atol=1e-6)
    assert whole.shape == (23, 3)


def test_the_answer_is_the_mean_over_the_views() -> None:
    model = build("densenet-bc-16-8", input_shape=(8, 7, 1), classes=3)
    images = np.random.default_rng(1).integers(0, 256, (7, 8, 7, 1), dtype=np.uint8)
    unit = Preprocessing.fit(images, "unit")

    def mirrored(batch: np.ndarray) -> np.ndarray:
        return np.stack([np.fliplr(image) for image in batch])

    # Every pixel of a moved image is looked up on its own; past the border lies the mirror image.
    def moved(by: int) -> np.ndarray:
        rows, columns = (np.abs(np.arange(side) - by) for side in (8, 7))
        rows, columns = (np.where(at < side, at, 2 * (side - 1) - at) for at, side in ((rows, 8), (columns, 7)))
        return np.stack([image[rows][:, columns] for image in images])

    def asked(*batches: np.ndarray) -> np.ndarray:
        return np.mean([probabilities(model, batch, unit) for batch in batches], axis=0)

    assert np.abs(asked(images) - asked(mirrored(images))).max() > 1e-4
    for views, expected in {
        Views(): asked(images),
        Views(flip=True): asked(images, mirrored(images)),
        Views(shift=2): asked(images, images, moved(2), moved(-2)),
        Views(True, 1): asked(
            *(images, images, moved(1), moved(-1)), *map(mirrored, (images, images, moved(1), moved(-1)))
        ),
    }.items():
        found = probabilities(model, images, unit, batch_size=3, views=views)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found.dtype == np.float32
