"""The adaptive batch: its steps, its estimates, and the size that follows from them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, problem

import jaxnet
from jaxnet import per_example
from jaxnet.optimizers import adaptive_batch

KEY = jax.random.key(5)
SHAPE = (3, 2)


def simulate(signal, noise, steps, *, largest=64, decay=0.99, seed=0):
    """The states after each small batch, for gradients of one constant mean and independent Gaussian noise."""
    optimizer = adaptive_batch(optax.sgd(0.0), largest=largest, decay=decay)
    params = {"w": jnp.zeros(SHAPE)}
    mean = jnp.full(SHAPE, (signal / 6) ** 0.5)

    def one(state, key):
        gradient = mean + (noise / 6) ** 0.5 * jax.random.normal(key, SHAPE)
        _, state = optimizer.update({"w": gradient}, state, params)
        return state, state

    return jax.lax.scan(one, optimizer.init(params), jax.random.split(jax.random.key(seed), steps))


@pytest.mark.promotes
def test_equals_steps_on_the_mean_of_small_batches(x64):
    """By hand: sizes from the estimates of the step before, and the optimizer's steps on the means."""
    optimizer = adaptive_batch(optax.adam(0.1), largest=5, decay=0.5)
    params, *_ = problem((3, 2), dtype="float64")
    state, plain = optimizer.init(params), optax.adam(0.1)
    expected, plain_state = params, plain.init(params)
    gathered, size, noise, signal = [], 2, 0.0, 0.0
    update = jax.jit(optimizer.update)
    for key in jax.random.split(KEY, 40):
        x, y = jax.random.normal(key, (4, 3)), jax.random.uniform(key, (4, 2))
        _, grads = jaxnet.backprop(params, x, y)
        changes, state = update(grads, state, params)
        params = optax.apply_updates(params, changes)
        gathered.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)]))
        if (k := len(gathered)) == size:
            mean = np.mean(gathered, axis=0)
            small, big = np.mean(np.sum(np.square(gathered), axis=1)), np.sum(mean**2)
            signal = 0.5 * signal + 0.5 * (k * big - 1 * small) / (k - 1)
            noise = 0.5 * noise + 0.5 * (small - big) / (1 / 1 - 1 / k)
            size = int(np.clip(np.ceil(noise / signal), 2, 5)) if signal > 0 else 5
            mean = jax.flatten_util.ravel_pytree(expected)[1](jnp.asarray(mean))
            changes, plain_state = plain.update(mean, plain_state)
            expected, gathered = optax.apply_updates(expected, changes), []
        assert_close(params, expected)
        assert state.size == size
        assert state.taken == len(gathered)
    assert_close(state.opt_state, plain_state)


@pytest.mark.parametrize("ratio", [4.5, 10.5])
def test_finds_the_noise_scale(ratio):
    state, _ = simulate(1.0, ratio, 20_000)
    assert float(state.signal) == pytest.approx(1, rel=0.25)
    assert float(state.noise / state.signal) == pytest.approx(ratio, rel=0.25)
    assert abs(int(state.size) - np.ceil(ratio)) <= 0.25 * ratio + 1


def test_estimates_are_unbiased():
    """The mean of many runs' first estimates, each from two small batches."""
    states, _ = jax.vmap(lambda seed: simulate(2.0, 3.0, 2, decay=0.0, seed=seed))(jnp.arange(20_000))
    assert float(states.signal.mean()) == pytest.approx(2.0, rel=0.05)
    assert float(states.noise.mean()) == pytest.approx(3.0, rel=0.05)


def test_without_noise_two_small_batches_are_enough():
    state, states = simulate(1.0, 0.0, 100)
    assert state.size == 2
    assert int((states.taken == 0).sum()) == 50


def test_without_signal_it_takes_the_largest():
    _, states = simulate(0.0, 1.0, 3000, largest=7)
    assert states.size.max() == 7
    assert states.size[1000:].mean() > 6


def test_agrees_with_the_estimate_from_single_examples():
    """Small batches of one example, all of them in one step: the same two numbers as per_example.noise_and_signal."""
    params, x, y = problem((3, 4, 2), n=12)
    optimizer = adaptive_batch(optax.sgd(0.0), largest=12, decay=0.0)
    state = optimizer.init(params)._replace(size=jnp.asarray(12, jnp.int32))
    step = jax.jit(jaxnet.make_step(optimizer))
    for i in range(12):
        (_, state, _), _ = step(jaxnet.State(params, state), (x[i], y[i]))
    assert_close((state.noise, state.signal), per_example.noise_and_signal(params, x, y), tolerance=1e-4)


def test_in_training():
    """Parameters change only at the last small batch of a step, and the size grows as the gradient vanishes."""
    x, y = jaxnet.data.moons(KEY, 512)
    params = jaxnet.init(KEY, (2, 8, 1))
    optimizer = adaptive_batch(optax.sgd(1.0), largest=32)
    first = jaxnet.train(KEY, params, (x, y), optimizer=optimizer, epochs=2, batch_size=16)
    last = jaxnet.train(KEY, params, (x, y), optimizer=optimizer, epochs=200, batch_size=16)
    assert last.history["cost"][-1] < 0.5 * last.history["cost"][0]
    assert last.opt_state.size > first.opt_state.size

    step, state = jax.jit(jaxnet.make_step(optimizer)), jaxnet.State(params, optimizer.init(params))
    once, _ = step(state, (x[:16], y[:16]))
    twice, _ = step(once, (x[16:32], y[16:32]))
    assert all(map(np.array_equal, jax.tree.leaves(once.params), jax.tree.leaves(params)))
    assert not np.array_equal(twice.params[0].weight, params[0].weight)
    assert_close(twice.params, jaxnet.sgd_step(params, x[:32], y[:32], 1.0)[0])


def test_the_wrapped_optimizer_sees_the_mean_gradient_and_the_cost():
    def update(updates, state, params=None, *, value, grad, **extra):
        return grad, value

    spy = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    params, x, y = problem((3, 2), n=8)
    optimizer = adaptive_batch(spy, largest=2)
    state = jaxnet.State(params, optimizer.init(params))
    step = jaxnet.make_step(optimizer)
    for rows in (slice(0, 4), slice(4, 8)):
        state, metrics = step(state, (x[rows], y[rows]))
    moved = jax.tree.map(jnp.subtract, state.params, params)
    assert_close(moved, jaxnet.backprop(params, x, y)[1], tolerance=1e-5)
    assert state.opt_state.opt_state == metrics["cost"]


@pytest.mark.promotes
def test_schedules_count_its_own_steps():
    optimizer = adaptive_batch(optax.sgd(optax.piecewise_constant_schedule(1.0, {1: 0.0})), largest=2)
    params = {"w": jnp.zeros(SHAPE)}
    state = optimizer.init(params)
    changes = []
    for _ in range(6):
        change, state = optimizer.update({"w": jnp.ones(SHAPE)}, state, params)
        changes.append(float(change["w"][0, 0]))
    assert changes == [0, -1, 0, 0, 0, 0]


def test_half_precision():
    optimizer = adaptive_batch(optax.sgd(1.0), largest=4)
    params = {"w": jnp.zeros(SHAPE, jnp.float16)}
    state = optimizer.init(params)
    for _ in range(2):  # squares beyond float16
        changes, state = optimizer.update({"w": jnp.full(SHAPE, 1000, jnp.float16)}, state, params)
    assert changes["w"].dtype == jnp.float16
    assert float(changes["w"][0, 0]) == -1000
    assert jnp.isfinite(state.signal)
    assert state.size == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": 0.5}, TypeError, "optimizer is a float, expected an optax optimizer"),
        ({"largest": 1}, ValueError, "largest is 1, expected an integer >= 2"),
        ({"largest": 2.5}, TypeError, "largest is 2.5, expected an integer"),
        ({"decay": 1.0}, ValueError, r"decay is 1.0, expected a number in \[0, 1\)"),
        ({"decay": "a"}, ValueError, "decay is 'a'"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        adaptive_batch(**{"optimizer": optax.sgd(1.0), "largest": 8} | options)
