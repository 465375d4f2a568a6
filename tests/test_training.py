"""The training loop against one written out in Python, and its promises."""

import dataclasses
import re
import sys
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, problem

import jaxnet
from jaxnet import Network, State, _loop, activations, losses
from jaxnet._loop import cut, first_call, next_call, shuffled

KEY = jax.random.key(7)
SGD = optax.sgd(0.5)


def by_the_book(key, params, data, *, net=Network(), optimizer, epochs, batch_size=None):
    """The loop as one would write it without compiling: the epoch costs, and the final state."""
    state, costs = State(params, optimizer.init(params)), []
    n = len(data[0])
    size = batch_size or n
    step = jax.jit(jaxnet.make_step(optimizer, net))
    for epoch in range(epochs):
        order = jnp.arange(n) if size == n else shuffled(jax.random.fold_in(key, epoch), n)
        total = weight = 0.0
        for start in range(0, n, size):
            batch = tuple(array[order[start : start + size]] for array in data)
            state, metrics = step(state, batch)
            share = float(batch[2].sum()) if len(batch) == 3 else len(batch[0])
            total, weight = total + share * float(metrics["cost"]), weight + share
        costs.append(total / weight)
    return state, costs


def assert_by_the_book(params, data, **options):
    """What `train` returns is what the loop written out does."""
    result = jaxnet.train(KEY, params, data, **options)
    state, costs = by_the_book(KEY, params, data, **options)
    assert_close(result.params, state.params)
    assert_close(result.opt_state, state.opt_state)
    assert_close(jnp.asarray(result.history["cost"]), jnp.array(costs))


@pytest.mark.parametrize("batch_size", [None, 1, 3, 4, 9, 10])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_equals_the_loop_written_out(batch_size, weighted, x64):
    net = Network(l2=0.01)
    params, *data = problem((3, 4, 2), net, n=10, dtype="float64")
    if weighted:
        data.append(jax.random.uniform(jax.random.key(3), (10,)))
    options = {"net": net, "optimizer": optax.sgd(0.5, momentum=0.9), "epochs": 5, "batch_size": batch_size}
    assert_by_the_book(params, tuple(data), **options)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 4])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_products_as_sums_equal_the_loop_written_out(batch_size, weighted, x64, monkeypatch):
    if jax.default_backend() == "cpu":
        monkeypatch.setattr(_loop, "_run_kernels", None)
    net = Network(activations.tanh, activations.softmax, losses.softmax_cross_entropy, l2=0.01)
    params, *data = problem((83, 6, 3), net, n=10, dtype="float64", scale=0.1)
    if weighted:
        data.append(jax.random.uniform(jax.random.key(3), (10,)))
    options = {"net": net, "optimizer": optax.sgd(0.1, momentum=0.9), "epochs": 3, "batch_size": batch_size}
    assert_by_the_book(params, tuple(data), **options)


@pytest.mark.promotes
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="loops are one function on a CPU only")
@pytest.mark.parametrize(
    ("sizes", "optimizer", "batch_size"),
    [
        ((83, 6, 3), optax.contrib.muon(0.1), 4),
        ((70, 64, 3), optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)), 2),
        ((70, 64, 3), optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)), 1),
    ],
    ids=["products", "a long sum", "a long sum, single examples"],
)
def test_what_cannot_be_one_function_is_found_out_once(sizes, optimizer, batch_size, x64, monkeypatch):
    """An optimizer that holds products, or long sums: kernels are compiled for it, as for any other."""
    tried = []
    run = _loop._run_one_function
    monkeypatch.setattr(_loop, "_run_one_function", lambda *args: tried.append(args[0]) or run(*args))
    params, *data = problem(sizes, n=10, dtype="float64", scale=0.1)
    options = {"optimizer": optimizer, "epochs": 3, "batch_size": batch_size}
    results = [jaxnet.train(KEY, params, tuple(data), **options) for _ in range(2)]
    state, costs = by_the_book(KEY, params, tuple(data), **options)
    for result in results:
        assert_close(result.params, state.params, tolerance=1e-9)
        assert_close(jnp.asarray(result.history["cost"]), jnp.array(costs), tolerance=1e-9)
    assert len(tried) == 1


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="loops are one function on a CPU only")
def test_what_one_network_cannot_be_another_can(x64, monkeypatch):
    """Sums are long, or not, by the network's size; what came before must not matter."""
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))
    options = {"optimizer": optimizer, "epochs": 2, "batch_size": 2}
    for sizes in ((70, 64, 3), (70, 16, 3)):
        params, *data = problem(sizes, n=10, dtype="float64", scale=0.1)
        jaxnet.train(KEY, params, tuple(data), **options)
        monkeypatch.setattr(_loop, "_run_kernels", None)


def test_an_epoch_takes_every_example_once(x64):
    """With a cost that is linear in the weights, an epoch's updates add up to the sum of its examples."""
    x = jnp.arange(1.0, 24.0)[:, None] ** 2
    y = jnp.zeros((23, 1))

    def linear(params, x, y, net):
        return jnp.mean(x), jax.tree.map(lambda p: jnp.broadcast_to(jnp.sum(x), p.shape), params)

    start = jaxnet.init(KEY, (1, 1), scheme="zeros")
    orders = []
    for batch_size in (1, 4, 5, 23):
        result = jaxnet.train(
            KEY, start, (x, y), optimizer=optax.sgd(1.0), epochs=1, batch_size=batch_size, gradient=linear
        )
        assert result.params[0].weight[0, 0] == -x.sum()
        assert result.history["cost"][0] == pytest.approx(float(x.mean()), rel=1e-12)
        orders.append(result.history["cost"][0])


@pytest.mark.parametrize(
    ("n", "batch_size", "features"), [(50_000, 10, 784), (50_000, 100, 784), (7, 2, 3), (8, 2, 3), (1001, 10, 5000)]
)
def test_an_epoch_is_cut_into_all_its_steps(n, batch_size, features):
    parts = cut(n, batch_size, features)
    assert sum(blocks * steps * size for blocks, steps, size in parts) == n
    assert [size for *_, size in parts if size != batch_size] == ([n % batch_size] if n % batch_size else [])


def test_order_is_fresh_every_epoch():
    seen = []

    def spy(params, x, y, net):
        jax.debug.callback(lambda v: seen.append(v.ravel().tolist()), x, ordered=True)
        return jaxnet.backprop(params, x, y, net)

    x = jnp.arange(8.0)[:, None]
    params = jaxnet.init(KEY, (1, 1))
    jaxnet.train(KEY, params, (x, x), optimizer=optax.sgd(0.0), epochs=3, batch_size=8 // 2, gradient=spy)
    jax.effects_barrier()
    epochs = [tuple(seen[2 * i] + seen[2 * i + 1]) for i in range(3)]
    assert len(set(epochs)) == 3
    assert all(sorted(epoch) == x.ravel().tolist() for epoch in epochs)


def test_gradient_functions_are_interchangeable(x64):
    params, *data = problem((3, 4, 2), n=10, dtype="float64")
    by_hand, automatic = (
        jaxnet.train(KEY, params, tuple(data), optimizer=SGD, epochs=20, batch_size=4, gradient=gradient)
        for gradient in (jaxnet.backprop, jaxnet.autodiff)
    )
    assert_close(by_hand.params, automatic.params)


@pytest.mark.promotes
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.05),
        optax.sgd(optax.cosine_decay_schedule(2.0, 600), momentum=0.9, nesterov=True),
        optax.rmsprop(0.02),
        optax.lbfgs(),
        optax.polyak_sgd(1.0),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(2.0)),
        optax.chain(optax.sgd(2.0), optax.contrib.reduce_on_plateau(patience=50)),
        optax.inject_hyperparams(optax.sgd)(learning_rate=2.0),
    ],
    ids=["adam", "schedule", "rmsprop", "lbfgs", "polyak", "clip", "plateau", "inject"],
)
def test_any_optax_optimizer(optimizer):
    params = jaxnet.init(jax.random.key(0), (2, 4, 1), scheme="normal")
    result = jaxnet.train(KEY, params, jaxnet.data.xor(), optimizer=optimizer, epochs=600)
    assert result.history["cost"][-1] < 0.5 * result.history["cost"][0]
    assert result.not_finite is None


def test_trains_xor():
    params = jaxnet.init(jax.random.key(0), (2, 2, 1), scheme="normal")
    result = jaxnet.train(KEY, params, jaxnet.data.xor(), optimizer=optax.sgd(4.0), epochs=5000)
    assert result.history["cost"].shape == (5000,)
    assert result.history["cost"][-1] < 1e-3
    assert jaxnet.accuracy(result.params, *jaxnet.data.xor()) == 1


# What is kept, measured and shown


def test_the_callers_parameters_survive():
    params, *data = problem((3, 4, 2))
    before = jax.tree.map(np.array, params)
    jaxnet.train(KEY, params, tuple(data), optimizer=SGD, epochs=3, batch_size=2)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(before), strict=True):
        assert (a == b).all()


@pytest.mark.optimized
def test_the_same_key_gives_the_same_bits():
    params, *data = problem((3, 4, 2), n=10)
    options = {"optimizer": optax.adam(0.01), "epochs": 40, "batch_size": 3}
    with jax.numpy_dtype_promotion("standard"):
        first = jaxnet.train(KEY, params, tuple(data), **options)
        again = jaxnet.train(KEY, params, tuple(data), **options)
        shown = jaxnet.train(KEY, params, tuple(data), **options, progress=True)
        other = jaxnet.train(jax.random.key(8), params, tuple(data), **options)
    for twin in (again, shown):
        assert all(map(np.array_equal, jax.tree.leaves(twin), jax.tree.leaves(first)))
    assert not np.array_equal(other.params[0].weight, first.params[0].weight)


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("sizes", [(2, 3, 1), (83, 6, 3)], ids=str)
def test_data_on_a_mesh_of_one_device(sizes, batch_size):
    mesh = jax.make_mesh((1,), ("examples",), (jax.sharding.AxisType.Explicit,))
    params, *data = problem(sizes, n=8, scale=0.1)
    there = jax.device_put(data, jax.NamedSharding(mesh, jax.P("examples")))
    options = {"optimizer": SGD, "epochs": 2, "batch_size": batch_size}
    found, expected = (jaxnet.train(KEY, params, tuple(given), **options) for given in (there, data))
    assert_close(found.params, expected.params, tolerance=1e-5)
    np.testing.assert_allclose(found.history["cost"], expected.history["cost"], rtol=1e-5)


@pytest.mark.optimized
def test_length_of_a_call_does_not_matter(monkeypatch):
    params, *data = problem((3, 4, 2), n=10)
    options = {"optimizer": optax.sgd(0.1, momentum=0.9), "epochs": 50, "batch_size": 3}
    whole = jaxnet.train(KEY, params, tuple(data), **options)
    clock = iter(range(10**6))  # every call seems to take a second, so each runs one epoch
    monkeypatch.setattr(jaxnet.training.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(jaxnet.training, "first_call", lambda *_: 1)
    parts = jaxnet.train(KEY, params, tuple(data), **options)
    assert all(map(np.array_equal, jax.tree.leaves(parts), jax.tree.leaves(whole)))


def test_metrics_and_validation(x64):
    net = Network(activations.tanh, activations.softmax, losses.softmax_cross_entropy, l2=0.01)
    params, *data = problem((3, 4, 2), net, n=12, dtype="float64")
    _, *validation = problem((3, 4, 2), net, n=5, dtype="float64", seed=2)

    def largest_weight(params, x, y, net):
        return jnp.max(jnp.abs(params[0].weight))

    result = jaxnet.train(
        KEY,
        params,
        tuple(data),
        net=net,
        optimizer=SGD,
        epochs=6,
        batch_size=5,
        validation=tuple(validation),
        metrics={"accuracy": jaxnet.accuracy, "largest": largest_weight},
    )
    history = result.history
    assert set(history) == {
        "cost", "accuracy", "largest", "validation_cost", "validation_accuracy", "validation_largest",
    }  # fmt: skip
    assert all(len(values) == 6 for values in history.values())
    assert history["validation_cost"][-1] == pytest.approx(float(jaxnet.cost(result.params, *validation, net)))
    assert history["accuracy"][-1] == float(jaxnet.accuracy(result.params, *data, net))
    assert history["validation_accuracy"][-1] == float(jaxnet.accuracy(result.params, *validation, net))
    assert history["largest"][-1] == float(jnp.abs(result.params[0].weight).max())
    assert result.best_epoch is None


def test_validation_data_may_be_weighted(x64):
    params, *data = problem((3, 4, 2), n=5, dtype="float64")
    weights = jnp.array([1.0, 0.0, 3.0, 0.0, 0.5])
    result = jaxnet.train(KEY, params, tuple(data), optimizer=SGD, epochs=1, validation=(*data, weights))
    expected = jaxnet.cost(result.params, *data, weights=weights)
    assert result.history["validation_cost"][0] == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.optimized
def test_early_stopping_keeps_the_best_parameters():
    """A validation set that wants the opposite of the training set: the cost rises from the second epoch on."""
    x, y = jaxnet.data.xor()
    params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="normal")
    options = {"optimizer": SGD, "validation": (x, 1 - y)}
    result = jaxnet.train(KEY, params, (x, y), epochs=500, patience=5, **options)
    costs = result.history["validation_cost"]
    assert result.best_epoch == int(np.argmin(costs))
    assert len(costs) == result.best_epoch + 6
    assert float(jaxnet.cost(result.params, x, 1 - y)) == pytest.approx(float(costs.min()), rel=1e-6)
    shorter = jaxnet.train(KEY, params, (x, y), epochs=result.best_epoch + 1, **options)
    assert all(map(np.array_equal, jax.tree.leaves(shorter[:2]), jax.tree.leaves(result[:2])))


@pytest.mark.optimized
def test_patience_that_is_never_used_up_still_keeps_the_best():
    x, y = jaxnet.data.xor()
    params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="normal")
    result = jaxnet.train(KEY, params, (x, y), optimizer=SGD, epochs=20, validation=(x, 1 - y), patience=100)
    assert len(result.history["cost"]) == 20
    assert float(jaxnet.cost(result.params, x, 1 - y)) == pytest.approx(float(result.history["validation_cost"].min()))


def test_no_epochs_at_all():
    params, *data = problem((3, 4, 2))
    result = jaxnet.train(KEY, params, tuple(data), optimizer=SGD, epochs=0)
    assert result.history["cost"].shape == (0,)
    assert all(map(np.array_equal, jax.tree.leaves(result.params), jax.tree.leaves(params)))


def test_accuracy():
    sigmoid = jaxnet.init(KEY, (2, 1), scheme="zeros")
    x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])
    y = jnp.array([[1.0], [0.0], [0.0]])
    pointing = (sigmoid[0]._replace(weight=jnp.array([[1.0, 0.0]])),)
    logits = Network(output=activations.identity, loss=losses.cross_entropy)
    for net in (Network(), logits):
        assert float(jaxnet.accuracy(pointing, x, y, net)) == pytest.approx(2 / 3)
    assert float(jaxnet.accuracy(pointing, x / 3, y, Network(output=activations.identity))) == pytest.approx(1 / 3)
    two = (jaxnet.Layer(jnp.eye(2), jnp.zeros(2)),)
    assert float(jaxnet.accuracy(two, x, jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))) == pytest.approx(2 / 3)


@pytest.mark.parametrize("outputs", [1, 2])
def test_an_output_that_is_nan_is_not_right(outputs):
    params = jaxnet.init(KEY, (2, outputs))
    x, y = jnp.array([[jnp.nan, 0.0], [0.0, 0.0]]), jnp.zeros((2, outputs))
    y = y.at[1].set(jnp.round(jaxnet.forward(params, x)[1]))
    assert jaxnet.accuracy(params, x, y) == 0.5


# Compiled once


def test_nothing_is_traced_twice(monkeypatch):
    monkeypatch.setattr(jaxnet.training, "first_call", lambda *_: 1)
    params, *data = problem((3, 4, 2), n=10)
    gradient = chex.assert_max_traces(jaxnet.backprop, n=2)  # full steps, and the short one
    for key, epochs, l2 in ((KEY, 3, 0.1), (jax.random.key(1), 400, 0.2), (KEY, 1, 0.3)):
        jaxnet.train(
            key,
            params,
            tuple(data),
            net=Network(l2=l2),
            optimizer=SGD,
            epochs=epochs,
            batch_size=4,
            gradient=gradient,
        )


def test_short_epochs_share_a_call(monkeypatch):
    calls = []
    run = jaxnet.training.run
    monkeypatch.setattr(jaxnet.training, "run", lambda *args: calls.append(args[-1]) or run(*args))
    params = jaxnet.init(jax.random.key(0), (2, 2, 1))
    for _ in range(2):
        jaxnet.train(KEY, params, jaxnet.data.xor(), optimizer=SGD, epochs=20_000)
    assert len(calls) < 40


@pytest.mark.parametrize(("steps", "work", "epochs"), [(1, 36, 16), (1000, 1797 * 2410, 2), (5000, 50_000 * 23_860, 1)])
def test_how_many_epochs_the_first_call_runs(steps, work, epochs):
    """XOR in 2-2-1, the digits in 64-32-10, and MNIST in 784-30-10."""
    assert first_call(steps, work) == epochs


@pytest.mark.parametrize(
    ("epochs", "seconds", "following"), [(16, 0.001, 1024), (16, 0.1, 32), (16, 10.0, 1), (1, 0.05, 4)]
)
def test_how_many_epochs_the_next_call_runs(epochs, seconds, following):
    assert next_call(epochs, seconds) == following


# Costs that are not finite


def test_divergence_stops_with_the_last_finite_parameters(x64):
    """A linear network whose steps overshoot: found at the same step as by hand, and returned from before it."""
    net = Network(output=activations.identity)
    params, *data = problem((3, 2), net, n=10, dtype="float64")
    options = {"net": net, "optimizer": optax.sgd(1e30, momentum=0.5), "batch_size": 4}
    with pytest.warns(
        RuntimeWarning, match=r"epoch \d+, step \d+ \(counted from 0\) .*smaller learning rate"
    ) as caught:
        result = jaxnet.train(KEY, params, tuple(data), epochs=30, **options)
    assert caught[0].filename == __file__
    where = result.not_finite
    assert where is not None
    assert len(result.history["cost"]) == where.epoch
    assert np.isfinite(result.history["cost"]).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))

    state, _ = by_the_book(KEY, params, tuple(data), epochs=where.epoch, **options)
    step = jaxnet.make_step(options["optimizer"], net)
    order = shuffled(jax.random.fold_in(KEY, where.epoch), 10)
    for i in range(3):
        after, metrics = step(state, tuple(array[order[4 * i : 4 * i + 4]] for array in data))
        good = jnp.isfinite(metrics["cost"]) & all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
        if not good:
            break
        state = after
    assert i == where.step
    assert_close(result.params, state.params)
    assert_close(result.opt_state, state.opt_state)


@pytest.mark.parametrize(("bad", "batch_size"), [(0, None), (0, 1), (5, 2), (9, 3), (9, 4)])
def test_data_that_is_not_finite_is_named(bad, batch_size):
    params, x, y = problem((3, 4, 2), n=10)
    x = x.at[bad, 1].set(jnp.nan)
    with pytest.warns(RuntimeWarning, match=f"met a cost of nan.*x holds values .*first in example {bad}"):
        result = jaxnet.train(KEY, params, (x, y), optimizer=SGD, epochs=3, batch_size=batch_size)
    size = batch_size or 10
    order = np.arange(10) if size == 10 else np.asarray(shuffled(jax.random.fold_in(KEY, 0), 10))
    assert result.not_finite[:2] == (0, np.flatnonzero(order == bad)[0] // size)
    assert result.history["cost"].shape == (0,)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))


def test_a_step_that_makes_parameters_infinite():
    params, x, y = problem((3, 2), n=10)
    with pytest.warns(RuntimeWarning, match="epoch 0, step 0 .* made parameters that are not finite"):
        result = jaxnet.train(KEY, params, (x, y), optimizer=optax.sgd(1e38), epochs=3, gradient=lambda *args: (
            jaxnet.cost(*args), jax.tree.map(lambda p: jnp.full_like(p, 1e5), args[0])))  # fmt: skip
    assert all(map(np.array_equal, jax.tree.leaves(result.params), jax.tree.leaves(params)))


# A step by itself


def test_step_is_a_scan_body(x64):
    params, x, y = problem((3, 4, 2), n=12, dtype="float64")
    step = jaxnet.make_step(SGD)
    state, metrics = jax.lax.scan(step, State(params, SGD.init(params)), (x.reshape(3, 4, 3), y.reshape(3, 4, 2)))
    assert metrics["cost"].shape == (3,)
    expected = params
    for i in range(3):
        expected, _ = jaxnet.sgd_step(expected, x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4], 0.5)
    assert_close(state.params, expected)


def test_sgd_step_under_jit_and_vmap(dtype):
    params, x, y = problem((3, 4, 2), dtype=dtype)
    value, grads = jaxnet.backprop(params, x, y)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), value
    assert_close(jaxnet.sgd_step(params, x, y, 0.5), expected)
    assert_close(jax.jit(jaxnet.sgd_step)(params, x, y, 0.5), expected)
    rates = jnp.array([0.1, 0.5], dtype)
    mapped = jax.vmap(lambda rate: jaxnet.sgd_step(params, x, y, rate))(rates)
    assert_close(jax.tree.map(lambda leaf: leaf[1], mapped), expected)


# Progress


def test_progress_bar_says_where_it_is(capsys):
    params = jaxnet.init(jax.random.key(0), (2, 2, 1))
    jaxnet.train(KEY, params, jaxnet.data.xor(), optimizer=SGD, epochs=30, progress=True)
    assert re.search(r"30/30.*cost 0\.2", capsys.readouterr().out)


def test_progress_without_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    params = jaxnet.init(jax.random.key(0), (2, 2, 1))
    with pytest.raises(ImportError, match="progress=True needs rich: pip install rich"):
        jaxnet.train(KEY, params, jaxnet.data.xor(), optimizer=SGD, epochs=1, progress=True)


# Bad input


@dataclasses.dataclass
class Unhashable:
    """An optimizer, and a gradient, whose class defines equality and no hash."""

    init: Callable
    update: Callable

    def __call__(self, *args):
        return jaxnet.backprop(*args)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key": 0}, TypeError, "key is a int, expected a typed key"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "key is an array of uint32.*wrap_key_data"),
        ({"params": [1.0]}, TypeError, r"data: params\[0\] is a float, expected a jaxnet.Layer"),
        ({"data": jnp.ones((4, 2))}, TypeError, "data is an array of float32 .*expected a tuple"),
        ({"data": (jnp.ones((4, 2)),)}, TypeError, "data is a tuple of 1, expected a tuple"),
        ({"data": (jnp.ones((4, 3)), jnp.ones((4, 1)))}, ValueError, "data: x has 3 features"),
        ({"data": (jnp.ones((4, 2)), jnp.ones(4))}, ValueError, r"data: y has shape \(4,\)"),
        ({"data": (jnp.ones((0, 2)), jnp.ones((0, 1)))}, ValueError, "data: x has shape .*no examples"),
        ({"data": (jnp.ones(2), jnp.ones(1))}, ValueError, r"data: x has shape \(2,\), expected \(n, inputs\)"),
        ({"validation": (jnp.ones((4, 2)), jnp.ones((3, 1)))}, ValueError, "validation: y has shape"),
        ({"epochs": -1}, ValueError, "epochs is -1, expected an integer >= 0"),
        ({"epochs": 2.0}, TypeError, "epochs is 2.0, expected an integer"),
        ({"batch_size": 5}, ValueError, "batch_size is 5, but the data has 4 examples; None takes them all"),
        ({"batch_size": 0}, ValueError, "batch_size is 0, expected an integer >= 1"),
        ({"batch_size": True}, TypeError, "batch_size is True"),
        ({"patience": 3}, ValueError, "patience is 3, but there is no validation data"),
        ({"patience": 0, "validation": jaxnet.data.xor()}, ValueError, "patience is 0, expected an integer >= 1"),
        ({"optimizer": 0.5}, TypeError, r"optimizer is a float, expected an optax optimizer such as optax.sgd\(0.5\)"),
        ({"gradient": "backprop"}, TypeError, "gradient is a str, expected a function such as jaxnet.backprop"),
        ({"optimizer": Unhashable(*SGD)}, TypeError, "optimizer is a Unhashable that cannot be hashed"),
        ({"gradient": Unhashable(*SGD)}, TypeError, "gradient is a Unhashable that cannot be hashed"),
        ({"net": "sigmoid"}, TypeError, "net is a str, expected a jaxnet.Network"),
        ({"metrics": {"cost": jaxnet.accuracy}}, ValueError, "metrics has the name 'cost', which the history uses"),
        ({"metrics": {"a": lambda p, x, y, net: x}}, ValueError, r"metrics\['a'\] returns .*expected a scalar"),
        ({"metrics": {"validation_a": jaxnet.accuracy}}, ValueError, "metrics has the name 'validation_a'"),
        ({"metrics": {1: jaxnet.accuracy}}, TypeError, "metrics has the name 1, expected a str"),
        ({"metrics": [jaxnet.accuracy]}, TypeError, "metrics is a list, expected functions by name"),
        ({"data": (jaxnet.data.xor(), jaxnet.data.xor())}, TypeError, "data is a tuple of 2, expected a tuple"),
        ({"data": (*jaxnet.data.xor(), -jnp.ones(4))}, ValueError, "data: weights are negative, or all zero"),
        ({"data": (*jaxnet.data.xor(), jnp.zeros(4))}, ValueError, "data: weights are negative, or all zero"),
        ({"validation": (jnp.full((4, 2), jnp.nan), jnp.ones((4, 1)))}, ValueError, "validation: x holds values"),
        ({"net": Network(l2=jnp.asarray(-1.0))}, ValueError, "net.l2 is -1.0, expected a number >= 0"),
        ({"net": Network(l2=jnp.ones(2))}, TypeError, "net.l2 is an array .*expected one real number"),
        ({"gradient": lambda *_: 0.0}, ValueError, r"gradient returns values of shape \(\), expected \(cost, grads\)"),
        ({"gradient": lambda p, *_: (jnp.ones(2), p)}, ValueError, "gradient returns values of shape"),
        ({"gradient": lambda p, *_: (jnp.ones(()), p[:1])}, ValueError, "gradient returns values of shape"),
        ({"metrics": {"a": 3}}, TypeError, r"metrics\['a'\] is a int, expected a function"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {
        "key": KEY,
        "params": jaxnet.init(KEY, (2, 3, 1)),
        "data": jaxnet.data.xor(),
        "optimizer": SGD,
        "epochs": 1,
    } | change
    key, params, data = (arguments.pop(name) for name in ("key", "params", "data"))
    with pytest.raises(error, match=message):
        jaxnet.train(key, params, data, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": 0.5}, "optimizer is a float, expected an optax optimizer"),
        ({"net": "sigmoid"}, "net is a str, expected a jaxnet.Network"),
        ({"gradient": "backprop"}, "gradient is a str, expected a function such as jaxnet.backprop"),
        ({"state": jaxnet.init(KEY, (2, 3, 3, 1))}, r"state is a tuple, expected jaxnet.State\(params, opt_state\)"),
        ({"batch": jaxnet.data.xor()[0]}, r"batch is an array of float32 with shape \(4, 2\), expected a tuple \(x, y"),
        ({"batch": jaxnet.data.xor()[:1]}, r"batch is a tuple of 1, expected a tuple \(x, y\) or \(x, y, weights\)"),
    ],
)
def test_bad_arguments_of_steps(change, message):
    params = jaxnet.init(KEY, (2, 3, 1))
    arguments = {"optimizer": SGD, "state": jaxnet.State(params, SGD.init(params)), "batch": jaxnet.data.xor()} | change
    state, batch = (arguments.pop(name) for name in ("state", "batch"))
    with pytest.raises(TypeError, match=message):
        jaxnet.make_step(**arguments)(state, batch)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"opt_state": None}, "state.opt_state is a NoneType that this optimizer does not make of these parameters"),
        ({"opt_state": optax.adam(0.1).init(jaxnet.init(KEY, (2, 4, 1)))}, r"start from .*optimizer.init\(params\)"),
        ({"key": 3}, "state.key is a int, expected a typed key"),
    ],
)
def test_bad_parts_of_a_state(state, message):
    def gradient(params, x, y, net, key):
        return jaxnet.backprop(params, x, y, net)

    params, optimizer = jaxnet.init(KEY, (2, 3, 1)), optax.sgd(0.1, momentum=0.9)
    right = jaxnet.State(params, optimizer.init(params), KEY)
    step = jaxnet.make_step(optimizer, gradient=gradient)
    step(right, jaxnet.data.xor())
    with pytest.raises(TypeError, match=message):
        step(right._replace(**state), jaxnet.data.xor())


def test_an_optimizer_is_given_what_it_takes():
    """Not more: the updates of some have no further arguments, such as that of ``optax.contrib.sam``."""
    taken = []

    def update(grads, state, params, *, value):
        taken.append(value)
        return SGD.update(grads, state, params)

    params = jaxnet.init(KEY, (2, 3, 1))
    step = jaxnet.make_step(optax.GradientTransformationExtraArgs(SGD.init, update))
    _, metrics = step(jaxnet.State(params, SGD.init(params)), jaxnet.data.xor())
    assert taken[0] is metrics["cost"]


def test_errors_of_an_optimizer_pass_through_a_step():
    def update(grads, state, params):
        raise ValueError("mine")

    params = jaxnet.init(KEY, (2, 3, 1))
    step = jaxnet.make_step(optax.GradientTransformation(SGD.init, update))
    with pytest.raises(ValueError, match="mine"):
        step(jaxnet.State(params, SGD.init(params)), jaxnet.data.xor())


def test_train_cannot_be_compiled():
    params, x, y = problem((3, 2))
    with pytest.raises(TypeError, match="train drives a compiled loop from Python"):
        jax.jit(lambda x: jaxnet.train(KEY, params, (x, y), optimizer=SGD, epochs=1).params)(x)


@pytest.mark.parametrize(
    "traced",
    [
        lambda run: jax.jit(lambda: run(KEY, SGD))(),
        lambda run: jax.vmap(lambda key: run(key, SGD))(jax.random.split(KEY, 2)),
        lambda run: jax.vmap(lambda rate: run(KEY, optax.sgd(rate)))(jnp.ones(2)),
        lambda run: jax.grad(lambda rate: run(KEY, optax.sgd(rate))[0].bias[0])(0.1),
    ],
    ids=["nothing is given", "key", "step size", "step size in grad"],
)
@pytest.mark.parametrize("batch_size", [None, 1, 2])
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_train_cannot_be_traced_whatever_is(traced, batch_size):
    params, x, y = problem((3, 2))
    options = {"epochs": 1, "batch_size": batch_size}
    with pytest.raises(TypeError, match="train drives a compiled loop from Python"):
        traced(lambda key, optimizer: jaxnet.train(key, params, (x, y), optimizer=optimizer, **options).params)


@pytest.mark.parametrize("transformation", [jax.grad, lambda f: lambda scale: jax.vmap(f)(jnp.full(2, scale))])
def test_train_cannot_hold_a_traced_metric(transformation):
    params, x, y = problem((3, 2))

    def last(scale):
        metrics = {"scaled": lambda params, x, y, net: scale * jnp.sum(params[0].bias)}
        return jaxnet.train(KEY, params, (x, y), optimizer=SGD, epochs=1, metrics=metrics).history["scaled"][-1]

    with pytest.raises(TypeError, match="train drives a compiled loop from Python"):
        transformation(last)(2.0)


def test_a_gradient_function_may_return_a_python_number():
    params, x, y = problem((3, 2))
    result = jaxnet.train(KEY, params, (x, y), optimizer=SGD, epochs=2, gradient=lambda params, x, y, net: (1, params))
    assert result.history["cost"].tolist() == [1.0, 1.0]
    assert result.history["cost"].dtype == jnp.float32


def test_a_metric_that_returns_nothing_is_named():
    params, x, y = problem((3, 2))
    with pytest.raises(TypeError, match=r"what metrics\['none'\] returns is a NoneType"):
        jaxnet.train(KEY, params, (x, y), optimizer=SGD, epochs=1, metrics={"none": lambda *_: None})


def test_accuracy_in_half_precision_counts_its_examples():
    x = jnp.ones((70_000, 2), jnp.float16)
    params = jaxnet.init(KEY, (2, 1), scheme="constant", dtype=jnp.float16)
    assert jaxnet.accuracy(params, x, x[:, :1]) == 1


def test_patience_may_be_longer_than_any_training():
    x, y = jaxnet.data.xor()
    params = jaxnet.init(KEY, (2, 3, 1))
    result = jaxnet.train(KEY, params, (x, y), optimizer=SGD, epochs=2, validation=(x, y), patience=10**12)
    assert len(result.history["cost"]) == 2


def test_half_precision_counts_its_examples():
    """70,000 examples, more than float16 can count."""
    x = jnp.ones((70_000, 2), jnp.float16)
    params = jaxnet.init(KEY, (2, 1), scheme="zeros", dtype=jnp.float16)
    for batch_size in (None, 7000):
        result = jaxnet.train(KEY, params, (x, x[:, :1]), optimizer=optax.sgd(0.0), epochs=1, batch_size=batch_size)
        assert result.history["cost"] == pytest.approx(0.25, rel=1e-2)


def test_parameters_that_are_not_finite():
    params = jaxnet.init(KEY, (2, 1), scale=jnp.inf)
    with pytest.raises(ValueError, match="params hold values that are not finite"):
        jaxnet.train(KEY, params, jaxnet.data.xor(), optimizer=SGD, epochs=1)
