"""Optimizers that use curvature: what they reach, and what they do when a step fails."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, problem
from jax.flatten_util import ravel_pytree

import jaxnet
from jaxnet import Network, State, activations, curvature, losses, make_step
from jaxnet.optimizers import kfac, levenberg_marquardt

KEY = jax.random.key(0)
TANH = Network(activations.tanh, activations.identity)
LM = levenberg_marquardt()


def xor(dtype):
    return tuple(array.astype(dtype) for array in jaxnet.data.xor())


def regression(dtype):
    x = jax.random.normal(jax.random.key(5), (30, 3), dtype)
    return x, jnp.sin(x.sum(axis=1, keepdims=True))


class TestLevenbergMarquardt:
    @pytest.mark.parametrize("seed", range(4))
    def test_xor_to_rounding_in_tens_of_steps(self, seed, x64):
        params = jaxnet.init(jax.random.key(seed), (2, 4, 1), scheme="normal", dtype="float64")
        options = {"epochs": 50}
        ours = jaxnet.train(KEY, params, xor("float64"), optimizer=LM, **options).history["cost"]
        sgd = jaxnet.train(KEY, params, xor("float64"), optimizer=optax.sgd(4.0), **options).history["cost"]
        assert ours[-1] < 1e-12
        assert sgd[-1] > 1e-3

    def test_a_small_regression_to_rounding_in_ten_steps(self, x64):
        params = jaxnet.init(KEY, (3, 20, 1), scheme="normal", dtype="float64")
        data = regression("float64")
        ours = jaxnet.train(KEY, params, data, net=TANH, optimizer=LM, epochs=12).history["cost"]
        sgd = jaxnet.train(KEY, params, data, net=TANH, optimizer=optax.sgd(0.02), epochs=1000).history["cost"]
        assert ours[-1] < 1e-12 < 1e-4 < sgd[-1]

    def test_a_step_solves_the_damped_system(self, x64):
        net = Network(activations.tanh, l2=0.1)
        params, x, y = problem((3, 4, 2), net, dtype="float64")
        weights = jax.random.uniform(KEY, (7,))
        optimizer = levenberg_marquardt(damping=3.0)
        after, metrics = make_step(optimizer, net)(State(params, optimizer.init(params)), (x, y, weights))
        value, grads = jaxnet.backprop(params, x, y, net, weights)
        theta, unravel = ravel_pytree(params)
        ggn = jax.vmap(lambda e: ravel_pytree(curvature.ggn_vp(params, x, y, unravel(e), net, weights))[0])(
            jnp.eye(theta.size)
        )
        step = jnp.linalg.solve(ggn + 3 * value * jnp.eye(theta.size), -ravel_pytree(grads)[0])
        assert_close(ravel_pytree(after.params)[0], theta + step, 1e-9)
        assert metrics["cost"] == value

    def test_never_uphill_and_refused_steps_are_damped_more(self, x64):
        params, x, y = problem((3, 4, 2), dtype="float64", scale=3.0)
        optimizer = levenberg_marquardt(damping=1e-9)
        step = jax.jit(make_step(optimizer))
        state = State(params, optimizer.init(params))
        refused = 0
        for _ in range(30):
            after, metrics = step(state, (x, y))
            assert jaxnet.cost(after.params, x, y) <= metrics["cost"] * (1 + 1e-12)
            if jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), after.params, state.params)):
                refused += 1
                assert after.opt_state.damping == pytest.approx(4 * float(state.opt_state.damping))
            state = after
        assert refused

    def test_stays_finite_at_a_perfect_fit(self, dtype):
        params, x, _ = problem((3, 4, 2), dtype=dtype)
        y = jaxnet.forward(params, x)
        result = jaxnet.train(KEY, params, (x, y), optimizer=LM, epochs=300)
        assert result.not_finite is None
        assert jnp.isfinite(result.opt_state.damping)
        assert result.history["cost"][-1] == 0

    def test_few_iterations_still_descend(self, x64):
        params = jaxnet.init(KEY, (3, 20, 1), scheme="normal", dtype="float64")
        result = jaxnet.train(
            KEY, params, regression("float64"), net=TANH, optimizer=levenberg_marquardt(iterations=3), epochs=20
        )
        assert (np.diff(result.history["cost"]) <= 0).all()
        assert result.history["cost"][-1] < result.history["cost"][0] / 2


class TestKfac:
    def test_beats_sgd_by_epochs(self):
        net = Network(activations.tanh, activations.softmax, losses.softmax_cross_entropy, l2=1e-4)
        keys = jax.random.split(KEY, 3)
        teacher = jaxnet.init(keys[0], (8, 5, 3), scheme="normal")
        x = jax.random.normal(keys[1], (300, 8))
        y = jaxnet.data.one_hot(jnp.argmax(jaxnet.forward(teacher, x, net), axis=1), 3)
        params = jaxnet.init(keys[2], (8, 16, 3))
        options = {"net": net, "epochs": 10, "batch_size": 60}
        ours = jaxnet.train(KEY, params, (x, y), optimizer=kfac(), **options).history["cost"]
        plain = [
            jaxnet.train(KEY, params, (x, y), optimizer=optax.sgd(rate), **options).history["cost"][-1]
            for rate in (0.1, 0.5, 1.0)
        ]
        assert ours[-1] < 0.7 * min(plain)

    def test_is_newtons_step_where_the_factors_are_exact(self, x64):
        """One linear layer under squared error, hardly damped: one step to the minimum."""
        net = Network(output=activations.identity)
        params, x, y = problem((3, 2), net, n=20, dtype="float64")
        optimizer = kfac(damping=1e-14)
        state, _ = make_step(optimizer, net)(State(params, optimizer.init(params)), (x, y))
        solution, *_ = jnp.linalg.lstsq(jnp.column_stack([x, jnp.ones(20)]), y)
        assert_close(jaxnet.to_augmented(state.params)[0], solution.T, 1e-5)

    def test_factors_are_averaged_over_batches(self, x64):
        net = Network(activations.tanh)
        params, x, y = problem((3, 4, 2), net, n=12, dtype="float64")
        optimizer = kfac(decay=0.6)
        state, means = optimizer.init(params), None

        @jax.jit
        def step(state, batch):
            _, grads = jaxnet.backprop(params, *batch, net)
            return optimizer.update(grads, state, params, batch=batch, net=net)[1]

        for k, keep in enumerate([0, 1 / 2, 0.6, 0.6]):
            batch = x[3 * k : 3 * k + 3], y[3 * k : 3 * k + 3]
            state = step(state, batch)
            fresh = curvature.kfac(params, *batch, net)
            means = fresh if k == 0 else jax.tree.map(lambda a, b, q=keep: q * a + (1 - q) * b, means, fresh)
            assert_close(state.factors, means)
        assert state.steps == 4

    def test_no_gradient_and_no_weights_are_no_trouble(self, dtype):
        params, x, _ = problem((3, 4, 2), dtype=dtype)
        optimizer = kfac()
        step = jax.jit(make_step(optimizer))
        for batch in ((x, jaxnet.forward(params, x)), (x, jnp.zeros((7, 2), dtype), jnp.zeros(7, dtype))):
            state, _ = step(State(params, optimizer.init(params)), batch)
            assert_close(state.params, params)

    def test_chains_with_a_schedule(self, x64):
        params, x, y = problem((3, 4, 2), dtype="float64")
        moves = []
        for optimizer in (kfac(), optax.chain(kfac(), optax.scale(0.5))):
            state, _ = make_step(optimizer)(State(params, optimizer.init(params)), (x, y))
            moves.append(jax.tree.map(lambda a, b: a - b, state.params, params))
        assert_close(moves[1], jax.tree.map(lambda leaf: leaf / 2, moves[0]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: levenberg_marquardt(damping=0.0), ValueError, "damping is 0.0, expected a number > 0"),
        (lambda: levenberg_marquardt(iterations=0), ValueError, "iterations is 0"),
        (lambda: kfac(damping=-1.0), ValueError, "damping is -1.0"),
        (lambda: levenberg_marquardt(damping="1"), ValueError, "damping is '1', expected a number > 0"),
        (lambda: kfac(decay="a"), ValueError, "decay is 'a', expected a number"),
        (lambda: kfac(decay=1.0), ValueError, r"decay is 1.0, expected a number in \[0, 1\)"),
    ],
)
def test_options_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("optimizer", [levenberg_marquardt(), kfac()], ids=["levenberg_marquardt", "kfac"])
def test_an_update_without_a_batch_says_who_passes_it(optimizer):
    params, x, y = problem((3, 4, 2))
    _, grads = jaxnet.backprop(params, x, y)
    with pytest.raises(TypeError, match=r"got no batch, net.*jaxnet.make_step and jaxnet.train pass them"):
        optimizer.update(grads, optimizer.init(params), params)


@pytest.mark.parametrize("optimizer", [levenberg_marquardt(), kfac()], ids=["levenberg_marquardt", "kfac"])
def test_members_map_over_a_step(optimizer, x64):
    _, x, y = problem((3, 4, 2), dtype="float64")
    members = jax.vmap(lambda key: jaxnet.init(key, (3, 4, 2), dtype="float64"))(jax.random.split(KEY, 3))
    step = make_step(optimizer)

    def run(params):
        return step(State(params, optimizer.init(params)), (x, y))[0].params

    one = run(jax.tree.map(lambda leaf: leaf[1], members))
    assert_close(jax.tree.map(lambda leaf: leaf[1], jax.vmap(run)(members)), one, 1e-9)
