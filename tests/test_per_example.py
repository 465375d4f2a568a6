"""What is said of each example's gradient, against the gradients themselves by automatic differentiation."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ACTIVATIONS, OUTPUTS_AND_LOSSES, assert_close, in_form, name_of, problem
from hypothesis import given, settings

import jaxnet
from jaxnet import Layer, Network, activations, losses, per_example

KEY = jax.random.key(11)
NET = Network(activations.tanh, activations.softmax, losses.softmax_cross_entropy, l2=0.1)
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # most of a test is compiling
WIDE = (61, 3, 2)  # its squares are taken in blocks, the last of which overlaps


class Referee:
    """Each quantity by its definition, from materialised gradients by automatic differentiation."""

    def __init__(self, params, x, y, net=Network(), weights=None):
        n = len(x)
        self.params, self.net = params, net
        self.tree = jax.vmap(jax.grad(jaxnet.cost), in_axes=(None, 0, 0, None))(params, x, y, net)
        self.layers = [jnp.concatenate([w.reshape(n, -1), b], axis=1) for w, b in self.tree]
        self.rows = jnp.concatenate(self.layers, axis=1)
        weights = jnp.ones(n, x.dtype) if weights is None else weights
        self.shares = weights / weights.sum()
        self.mean = self.average(self.rows)

    def average(self, rows):
        return self.shares @ rows

    def as_params(self, row):
        return jax.flatten_util.ravel_pytree(self.params)[1](row)

    def clipped(self, bound):
        if not isinstance(bound, tuple):
            return self.as_params(self.average(self._clip(self.rows, bound)))
        parts = [self._clip(layer, b) for layer, b in zip(self.layers, bound, strict=True)]
        return self.as_params(self.average(jnp.concatenate(parts, axis=1)))

    @staticmethod
    def _clip(rows, bound):
        size = jnp.linalg.norm(rows, axis=1, keepdims=True)
        return rows * jnp.where(size > bound, bound / size, 1)

    def variance(self):
        return self.average((self.rows - self.mean[None]) ** 2)

    def noise_and_signal(self):
        spread = jnp.sum(self.shares**2)
        noise = jnp.sum(self.variance()) / (1 - spread)
        return noise, jnp.sum(self.mean**2) - spread * noise

    def cosines(self):
        return self.rows @ self.mean / jnp.linalg.norm(self.rows, axis=1) / jnp.linalg.norm(self.mean)


def close(actual, expected, tolerance=1e-10):
    """Relative to the largest entry of the whole: parts that are all cancellation have no digits of their own."""
    actual, expected = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (actual, expected))
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-3)


QUANTITIES = {
    "gradients": lambda *a, w: per_example.gradients(*a),
    "norms": lambda *a, w: per_example.norms(*a),
    "dot_products": lambda *a, w: per_example.dot_products(*a),
    "cosine_to_mean": lambda *a, w: per_example.cosine_to_mean(*a, w),
    "clipped_gradient": lambda *a, w: per_example.clipped_gradient(*a, w, bound=0.3),
    "microbatches": lambda *a, w: per_example.clipped_gradient(*a, w, bound=0.3, microbatch=2),
    "second_moment": lambda *a, w: per_example.second_moment(*a, w),
    "variance": lambda *a, w: per_example.variance(*a, w),
    "signal_to_noise": lambda *a, w: per_example.signal_to_noise(*a, w),
    "noise_and_signal": lambda *a, w: per_example.noise_and_signal(*a, w),
    "noise_scale": lambda *a, w: per_example.noise_scale(*a, w),
    "private_gradient": lambda *a, w: per_example.private_gradient(*a, w, key=KEY, bound=0.3, noise_multiplier=0.5),
}
EXACT = ("gradients", "norms", "dot_products", "second_moment", "variance", "noise_and_signal")


# The definitions


@pytest.mark.slow
@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple) | st.just(WIDE),
    n=st.integers(2, 9),
    hidden=st.sampled_from(list(ACTIVATIONS.values())),
    end=st.sampled_from(OUTPUTS_AND_LOSSES),
    l2=st.sampled_from([0.0, 0.3]),
    scale=st.sampled_from([0.1, 1.0, 4.0]),
    weighted=st.booleans(),
    microbatch=st.sampled_from([None, 1, 2, 4, 100]),
    columns=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_random_networks(sizes, n, hidden, end, l2, scale, weighted, microbatch, columns, seed):
    with jax.enable_x64(True), in_form(columns):
        net = Network(hidden, *end, l2=l2)
        params, x, y = problem(sizes, net, n=n, dtype="float64", seed=seed, scale=scale)
        weights = jax.random.uniform(jax.random.key(seed), (n,)) if weighted else None
        compared = fast_jit(lambda *args: list(actual_and_expected(microbatch, *args)))
        pairs = compared(params, x, y, net, weights)
        for actual, expected in pairs:
            close(actual, expected)


def actual_and_expected(microbatch, params, x, y, net, weights):
    """Pairs to compare, made in one compiled piece."""
    referee = Referee(params, x, y, net, weights)
    moment = referee.average(referee.rows**2)
    ours = {name: QUANTITIES[name](params, x, y, net, w=weights) for name in EXACT}
    yield ours["gradients"], referee.tree
    yield ours["norms"], jnp.linalg.norm(referee.rows, axis=1)
    yield ours["dot_products"], referee.rows @ referee.rows.T
    yield ours["second_moment"], referee.as_params(moment)
    # As differences, to the digits of what they are differences of.
    yield (ours["variance"], moment.max()), (referee.as_params(referee.variance()), moment.max())
    yield (ours["noise_and_signal"], moment.sum()), (referee.noise_and_signal(), moment.sum())
    plain = jaxnet.backprop(params, x, y, net, weights)
    norms = jnp.linalg.norm(referee.rows, axis=1)
    for bound in (jnp.median(norms) + 1e-3, (norms.max() / 2 + 1e-3,) * len(params), jnp.inf):
        clipped = per_example.clipped_gradient(params, x, y, net, weights, bound=bound, microbatch=microbatch)
        microbatch = None  # once is enough
        yield clipped, (plain[0], plain[1] if bound is jnp.inf else referee.clipped(bound))


@pytest.mark.parametrize("name", QUANTITIES)
def test_rows_and_columns_give_the_same(name, x64):
    params, x, y = problem(WIDE, NET, n=5, dtype="float64")
    found = []
    for columns in (True, False):
        with in_form(columns):
            found.append(fast_jit(partial(QUANTITIES[name], w=jnp.arange(5.0)))(params, x, y, NET))
    assert_close(*found, tolerance=1e-10)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_cosine_and_signal_to_noise(l2, x64):
    """Away from the zeros of their denominators."""
    params, x, y = problem((3, 4, 2), n=8, dtype="float64")
    weights = jax.random.uniform(KEY, (8,))
    args = params, x, y, Network(l2=l2), weights
    referee = Referee(*args)
    close(per_example.cosine_to_mean(*args), referee.cosines())
    close(per_example.signal_to_noise(*args), referee.as_params(referee.mean**2 / referee.variance()))
    noise, signal = referee.noise_and_signal()
    close(per_example.noise_scale(*args), noise / signal)


@pytest.mark.parametrize("end", OUTPUTS_AND_LOSSES, ids=name_of)
def test_dot_products_with_another_set(end, x64):
    net = Network(activations.softplus, *end, l2=0.1)
    params, x, y = problem((3, 4, 2), net, dtype="float64")
    _, *other = problem((3, 4, 2), net, n=4, dtype="float64", seed=1)

    def both(params, x, y, other):
        expected = Referee(params, x, y, net).rows @ Referee(params, *other, net).rows.T
        return per_example.dot_products(params, x, y, net, other), expected

    assert_close(*fast_jit(both)(params, x, y, tuple(other)))


def test_float32_agrees_too():
    params, x, y = problem((60, 30, 2), n=16)
    compared = fast_jit(lambda *args: list(actual_and_expected(5, *args)))
    for actual, expected in compared(params, x, y, Network(l2=0.01), None):
        close(actual, expected, 1e-5)


# Invariants


def test_mean_of_gradients_is_the_batch_gradient(x64):
    params, x, y = problem((3, 4, 2), NET, dtype="float64")
    mean = jax.tree.map(lambda g: g.mean(axis=0), per_example.gradients(params, x, y, NET))
    assert_close(mean, jaxnet.backprop(params, x, y, NET)[1])


def test_norms_are_the_diagonal_of_the_products(x64):
    params, x, y = problem((3, 4, 2), NET, dtype="float64")
    products = per_example.dot_products(params, x, y, NET)
    assert_close(jnp.sqrt(jnp.diagonal(products)), per_example.norms(params, x, y, NET))
    assert_close(products, products.T)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), bound=st.floats(1e-6, 10))
def test_clipped_means_are_within_the_bound(seed, bound):
    params, x, y = problem((3, 4, 2), seed=seed)
    _, grads = per_example.clipped_gradient(params, x, y, bound=bound)
    assert float(optax.tree.norm(grads)) <= bound * (1 + 1e-5)
    _, grads = per_example.clipped_gradient(params, x, y, bound=(bound, 2 * bound))
    for layer, most in zip(grads, (bound, 2 * bound), strict=True):
        assert float(optax.tree.norm(layer)) <= most * (1 + 1e-5)


def test_a_weight_of_two_is_an_example_twice(x64):
    params, x, y = problem((3, 4, 2), NET, n=5, dtype="float64")
    rows = jnp.array([0, 0, 1, 3, 4])
    weights = jnp.array([2.0, 1.0, 0.0, 1.0, 1.0])
    for name in ("clipped_gradient", "microbatches", "second_moment", "variance", "signal_to_noise"):
        quantity = fast_jit(QUANTITIES[name])
        assert_close(quantity(params, x, y, NET, w=weights), quantity(params, x[rows], y[rows], NET, w=None))


def test_unbiased(x64):
    """Over all pairs drawn from five examples, the estimates average to what holds of the five (as a population)."""
    params, x, y = problem((3, 4, 2), n=5, dtype="float64")
    referee = Referee(params, x, y)
    pairs = jnp.array([(i, j) for i in range(5) for j in range(5)])
    noise, signal = fast_jit(jax.vmap(lambda rows: per_example.noise_and_signal(params, x[rows], y[rows])))(pairs)
    assert_close(noise.mean(), jnp.sum(referee.variance()))
    assert_close(signal.mean(), jnp.sum(referee.mean**2))


# Edge cases that the documentation names


def test_zero_norms():
    params, x, y = problem((3, 4, 2))
    y = y.at[2].set(jaxnet.forward(params, x)[2])  # an example without error
    assert per_example.norms(params, x, y)[2] == 0
    assert per_example.cosine_to_mean(params, x, y)[2] == 0
    for bound in (1e-3, jnp.inf, (1e-3, jnp.inf)):
        _, grads = per_example.clipped_gradient(params, x[2:3], y[2:3], bound=bound)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))
        _, grads = per_example.clipped_gradient(params, x, y, bound=bound)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_gradients_that_cancel_the_penalty():
    """A gradient of exactly zero, of two parts that are not: its norm is 0, not the root of a negative number."""
    net = Network(output=activations.identity, l2=2.0)
    params = (Layer(jnp.array([[0.1, 0.3]]), jnp.array([0.7])),)
    x = jnp.array([[0.1, 0.3]])
    y = jaxnet.forward(params, x, net) + 1.0  # δ = −2, and so δ x + l2 W = 0
    assert per_example.norms(params, x, y, net)[0] == pytest.approx(2.0)  # the bias's
    assert not jnp.isnan(per_example.clipped_gradient(params, x, y, net, bound=1e-3)[1][0].weight).any()


def test_the_noise_of_one_weighted_example_is_not_known():
    params, x, y = problem((3, 4, 2))
    weights = jnp.zeros(len(x)).at[1].set(2.0)
    assert jnp.isnan(jnp.stack(per_example.noise_and_signal(params, x, y, weights=weights))).all()


def test_cosines_of_small_gradients_in_half_precision():
    params = (Layer(jnp.zeros((1, 2), jnp.float16), jnp.zeros(1, jnp.float16)),)
    x, y = jnp.ones((3, 2), jnp.float16), jnp.asarray([[1e-4], [1e-4], [-1e-4]], jnp.float16)
    cosines = per_example.cosine_to_mean(params, x, y, Network(output=activations.identity))
    assert cosines.dtype == jnp.float16
    np.testing.assert_allclose(cosines, [1, 1, -1], rtol=1e-3)


def test_an_infinite_bound_clips_nothing(dtype):
    params, x, y = problem((3, 4, 2), NET, dtype=dtype)
    plain = jaxnet.backprop(params, x, y, NET)
    assert_close(per_example.clipped_gradient(params, x, y, NET, bound=jnp.inf), plain)
    assert_close(per_example.clipped_gradient(params, x, y, NET, bound=(jnp.inf, jnp.inf)), plain)


@pytest.mark.parametrize("bound", [1.0, (1.0, 1.0)], ids=["flat", "per layer"])
def test_an_example_that_is_nan_is_not_hidden(bound):
    params, x, y = problem((3, 4, 2))
    value, grads = per_example.clipped_gradient(params, x.at[3, 0].set(jnp.nan), y, bound=bound)
    assert jnp.isnan(value)
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(grads))
    norms = per_example.norms(params, x.at[3, 0].set(jnp.nan), y)
    assert jnp.isnan(norms).tolist() == [False] * 3 + [True] + [False] * 3


def test_a_norm_whose_square_is_beyond_the_dtype_is_clipped_to_the_bound():
    net = Network(output=activations.identity)
    params, x, y = problem((3, 2), net)
    _, grads = per_example.clipped_gradient(params, x, y.at[0].set(1e30), net, bound=1.0)
    _, others = per_example.clipped_gradient(params, x[1:], y[1:], net, bound=1.0)
    _, of_one = per_example.clipped_gradient(params, x[:1], y[:1].at[0].set(1e30), net, bound=1.0)
    assert np.isclose(optax.tree.norm(of_one), 1.0)
    assert_close(grads, jax.tree.map(lambda leaf, one: leaf * 6 / 7 + one / 7, others, of_one))


def test_a_norm_beyond_the_dtype_is_clipped_to_zero():
    net = Network(output=activations.identity)
    params, x, y = problem((3, 2), net)
    _, grads = per_example.clipped_gradient(params, x.at[0].set(1e30), y, net, bound=1.0)
    _, others = per_example.clipped_gradient(params, x[1:], y[1:], net, bound=1.0)
    assert_close(grads, jax.tree.map(lambda leaf: leaf * 6 / 7, others))


@pytest.mark.parametrize("bound", [0.01, (0.01,)], ids=["flat", "per layer"])
@pytest.mark.parametrize(
    ("feature", "bias", "passes"),
    [
        (1e19, -44.5, 0.01),  # δ² is below the dtype's range
        (1e30, -57.5, 0.0),  # so it is, and h² above it
        (1e20, -1000.0, 0.0),  # δ is 0, and h² above the range
    ],
)
def test_no_example_passes_the_bound(feature, bias, passes, bound):
    net = Network(output=activations.sigmoid, loss=losses.cross_entropy)
    params = (Layer(jnp.zeros((1, 1)), jnp.array([bias])),)
    x, y = jnp.array([[feature]]), jnp.zeros((1, 1))
    for gradient in (
        partial(per_example.clipped_gradient, bound=bound),
        partial(per_example.private_gradient, key=KEY, bound=bound, noise_multiplier=0.0),
    ):
        assert np.isclose(gradient(params, x, y, net)[1][0].weight, passes)


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("size", [2.0**-75, 2.0**75])
def test_gradients_whose_squares_are_beyond_the_dtype(size, l2):
    """A linear network scales with its weights and targets; only the lengths of what is scaled do, too."""
    net = Network(output=activations.identity, l2=l2)
    params, x, y = problem((3, 2), net)

    def found(size):
        args = (jax.tree.map(lambda leaf: leaf * size, params), x, y * size, net)
        _, clipped = per_example.clipped_gradient(*args, bound=size)
        ratios = per_example.cosine_to_mean(*args), per_example.signal_to_noise(*args), per_example.noise_scale(*args)
        return jax.tree.map(lambda length: length / size, (per_example.norms(*args), clipped)), ratios

    assert_close(found(size), found(1.0))


def test_second_moment_elsewhere_than_on_a_cpu(x64, monkeypatch):
    """There the inputs are not squared in blocks."""
    params, x, y = problem((40, 4, 2), NET, dtype="float64")
    expected = per_example.second_moment(params, x, y, NET)
    assert "scan" in str(jax.make_jaxpr(lambda *args: per_example.second_moment(*args, NET))(params, x, y))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert_close(per_example.second_moment(params, x, y, NET), expected)
    assert "scan" not in str(jax.make_jaxpr(lambda *args: per_example.second_moment(*args, NET))(params, x, y))


def test_weights_that_are_all_zero(x64):
    """The mean over no example is zero, and leaves the penalty, as in backprop."""
    params, x, y = problem((3, 4, 2), NET, dtype="float64")
    weights = jnp.zeros(7)
    plain = jaxnet.backprop(params, x, y, NET, weights)
    assert_close(per_example.clipped_gradient(params, x, y, NET, weights, bound=0.1), plain)
    assert_close(per_example.second_moment(params, x, y, NET, weights), jax.tree.map(jnp.square, plain[1]))
    private = per_example.private_gradient(params, x, y, NET, weights, key=KEY, bound=0.1, noise_multiplier=0.0)
    assert_close(private, plain)


def test_dead_units_have_no_signal():
    net = Network(activations.relu, activations.identity)
    params, x, y = problem((3, 4, 2), net)
    params = (params[0]._replace(bias=params[0].bias.at[1].set(-1e3)), params[1])
    ratio = per_example.signal_to_noise(params, x, y, net)
    assert (ratio[0].weight[1] == 0).all()
    assert all((leaf >= 0).all() for leaf in jax.tree.leaves(ratio))


def test_half_precision_squares_do_not_overflow():
    net = Network(output=activations.identity)
    params = (Layer(jnp.zeros((1, 2), jnp.float16), jnp.zeros(1, jnp.float16)),)
    x, y = jnp.ones((3, 2), jnp.float16), jnp.full((3, 1), 1000, jnp.float16)  # δ = −2000, δ² = 4e6
    assert per_example.norms(params, x, y, net) == pytest.approx(2000 * 3**0.5, rel=1e-3)
    _, grads = per_example.clipped_gradient(params, x, y, net, bound=3**0.5)
    assert grads[0].bias[0] == pytest.approx(-1, rel=1e-3)
    assert grads[0].bias.dtype == jnp.float16


# Under JAX's transformations


@pytest.mark.parametrize("name", QUANTITIES)
def test_jit_vmap_and_leading_axes(name, x64):
    quantity = QUANTITIES[name]
    params, x, y = problem((3, 4, 2), NET, n=6, dtype="float64")
    weights = jax.random.uniform(KEY, (6,))
    eager = quantity(params, x, y, NET, w=weights)
    assert_close(fast_jit(quantity)(params, x, y, NET, w=weights), eager)

    members = jax.vmap(lambda key: jaxnet.init(key, (3, 4, 2)))(jax.random.split(KEY, 3))
    mapped = fast_jit(jax.vmap(lambda params: quantity(params, x, y, NET, w=weights)))(members)
    second = jax.tree.map(lambda leaf: leaf[1], members)
    assert_close(jax.tree.map(lambda leaf: leaf[1], mapped), quantity(second, x, y, NET, w=weights))

    shaped = fast_jit(quantity)(params, x.reshape(2, 3, 3), y.reshape(2, 3, 2), NET, w=weights.reshape(2, 3))
    assert_close(jax.tree.map(lambda a, b: a.reshape(b.shape), shaped, eager), eager)


def test_single_examples_have_no_axis():
    params, x, y = problem((3, 4, 2))
    assert per_example.norms(params, x[0], y[0]).shape == ()
    assert per_example.dot_products(params, x[0], y[0], other=(x, y)).shape == (7,)
    assert_close(per_example.gradients(params, x[0], y[0]), jaxnet.backprop(params, x[0], y[0])[1])
    assert_close(per_example.clipped_gradient(params, x[0], y[0], bound=9.0), jaxnet.backprop(params, x[0], y[0]))


def test_bounds_may_be_mapped_over(x64):
    params, x, y = problem((3, 4, 2), dtype="float64")
    bounds = jnp.array([0.01, 0.1])
    _, mapped = jax.vmap(lambda bound: per_example.clipped_gradient(params, x, y, bound=bound))(bounds)
    _, one = per_example.clipped_gradient(params, x, y, bound=0.1)
    assert_close(jax.tree.map(lambda leaf: leaf[1], mapped), one)


def test_nothing_of_size_examples_times_parameters_is_formed():
    params, x, y = problem((60, 50, 2), n=8)
    for name, quantity in QUANTITIES.items():
        jaxpr = jax.make_jaxpr(partial(quantity, w=None))(params, x, y, Network())
        largest = max(int(np.prod(v.aval.shape)) for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "shape"))
        assert (largest >= 8 * 60 * 50) == (name == "gradients"), name


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="squares are taken in blocks on a CPU only")
@pytest.mark.parametrize(("sizes", "n"), [((784, 30, 10), 128), ((784, 100, 10), 256), ((784, 512, 512, 10), 128)])
def test_moments_and_clipping_take_the_memory_of_one_and_a_half_gradients(sizes, n):
    problem_of_these_sizes = jax.eval_shape(lambda: problem(sizes, n=n))

    def temporary(quantity):
        return jax.jit(quantity).lower(*problem_of_these_sizes).compile().memory_analysis().temp_size_in_bytes

    gradient = temporary(jaxnet.backprop)
    for name in ("clipped_gradient", "second_moment"):
        assert temporary(lambda *args, name=name: QUANTITIES[name](*args, Network(), w=None)) <= 1.5 * gradient, name


def test_clipping_is_differentiable_where_an_example_has_no_gradient(x64):
    params, x, y = problem((3, 4, 2), NET, dtype="float64")
    net = Network(activations.tanh, activations.identity)
    y = y.at[0].set(jaxnet.forward(params, x, net)[0])

    def size(gradient):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

    def by_hand(params, bound):
        return size(per_example.clipped_gradient(params, x, y, net, bound=bound)[1])

    def defined(params, bound):
        # The first example is not clipped, and its norm has no derivative.
        fitted, *others = Referee(params, x, y, net).rows
        return size((fitted + sum(row * jnp.minimum(1, bound / jnp.linalg.norm(row)) for row in others)) / len(x))

    for bound, finite in ((0.5, 0.5), (jnp.inf, 1e6)):
        assert_close(jax.grad(by_hand)(params, bound), jax.grad(defined)(params, finite), 1e-10)
    assert_close(jax.grad(by_hand, 1)(params, 0.5), jax.grad(defined, 1)(params, 0.5), 1e-10)


def test_no_bound_and_no_noise_is_the_gradient():
    params, x, y = problem((3, 4, 2), NET)
    _, grads = per_example.private_gradient(params, x, y, NET, key=KEY, bound=jnp.inf, noise_multiplier=0)
    assert_close(grads, jaxnet.backprop(params, x, y, NET)[1], 1e-5)
    with pytest.raises(ValueError, match="bound is infinite, and noise_multiplier 1.0: noise in proportion"):
        per_example.private_gradient(params, x, y, NET, key=KEY, bound=jnp.inf, noise_multiplier=1)
    with pytest.raises(ValueError, match="noise_multiplier is inf, expected a finite number"):
        per_example.private_gradient(params, x, y, NET, key=KEY, bound=1, noise_multiplier=jnp.inf)


# Private training


class TestPrivateGradient:
    """Clip, sum, noise: with its scale, its keys, and in training."""

    def test_without_noise_it_is_clipped_and_the_penalty_is_not(self, x64):
        params, x, y = problem((3, 4, 2), NET, dtype="float64")
        plain = Network(NET.hidden, NET.output, NET.loss)
        for bound in (0.3, (0.2, 0.1)):
            value, grads = per_example.private_gradient(params, x, y, NET, key=KEY, bound=bound, noise_multiplier=0)
            expected = Referee(params, x, y, plain).clipped(bound)
            expected = [Layer(g.weight + 0.1 * p.weight, g.bias) for g, p in zip(expected, params, strict=True)]
            assert_close(list(grads), expected)
            assert_close(value, jaxnet.cost(params, x, y, NET))

    @pytest.mark.parametrize(("bound", "norm"), [(0.5, 0.5), ((0.3, 0.4), 0.5)], ids=["flat", "per layer"])
    def test_scale_of_the_noise(self, bound, norm):
        """Over many keys: the standard deviation σ C / n in every entry, and no correlation between two."""
        params, x, y = problem((3, 4, 2))
        draw = jax.jit(jax.vmap(lambda key: per_example.private_gradient(
            params, x, y, key=key, bound=bound, noise_multiplier=1.4)[1]))  # fmt: skip
        draws = jnp.concatenate([leaf.reshape(20_000, -1) for leaf in jax.tree.leaves(
            draw(jax.random.split(KEY, 20_000)))], axis=1)  # fmt: skip
        _, mean = per_example.clipped_gradient(params, x, y, bound=bound)
        noise = (draws - jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(mean)])[None]) / (1.4 * norm / 7)
        covariance = noise.T @ noise / 20_000
        assert jnp.abs(covariance - jnp.eye(len(covariance))).max() < 0.06

    def test_noise_of_a_layer_that_takes_several_blocks(self):
        """Every entry gets noise of its own, once: rows of 1,000 are taken 65 at a time, and five are left over."""
        params, x, y = problem((1000, 200))
        draw = partial(per_example.private_gradient, params, x, y, key=KEY, bound=1.0)
        noise = (draw(noise_multiplier=7.0)[1][0].weight - draw(noise_multiplier=0.0)[1][0].weight).ravel()
        assert len(np.unique(noise)) > 0.9 * noise.size
        assert float(noise.std()) == pytest.approx(1, rel=0.01)
        assert float(noise.reshape(200, 1000).std(axis=1).max()) < 1.15

    def test_weights_are_absolute_and_at_most_one(self, x64):
        params, x, y = problem((3, 4, 2), n=4, dtype="float64")
        weights = jnp.array([1.0, 0.0, 0.5, 3.0])
        draw = fast_jit(partial(per_example.private_gradient, key=KEY, bound=0.1, noise_multiplier=0.0))
        draw = partial(draw, params, x, y)
        rows = Referee._clip(Referee(params, x, y).rows, 0.1)
        expected = jax.flatten_util.ravel_pytree(draw(weights=weights)[1])[0]
        assert_close(expected, jnp.array([1.0, 0.0, 0.5, 1.0]) @ rows / 4)
        halves = jnp.full(4, 0.5)
        assert_close(draw(weights=halves)[1], jax.tree.map(lambda leaf: leaf / 2, draw()[1]))
        assert_close(draw(weights=halves)[0], draw()[0])

    def test_microbatches_change_nothing(self, x64):
        params, x, y = problem((3, 4, 2), n=10, dtype="float64")

        @fast_jit
        def draws(*args):
            draw = partial(per_example.private_gradient, *args, key=KEY, bound=0.1, noise_multiplier=1.0)
            return [draw(microbatch=size) for size in (None, 1, 3, 5, 10, 11)]

        whole, *parts = draws(params, x, y)
        for part in parts:
            assert_close(part, whole)

    def test_training_draws_fresh_noise_every_step_and_again_from_the_key(self):
        params, *data = problem((3, 4, 2), n=10)
        gradient = partial(per_example.private_gradient, bound=0.1, noise_multiplier=1.0)
        options = {"optimizer": optax.sgd(0.1), "epochs": 3, "batch_size": 4, "gradient": gradient}
        first = jaxnet.train(KEY, params, tuple(data), **options)
        again = jaxnet.train(KEY, params, tuple(data), **options)
        other = jaxnet.train(jax.random.key(12), params, tuple(data), **options)
        assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(first)))
        assert not np.array_equal(other.params[0].weight, first.params[0].weight)

    def test_keys_of_steps_differ(self):
        seen = []

        def spy(params, x, y, net, *, key):
            jax.debug.callback(lambda bits: seen.append(tuple(bits.tolist())), jax.random.key_data(key), ordered=True)
            return jaxnet.backprop(params, x, y, net)

        params, *data = problem((3, 2), n=10)
        options = {"optimizer": optax.sgd(0.1), "batch_size": 4, "gradient": spy}
        jaxnet.train(KEY, params, tuple(data), epochs=5, validation=tuple(data), patience=5, **options)
        jax.effects_barrier()
        assert len(seen) == len(set(seen)) == 15
        orders = {tuple(jax.random.key_data(jax.random.fold_in(KEY, epoch)).tolist()) for epoch in range(5)}
        assert not orders & set(seen)

    def test_a_failed_step_is_found_with_its_own_noise(self):
        """The replay of a failed epoch draws what the epoch drew."""
        params, *data = problem((3, 2), n=10)

        def rare(params, x, y, net, *, key):
            value, grads = jaxnet.backprop(params, x, y, net)
            return jnp.where(jax.random.uniform(key) < 0.05, jnp.nan, value), grads

        with pytest.warns(RuntimeWarning, match="met a cost of nan"):
            result = jaxnet.train(
                KEY, params, tuple(data), optimizer=optax.sgd(0.1), epochs=100, batch_size=2, gradient=rare
            )
        assert result.not_finite is not None
        assert np.isnan(result.not_finite.cost)
        key, steps = jax.random.fold_in(KEY, 2**32 - 1), 0
        while True:
            key, drawn = jax.random.split(key)
            if jax.random.uniform(drawn) < 0.05:
                break
            steps += 1
        assert result.not_finite[:2] == (steps // 5, steps % 5)

    def test_it_learns(self):
        x, y = jaxnet.data.moons(KEY, 400)
        gradient = partial(per_example.private_gradient, bound=1.0, noise_multiplier=1.0, microbatch=50)
        params = jaxnet.init(KEY, (2, 8, 1))
        result = jaxnet.train(
            KEY, params, (x, y), optimizer=optax.sgd(2.0), epochs=60, batch_size=100, gradient=gradient
        )
        assert jaxnet.accuracy(result.params, x, y) > 0.8

    def test_step_needs_a_key(self):
        params, x, y = problem((3, 2))
        optimizer = optax.sgd(0.1)
        step = jaxnet.make_step(optimizer, gradient=partial(per_example.private_gradient, bound=1, noise_multiplier=1))
        with pytest.raises(TypeError, match=r"gradient takes a key, but state.key is None; give State\("):
            step(jaxnet.State(params, optimizer.init(params)), (x, y))
        state, _ = step(jaxnet.State(params, optimizer.init(params), KEY), (x, y))
        assert not (jax.random.key_data(state.key) == jax.random.key_data(KEY)).all()

    @pytest.mark.filterwarnings("default")  # another library's
    def test_accounting_as_documented(self):
        """The recipe of the docstring against the closed form for Gaussian noise (Balle & Wang 2018)."""
        accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed: the extra 'privacy'")
        normal = pytest.importorskip("scipy.stats").norm
        sigma, epochs, delta = 4.0, 20, 1e-5
        event = accounting.SelfComposedDpEvent(accounting.GaussianDpEvent(sigma), epochs)
        epsilon = accounting.pld.PLDAccountant().compose(event).get_epsilon(delta)
        mu = epochs**0.5 / sigma
        spent = normal.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * normal.cdf(-mu / 2 - epsilon / mu)
        assert spent == pytest.approx(delta, rel=1e-2)


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bound": 0}, ValueError, "bound is 0, expected a number > 0; jnp.inf clips nothing"),
        ({"bound": np.float32(-1)}, ValueError, "bound is -1.0, expected a number > 0"),
        ({"bound": (1.0, jnp.zeros(()))}, ValueError, r"bound\[1\] is 0.0, expected a number > 0"),
        ({"bound": float("nan")}, ValueError, "bound is nan, expected a number > 0"),
        ({"bound": (1.0,)}, ValueError, "bound has 1 numbers, expected one, or one for each of the 2 layers"),
        ({"bound": (1.0, -1.0)}, ValueError, r"bound\[1\] is -1.0, expected a number > 0"),
        ({"bound": "a"}, TypeError, "bound is a str"),
        ({"bound": jnp.ones(2)}, TypeError, "bound is an array .*expected one real number"),
        ({"bound": 1.0, "microbatch": 0}, ValueError, "microbatch is 0, expected an integer >= 1"),
        ({"bound": 1.0, "microbatch": 2.0}, TypeError, "microbatch is 2.0, expected an integer"),
        ({"bound": 1.0, "weights": jnp.ones(3)}, ValueError, r"weights has shape \(3,\)"),
        ({"bound": 1.0, "net": None}, TypeError, "net is a NoneType"),
    ],
)
def test_bad_clipping(options, error, message):
    params, x, y = problem((3, 4, 2))
    with pytest.raises(error, match=message):
        per_example.clipped_gradient(params, x, y, **options)
    with pytest.raises(error, match=message):
        per_example.private_gradient(params, x, y, **options, key=KEY, noise_multiplier=1.0)


def test_bad_noise_and_keys():
    params, x, y = problem((3, 4, 2))
    with pytest.raises(ValueError, match="noise_multiplier is -1, expected a number >= 0"):
        per_example.private_gradient(params, x, y, key=KEY, bound=1.0, noise_multiplier=-1)
    with pytest.raises(TypeError, match="key is a int, expected a typed key"):
        per_example.private_gradient(params, x, y, key=0, bound=1.0, noise_multiplier=1)


def test_one_example_has_no_spread():
    params, x, y = problem((3, 2), n=1)
    for quantity in (per_example.noise_scale, per_example.noise_and_signal):
        with pytest.raises(ValueError, match="x has 1 example, expected at least 2"):
            quantity(params, x, y)


def test_a_bad_second_set_is_named():
    params, x, y = problem((3, 2))
    for other, error, message in (
        ((x[:, :2], y), ValueError, "other: x has 2 features"),
        ((x, y, y), TypeError, r"other is a tuple of 3, expected a second set \(x, y\)"),
        (x, TypeError, "other is an array .*, expected a second set"),
    ):
        with pytest.raises(error, match=message):
            per_example.dot_products(params, x, y, other=other)


@pytest.mark.parametrize("name", QUANTITIES)
def test_bad_batches(name):
    params, x, y = problem((3, 2))
    with pytest.raises(ValueError, match="x has 2 features"):
        QUANTITIES[name](params, x[:, :2], y, Network(), w=None)


def test_a_norm_beyond_the_dtype_is_clipped_by_a_large_bound_too():
    x, y = jnp.full((2, 2), 1e30), jnp.zeros((2, 1))
    params, net = (Layer(jnp.ones((1, 2)), jnp.zeros(1)),), Network(output=activations.identity)
    _, grads = per_example.clipped_gradient(params, x * jnp.array([[1.0], [0.0]]), y, net, bound=1e20)
    assert_close(grads, jax.tree.map(jnp.zeros_like, grads))
