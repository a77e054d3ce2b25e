"""The old notebook's cells, on today's Keras, with only their imports changed."""

import pickle
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest

import densely
from densely.errors import UsageError
from densely.notebook import (
    bn,
    conv,
    conv_block,
    create_dense_net,
    dense_block,
    dropout,
    relu,
    relu_bn,
    transition_block,
)


def parameters(model: keras.Model) -> int:
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def test_the_cells_run(cifar_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with tarfile.open(cifar_dir / "cifar-10-python.tar.gz") as archive:
        batch = pickle.load(archive.extractfile("cifar-10-batches-py/data_batch_1"), encoding="bytes")

    # -- cells
    X = batch[b"data"][:80].reshape(80, 3, 32, 32).transpose(0, 2, 3, 1)
    y = np.array(batch[b"labels"][:80])
    X_train, y_train, X_test, y_test = X[:64] / 255.0, y[:64], X[64:] / 255.0, y[64:]

    img_input = keras.Input(shape=(32, 32, 3))
    x = create_dense_net(10, img_input, depth=16, nb_filter=16, compression=0.5, bottleneck=True, p=0.2, wd=1e-4)
    model = keras.Model(img_input, x)
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=keras.optimizers.SGD(0.1, 0.9, nesterov=True),
        metrics=["accuracy"],
    )
    parms = {"verbose": 0, "callbacks": [densely.ProgressBar()]}
    model.optimizer.learning_rate = 0.1
    model.fit(X_train, y_train, 16, 2, validation_data=(X_test, y_test), **parms)
    model.optimizer.learning_rate = 0.01
    history = model.fit(X_train, y_train, 16, 1, validation_data=(X_test, y_test), **parms)
    model.save_weights("93.weights.h5")
    # -- until here

    assert np.isfinite(history.history["val_loss"][0])
    shown = capsys.readouterr().out
    assert "epoch 2/2" in shown
    assert "lr 0.1" in shown
    assert "lr 0.01" in shown
    expected = model.predict_on_batch(X_test)
    model.set_weights([np.zeros(w.shape) for w in model.weights])
    model.load_weights("93.weights.h5")
    np.testing.assert_array_equal(model.predict_on_batch(X_test), expected)


def test_the_notebook_s_network_has_the_notebook_s_size() -> None:
    inputs = keras.Input((32, 32, 3))
    outputs = create_dense_net(10, inputs, depth=100, nb_filter=16, compression=0.5, bottleneck=True, p=0.2, wd=1e-4)
    assert parameters(keras.Model(inputs, outputs)) == 757_958 == parameters(densely.build("notebook"))


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_parts_put_together_by_hand_are_the_whole(bottleneck: bool) -> None:
    depth, blocks, growth, filters, theta, p, wd = 16, 3, 5, 7, 0.5, 0.2, 1e-4
    inputs = keras.Input((16, 16, 2))
    x = conv(inputs, filters, 3, wd, 0)
    for i in range(blocks):
        x = dense_block(x, (depth - 4) // blocks, growth, bottleneck=bottleneck, p=p, wd=wd)
        if i < blocks - 1:
            x = transition_block(x, compression=theta, p=p, wd=wd)
    x = keras.layers.GlobalAveragePooling2D()(relu_bn(x))
    by_hand = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))

    outputs = create_dense_net(
        3, inputs, depth, blocks, growth, filters, bottleneck=bottleneck, compression=theta, p=p, wd=wd
    )
    whole = keras.Model(inputs, outputs)
    assert [w.shape for w in by_hand.weights] == [w.shape for w in whole.weights]
    by_hand.set_weights(whole.get_weights())
    images = np.random.default_rng(0).random((3, 16, 16, 2)).astype("float32")
    np.testing.assert_allclose(by_hand.predict_on_batch(images), whole.predict_on_batch(images), atol=1e-6)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_dense_block_is_conv_blocks_and_concatenation(bottleneck: bool) -> None:
    inputs = keras.Input((8, 8, 6))
    x = inputs
    for _ in range(2):
        x = keras.layers.Concatenate()([x, conv_block(x, 4, bottleneck=bottleneck)])
    by_hand = keras.Model(inputs, x)
    whole = keras.Model(inputs, dense_block(inputs, 4 if bottleneck else 2, 4, bottleneck=bottleneck))
    by_hand.set_weights(whole.get_weights())
    images = np.random.default_rng(0).random((3, 8, 8, 6)).astype("float32")
    np.testing.assert_allclose(by_hand.predict_on_batch(images), whole.predict_on_batch(images), atol=1e-5)


def test_small_words() -> None:
    inputs = keras.Input((4, 4, 2))
    assert dropout(inputs, None) is inputs
    model = keras.Model(inputs, [relu(inputs), bn(inputs), dropout(inputs, 0.5)])
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
    rectified, normalised, dropped = model.predict_on_batch(x)
    np.testing.assert_array_equal(rectified, np.maximum(x, 0))
    np.testing.assert_allclose(normalised, x / np.sqrt(1 + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(dropped, x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 41}, "depth 41 does not fit 3 blocks"),
        ({"depth": 4}, "depth 4 does not fit"),
        ({"nb_block": 0}, "does not fit 0 blocks"),
        ({"activation": "relu"}, "softmax or sigmoid, not 'relu'"),
    ],
)
def test_the_notebook_s_rules(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        create_dense_net(10, keras.Input((32, 32, 3)), **options)


def test_sigmoid_answers_each_class_on_its_own() -> None:
    inputs = keras.Input((16, 16, 1))
    model = keras.Model(inputs, create_dense_net(3, inputs, depth=7, activation="sigmoid"))
    assert model.layers[-1].activation is keras.activations.sigmoid
