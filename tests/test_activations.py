import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ACTIVATIONS, assert_close, name_of

from jaxnet import activations

POINTS = [-1000.0, -30.0, -2.5, -1e-3, 1e-3, 0.7, 4.0, 30.0, 1000.0]


@pytest.mark.parametrize("s", ACTIVATIONS.values(), ids=name_of)
def test_derivative_is_that_of_the_value(s, dtype):
    a = jax.random.normal(jax.random.key(0), (20, 6), dtype) * 3
    v = jax.random.normal(jax.random.key(1), (20, 6), dtype)
    _, pull = jax.vjp(s, a)
    assert_close(s.times_derivative(s(a), v), pull(v)[0])


@pytest.mark.parametrize("s", ACTIVATIONS.values(), ids=name_of)
def test_jacobian_is_symmetric(s, x64):
    a = jax.random.normal(jax.random.key(0), (5,))
    jacobian = jax.vmap(lambda v: s.times_derivative(s(a), v))(jnp.eye(5))
    assert_close(jacobian, jacobian.T)


@pytest.mark.parametrize("s", ACTIVATIONS.values(), ids=name_of)
def test_second_derivative_is_that_of_the_derivative(s, dtype):
    a = jax.random.normal(jax.random.key(0), (20, 6), dtype) * 3
    c, v = jax.random.normal(jax.random.key(1), (2, 20, 6), dtype)
    _, expected = jax.jvp(jax.grad(lambda a: jnp.sum(s(a) * c)), (a,), (v,))
    assert_close(s.times_second_derivative(s(a), c, v), expected)
    assert_close(s.times_second_derivative(s(a), v, c), expected)


@pytest.mark.parametrize("s", ACTIVATIONS.values(), ids=name_of)
def test_elementwise_means_a_diagonal_jacobian(s, x64):
    h = s(jax.random.normal(jax.random.key(0), (5,)))
    jacobian = jax.vmap(lambda v: s.times_derivative(h, v))(jnp.eye(5))
    assert s.elementwise == bool((jacobian == jnp.diag(jnp.diag(jacobian))).all())


@pytest.mark.parametrize("s", ACTIVATIONS.values(), ids=name_of)
def test_finite_far_out(s, dtype):
    a = jnp.asarray(POINTS, dtype)
    h = s(a)
    assert jnp.isfinite(h).all()
    assert jnp.isfinite(s.times_derivative(h, jnp.ones_like(h))).all()
    assert jnp.isfinite(s.times_second_derivative(h, jnp.ones_like(h), jnp.ones_like(h))).all()
    assert h.dtype == dtype


@pytest.mark.parametrize(
    ("s", "formula"),
    [
        (activations.sigmoid, lambda a: 1 / (1 + np.exp(-a))),
        (activations.tanh, np.tanh),
        (activations.relu, lambda a: np.where(a > 0, a, 0)),
        (activations.softplus, lambda a: np.log1p(np.exp(a))),
        (activations.identity, lambda a: a),
        (activations.softmax, lambda a: np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True)),
    ],
    ids=name_of,
)
def test_values_are_the_formulas(s, formula, x64):
    a = np.linspace(-4, 4, 24).reshape(3, 8)
    assert_close(s(jnp.asarray(a)), formula(a))


def test_derivatives_keep_their_digits_where_they_are_small(x64):
    a = jnp.array([-40.0, -20.0])
    assert_close(
        activations.softplus.times_derivative(activations.softplus(a), jnp.ones(2)), np.exp([-40.0, -20.0]), 1e-8
    )
    h = jnp.array([1 - 2.0**-50])
    assert activations.tanh.times_derivative(h, jnp.ones(1))[0] == 2.0**-50 * (2 - 2.0**-50)


def test_relu_kink_has_derivative_zero():
    zero = jnp.zeros(3)
    assert (activations.relu.times_derivative(activations.relu(zero), jnp.ones(3)) == 0).all()


def test_softmax_of_one_unit_is_constant():
    h = activations.softmax(jnp.array([[3.0]]))
    assert h == 1
    assert activations.softmax.times_derivative(h, jnp.array([[5.0]])) == 0
