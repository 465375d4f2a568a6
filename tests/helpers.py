"""Networks of every kind, random problems for them, and the comparison all tests use."""

import jax

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
