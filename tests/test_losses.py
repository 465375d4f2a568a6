import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, name_of

import jaxnet
from jaxnet import Network, losses
from jaxnet.activations import sigmoid, softmax

LOSSES = [losses.squared_error, losses.cross_entropy, losses.softmax_cross_entropy]


def targets(shape, dtype):
    y = jax.random.uniform(jax.random.key(1), shape, dtype)
    return y / y.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_derivative_is_that_of_the_value(loss, dtype):
    z = jax.random.normal(jax.random.key(0), (20, 6), dtype) * 3
    y = targets((20, 6), dtype)
    assert_close(loss.derivative(z, y), jax.grad(lambda z: loss.value(z, y).sum())(z))


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_second_derivative_is_that_of_the_derivative(loss, dtype):
    z, v = jax.random.normal(jax.random.key(0), (2, 20, 6), dtype) * 3
    y = targets((20, 6), dtype) * 2  # they need not sum to one
    _, expected = jax.jvp(jax.grad(lambda z: loss.value(z, y).sum()), (z,), (v,))
    assert_close(loss.times_second_derivative(z, y, v), expected)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_zero_exactly_at_the_target(loss):
    y = jnp.array([[0.0, 1.0, 0.0]])
    z = y if loss.link is None else jnp.where(y > 0, 1000.0, -1000.0)
    assert loss.value(z, y) == 0
    assert (loss.derivative(z, y) == 0).all()


def test_squared_error_has_no_half():
    assert losses.squared_error.value(jnp.array([3.0, 1.0]), jnp.array([1.0, 0.0])) == 5


def test_cross_entropies_are_the_formulas(x64):
    a, y = np.linspace(-3, 3, 12).reshape(3, 4), np.asarray(targets((3, 4), "float64"))
    p = 1 / (1 + np.exp(-a))
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(axis=-1)
    assert_close(losses.cross_entropy.value(jnp.asarray(a), jnp.asarray(y)), expected)
    p = np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True)
    expected = -(y * np.log(p)).sum(axis=-1)
    assert_close(losses.softmax_cross_entropy.value(jnp.asarray(a), jnp.asarray(y)), expected)


def test_cross_entropy_is_exact_far_out(dtype):
    a, y = (
        jnp.asarray([[1000.0], [1000.0], [-1000.0], [-1000.0]], dtype),
        jnp.asarray([[1.0], [0.0], [1.0], [0.0]], dtype),
    )
    assert losses.cross_entropy.value(a, y).tolist() == [0, 1000, 1000, 0]
    assert losses.cross_entropy.derivative(a, y).ravel().tolist() == [0, 1, -1, 0]
    assert losses.cross_entropy.value(a, jnp.full_like(a, 0.25)).tolist() == [750, 750, 250, 250]


def test_softmax_cross_entropy_is_exact_far_out(dtype):
    a = jnp.asarray([[1000.0, 0.0, -1000.0]] * 3, dtype)
    y = jnp.eye(3, dtype=dtype)
    assert losses.softmax_cross_entropy.value(a, y).tolist() == [0, 1000, 2000]
    expected = [[0, 0, 0], [1, -1, 0], [1, 0, -1]]
    assert losses.softmax_cross_entropy.derivative(a, y).tolist() == expected


def test_cross_entropy_keeps_its_digits_where_the_output_is_right(x64):
    a, y = jnp.array([[30.0]]), jnp.array([[1.0]])
    assert_close(losses.cross_entropy.value(a, y), np.array([np.log1p(np.exp(-30.0))]), 1e-14)
    assert_close(losses.cross_entropy.derivative(a, y), np.array([[-1 / (1 + np.exp(30.0))]]), 1e-14)


def test_targets_that_do_not_sum_to_one(x64):
    a, y = jnp.array([[0.3, -0.2]]), jnp.array([[1.0, 1.0]])
    loss = losses.softmax_cross_entropy
    assert_close(loss.derivative(a, y), jax.grad(lambda a: loss.value(a, y)[0])(a))


@pytest.mark.optimized
@pytest.mark.parametrize(("loss", "output"), [(losses.softmax_cross_entropy, softmax), (losses.squared_error, sigmoid)])
def test_mapped_over_networks_each_gets_its_own(loss, output):
    """Compilers have mixed up the networks."""
    net = Network(output=output, loss=loss)
    keys = jax.random.split(jax.random.key(0), 4)
    params = jaxnet.ensemble.init(keys[0], 200, (64, 16, 10), scheme="normal")
    x, weights = jax.random.normal(keys[1], (300, 64)), jax.random.uniform(keys[2], (300,))
    y = jax.nn.one_hot(jax.random.randint(keys[3], 300, 0, 10), 10)
    for one in (None, weights):
        mapped = jax.jit(jax.vmap(lambda params, one=one: jaxnet.cost(params, x, y, net, one)))(params)
        alone = jax.lax.map(lambda params, one=one: jaxnet.cost(params, x, y, net, one), params)
        np.testing.assert_allclose(mapped, alone, rtol=1e-4)
