"""Examples as rows and as columns: the same numbers, and each where it is meant to be."""

from unittest import mock

import jax
import jax.numpy as jnp
import optax
import pytest
from helpers import OUTPUTS_AND_LOSSES, assert_close, in_form, name_of, problem

import jaxnet
from jaxnet import Network, activations
from jaxnet._loop import few_products, few_sums
from jaxnet._one_function import COMPILER_OPTIONS, in_one_function
from jaxnet._products import COLUMNS, ROWS, as_columns, as_sums
from jaxnet.activations import Activation
from jaxnet.backprop import backprop_as_sums

SIZES = (3, 60, 5, 2)  # 60: wide enough for its products to go another way


def backprop(columns, *args):
    with in_form(columns):
        return jax.jit(lambda *args: jaxnet.backprop(*args))(*args)


@pytest.mark.parametrize("end", OUTPUTS_AND_LOSSES, ids=name_of)
def test_rows_and_columns_give_the_same(end, x64):
    net = Network(activations.tanh, *end, l2=0.1)
    params, x, y = problem(SIZES, net, dtype="float64")
    weights = jax.random.uniform(jax.random.key(1), (len(x),))
    for given in ((), (weights,)):
        assert_close(backprop(True, params, x, y, net, *given), backprop(False, params, x, y, net, *given))


@pytest.mark.parametrize("hidden", [activations.softmax, activations.relu], ids=name_of)
def test_many_examples_agree_with_the_referee(hidden, x64):
    net = Network(hidden)
    params, x, y = problem((3, 8, 2), net, n=40, dtype="float64")
    assert as_columns(params, len(x))
    assert_close(jaxnet.backprop(params, x, y, net), jaxnet.autodiff(params, x, y, net))


def test_leading_axes_and_their_weights(x64):
    params, x, y = problem(SIZES, n=6, dtype="float64")
    weights = jnp.arange(6.0)
    for columns in (True, False):
        shaped = backprop(columns, params, x.reshape(2, 3, 3), y.reshape(2, 3, 2), Network(), weights.reshape(2, 3))
        assert_close(shaped, backprop(columns, params, x, y, Network(), weights))
        single = backprop(columns, params, x[0], y[0])
        assert_close(single, jaxnet.autodiff(params, x[0], y[0]))


def test_an_activation_that_mixes_units_without_saying_so(x64):
    mixing = Activation("mixing", activations.softmax.value, activations.softmax.times_derivative)
    params, x, y = problem(SIZES, n=5, dtype="float64")
    for net in (Network(mixing), Network(output=mixing)):
        assert_close(backprop(True, params, x, y, net), jaxnet.autodiff(params, x, y, net))


def test_under_vmap_and_differentiated_again(x64):
    params, x, y = problem((3, 4, 2), n=5, dtype="float64")
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)

    def slope(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jaxnet.backprop(params, x, y)[1]))

    found = []
    for columns in (True, False):
        with in_form(columns):
            mapped = jax.vmap(lambda params: jaxnet.backprop(params, x, y))(members)
            found.append((mapped, jax.grad(slope)(params)))
    assert_close(*found)


@pytest.mark.parametrize("product", ["weigh", "carry_back", "outer"])
@pytest.mark.parametrize("units", [1, 5, 60])
@pytest.mark.parametrize("n", [1, 7])
def test_each_product(product, units, n, x64):
    keys = jax.random.split(jax.random.key(0), 3)
    h, delta = jax.random.normal(keys[0], (n, 4)), jax.random.normal(keys[1], (n, units))
    weight = jax.random.normal(keys[2], (units, 4))
    left, right = {"weigh": (h, weight), "carry_back": (delta, weight), "outer": (delta, h)}[product]
    expected = {"weigh": h @ weight.T, "carry_back": delta @ weight, "outer": delta.T @ h}[product]
    assert_close(getattr(ROWS.others, product)(left, right), expected)
    turned = getattr(COLUMNS.others, product)(left.T, right.T if product == "outer" else right)
    assert_close(turned, expected if product == "outer" else expected.T)
    assert_close(COLUMNS.others.total(delta.T), ROWS.others.total(delta))


@pytest.mark.parametrize(
    ("sizes", "n", "columns"),
    [
        ((784, 30, 10), 10, False),
        ((784, 30, 10), 32, True),
        ((784, 100, 10), 32, True),  # only a narrow layer carries back
        ((64, 64, 64, 10), 64, False),
        ((64, 64, 64, 10), 128, True),
        ((2, 2, 1), 100, False),
        ((2, 2, 1), 128, True),
    ],
)
def test_which_form_is_taken(sizes, n, columns):
    assert as_columns(jaxnet.init(jax.random.key(0), sizes), n) == columns


def test_rows_elsewhere_than_on_a_cpu():
    with mock.patch("jax.default_backend", return_value="gpu"):
        assert not as_columns(jaxnet.init(jax.random.key(0), (784, 30, 10)), 1000)


# Sums, in one function


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="products are sums on a CPU only")
@pytest.mark.parametrize("n", [1, 10, 13])
@pytest.mark.parametrize(
    "sizes", [SIZES, (1, 1), (39, 1, 40, 41), (64, 3), (81, 6, 30, 2), (200, 90, 11), (515, 2)], ids=str
)
def test_sums_give_the_same(sizes, n, x64):
    net = Network(activations.tanh, l2=0.1)
    params, x, y = problem(sizes, net, n=n, dtype="float64", scale=0.1)
    weights = jax.random.uniform(jax.random.key(1), (n,))

    def gradient(*args):
        return in_one_function(lambda *args: backprop_as_sums(*args), *args)

    program = jax.jit(gradient, static_argnums=3).lower(params, x, y, net, weights).compile(COMPILER_OPTIONS)
    assert " dot(" not in program.as_text()
    assert_close(program(params, x, y, weights), jax.jit(jaxnet.autodiff, static_argnums=3)(params, x, y, net, weights))


def shaped(sizes, **options):
    """The shapes of parameters."""
    return jax.eval_shape(lambda: problem(sizes, **options)[0])


def test_sums_are_for_few_examples():
    """If they are ten or less, but of wide layers, or in float64; and of small networks, unless all is the same."""
    mnist, digits, small, xor = ((784, 30, 10), (64, 32, 10), (8, 16, 4), (2, 2, 1))
    params = {sizes: shaped(sizes) for sizes in (mnist, digits, small, xor, (784, 500, 500, 10))}
    assert [as_sums(params[mnist], n) for n in (1, 2, 10, 11)] == [False, True, True, False]
    assert [as_sums(params[digits], n) for n in (4, 10, 32)] == [True, True, False]
    assert [as_sums(params[small], n) for n in (2, 8, 32, 64)] == [False, True, True, False]
    assert not as_sums(params[xor], 4)
    assert few_products(params[xor], 4)
    assert not as_sums(params[784, 500, 500, 10], 8)
    assert not as_sums(shaped(digits, dtype="bfloat16"), 10)
    assert [as_sums(shaped((300, 200, 10)), n) for n in (2, 4, 5)] == [True, True, False]
    assert [as_sums(params[mnist], n, least=1) for n in (1, 10)] == [True, True]
    assert [as_sums(shaped((784, 128, 10)), n) for n in (4, 10)] == [True, True]


def test_sums_in_double_precision_are_for_two_examples(x64):
    mnist, digits = (shaped(sizes, dtype="float64") for sizes in ((784, 30, 10), (64, 32, 10)))
    assert [as_sums(mnist, n, least=1) for n in (1, 2, 3, 10)] == [False, True, False, False]
    assert [as_sums(digits, n, least=1) for n in (1, 4, 5)] == [False, True, False]


def test_a_single_example_is_for_sums_where_there_is_a_penalty():
    """Which is a long sum; of the rest, plain loops are as fast. Other cores are worth more to very large networks."""
    states = [jaxnet.State(shaped(sizes), ()) for sizes in ((784, 30, 10), (784, 300, 100, 10))]
    assert [few_sums(state, 1) for state in states] == [False, False]
    assert [few_sums(state, 1, penalised=True) for state in states] == [True, False]
    assert few_sums(jaxnet.State(states[0].params, (states[0].params, states[0].params)), 1, penalised=True)


def test_sums_leave_long_updates_to_all_cores():
    def pay(sizes, optimizer):
        params = shaped(sizes)
        return few_sums(jaxnet.State(params, jax.eval_shape(optimizer.init, params)), 10)

    assert pay((784, 30, 10), optax.sgd(0.1, momentum=0.9))
    assert not pay((784, 30, 10), optax.adam(0.1))
    assert pay((64, 32, 10), optax.adam(0.1))
