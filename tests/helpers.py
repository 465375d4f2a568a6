"""Networks of every kind, random problems for them, and the comparison all tests use."""

import sys
from unittest import mock

import jax
import numpy as np

import jaxnet
from jaxnet import activations, losses

ACTIVATIONS = {name: getattr(activations, name) for name in activations.__all__ if name != "Activation"}

# Every loss after every output it can follow.
OUTPUTS_AND_LOSSES = [(output, losses.squared_error) for output in ACTIVATIONS.values()] + [
    (activations.sigmoid, losses.cross_entropy),
    (activations.identity, losses.cross_entropy),
    (activations.softmax, losses.softmax_cross_entropy),
    (activations.identity, losses.softmax_cross_entropy),
]


def name_of(value):
    """Test ids; None leaves the choice to pytest."""
    if isinstance(value, tuple):
        return "-".join(part.name for part in value)
    return getattr(value, "name", None)


def problem(sizes, net=jaxnet.Network(), *, n=7, dtype="float32", seed=0, scale=1.0):
    """Random parameters, inputs and targets for a network; targets fit the loss."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = jaxnet.init(keys[0], sizes, scheme="normal", scale=scale, dtype=dtype)
    x = jax.random.normal(keys[1], (n, sizes[0]), dtype)
    if net.loss is losses.softmax_cross_entropy:
        y = jax.nn.one_hot(jax.random.randint(keys[2], (n,), 0, sizes[-1]), sizes[-1], dtype=dtype)
    else:
        y = jax.random.uniform(keys[2], (n, sizes[-1]), dtype)
    return params, x, y


def assert_close(actual, expected, tolerance=None):
    jaxnet.check.compare(actual, expected, tolerance=tolerance).raise_if_failed()


def idx(array, magic=8):
    """An array of bytes as a file of MNIST's kind."""
    header = bytes([0, 0, magic, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_digits_as_mnist(folder, scale, train, test):
    """Digits of 8x8 pixels, times ``scale``, in MNIST's four files: the rows to train on and to test with."""
    folder.mkdir()
    digits = jaxnet.data.digits()
    images, labels = np.asarray(digits.x).reshape(-1, 8, 8) * scale, np.argmax(digits.y, axis=1)
    for part, rows in (("train", train), ("t10k", test)):
        for kind, array in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            (folder / f"{part}-{kind}-ubyte").write_bytes(idx(array))
    return images, labels


def in_form(columns):
    """Every batch goes through the passes as columns, or as rows."""
    return mock.patch.object(sys.modules["jaxnet.backprop"], "as_columns", return_value=columns)
