"""Every member is the solo run, in every layout; and what is said of members that stop."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ACTIVATIONS, OUTPUTS_AND_LOSSES, assert_close, name_of, problem

import jaxnet
from jaxnet import Layer, Network, activations, ensemble, losses
from jaxnet.ensemble._gradients import gradients

KEY = jax.random.key(7)
SGD = optax.sgd(0.5)
LAYOUTS = ["stacked", "members last"]
M = 3


def ensemble_problem(sizes=(3, 4, 2), net=Network(), *, n=10, members=M, dtype="float64"):
    """Parameters of members, and data that they share."""
    _, x, y = problem(sizes, net, n=n, dtype=dtype)
    return ensemble.init(jax.random.key(1), members, sizes, scheme="normal", dtype=dtype), x, y


def member(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)


def assert_members_are_solo_runs(result, solo_run):
    """Compare each member with ``solo_run(k)``, a `TrainResult`."""
    for k in range(len(result.epochs)):
        alone = solo_run(k)
        assert_close(member(result.params, k), alone.params, 1e-10)
        states = (jax.tree.leaves(member(result.opt_state, k)), jax.tree.leaves(alone.opt_state))
        for ours, theirs in zip(*states, strict=True):
            assert_close(jnp.asarray(ours), jnp.asarray(theirs), 1e-10)
        epochs = len(alone.history["cost"])
        assert result.epochs[k] == epochs
        for name, values in alone.history.items():
            assert_close(jnp.asarray(result.history[name][k, :epochs]), jnp.asarray(values), 1e-10)
            assert np.isnan(result.history[name][k, epochs:]).all()
        if alone.best_epoch is not None:
            assert result.best_epoch[k] == alone.best_epoch
        failed = np.flatnonzero(result.failures.member == k)
        assert bool(failed.size) == (alone.not_finite is not None)
        if alone.not_finite:
            where = alone.not_finite
            assert (result.failures.epoch[failed[0]], result.failures.step[failed[0]]) == (where.epoch, where.step)
            np.testing.assert_allclose(result.failures.cost[failed[0]], where.cost)


# The gradients of each layout, before any training


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saturated_units_keep_their_digits(layout):
    """The logistic function of −20 is 2e-9, and an optimizer may divide by it."""
    axis = -1 if layout == "members last" else 0
    params = tuple(Layer(jnp.ones((1, 1, 1)), jnp.full((1, 1), bias)) for bias in (-5.0, -20.0))
    x, y = jnp.zeros((1, 1)), jnp.ones((1, 1))
    shared = (False, False)
    laid_out = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, axis), params)
    found = jax.jit(lambda params: gradients(axis == -1, params, (x, y), shared, Network(), None))(laid_out)
    _, expected = jaxnet.backprop(member(params, 0), x, y)
    assert_close(jax.tree.map(lambda g: jnp.moveaxis(g, axis, 0)[0], found[1]), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", OUTPUTS_AND_LOSSES, ids=name_of)
def test_gradients_of_networks_of_every_kind(kind, layout, x64):
    assert_gradients_are_those_of_backprop(layout, Network(activations.tanh, *kind), l2=jnp.asarray(0.1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hidden", ACTIVATIONS.values(), ids=name_of)
def test_gradients_of_hidden_layers_of_every_kind(hidden, layout, x64):
    assert_gradients_are_those_of_backprop(layout, Network(hidden), l2=jnp.linspace(0.1, 1.0, M))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("own", ["x", "y", "weights", "xy", "x y weights"])
def test_gradients_on_data_of_their_own(own, layout, x64):
    assert_gradients_are_those_of_backprop(layout, Network(), own=tuple(n in own for n in ("x", "y", "weights")))


def assert_gradients_are_those_of_backprop(layout, net, *, l2=None, own=(False, False, False)):
    params, x, y = ensemble_problem((3, 4, 3, 2), net)
    weights = jnp.linspace(0.0, 1.0, 10)
    shared = (x, y, weights)
    batch = tuple(
        jnp.stack([array / (1 + k) for k in range(M)]) if one else array for array, one in zip(shared, own, strict=True)
    )
    axis = -1 if layout == "members last" else 0

    def one(params, x, y, weights, l2):
        return jaxnet.backprop(params, x, y, replace(net, l2=0.0 if l2 is None else l2), weights)

    in_axes = (0, *(0 if one else None for one in own), 0 if l2 is not None and l2.ndim else None)
    expected = jax.jit(jax.vmap(one, in_axes))(params, *batch, l2)

    def laid_out(array):
        return jnp.moveaxis(array, 0, axis)

    given = tuple(laid_out(array) if one else array for array, one in zip(batch, own, strict=True))
    costs, grads = jax.jit(lambda *a: gradients(axis == -1, *a[:2], own, net, a[2]))(
        jax.tree.map(laid_out, params), given, l2
    )
    assert_close((costs, jax.tree.map(lambda g: jnp.moveaxis(g, axis, 0), grads)), expected)


# Training


@pytest.mark.parametrize(
    ("order", "batch_size", "layout"),
    [
        ("shared", None, "stacked"),
        ("shared", 4, "members last"),
        ("own", None, "members last"),
        ("own", 4, "stacked"),
        ("own", 4, "members last"),
        ("own", 1, "stacked"),
    ],
)
def test_each_member_is_the_solo_run(order, batch_size, layout, x64):
    params, *data = ensemble_problem()
    keys = jax.random.split(KEY, M)
    options = {"net": Network(l2=0.01), "optimizer": optax.sgd(0.5, momentum=0.9), "batch_size": batch_size}
    options["epochs"] = 100 if batch_size is None else 100 // (10 // batch_size)
    key = KEY if order == "shared" else keys
    result = ensemble.train(key, params, tuple(data), layout=layout, **options)
    assert_members_are_solo_runs(
        result, lambda k: jaxnet.train(KEY if order == "shared" else keys[k], member(params, k), tuple(data), **options)
    )
    weights = np.asarray(result.params[0].weight).reshape(M, -1)
    assert len(np.unique(weights, axis=0)) == M  # members differ


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("batch_size", [None, 4, 1])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_each_member_is_the_solo_run_one_by_one(own, batch_size, weighted, x64):
    """With sums in the place of products, and all that members may have of their own."""
    params, *data = ensemble_problem((83, 12, 3), Network(l2=0.1))
    data = [*data, *[jax.random.uniform(jax.random.key(3), (10,))] * weighted]
    keys, l2, rates = jax.random.split(KEY, M), jnp.geomspace(1e-4, 0.1, M), jnp.array([0.1, 0.2, 0.3])
    subset = jax.random.randint(jax.random.key(2), (M, 8), 0, 10) if own else None
    options = {"batch_size": batch_size, "epochs": 6, "validation": tuple(data[:2]), "patience": 3}
    options |= {"metrics": {"accuracy": jaxnet.accuracy}}
    result = ensemble.train(
        keys if own else KEY, params, tuple(data), subset=subset, net=Network(l2=l2), optimizer=optax.sgd,
        hyperparams={"learning_rate": rates, "momentum": 0.9},
        layout=ensemble.Layout("one by one", 2 if weighted else 1, 2), **options,
    )  # fmt: skip

    def solo(k):
        key, taken = (keys[k], tuple(array[subset[k]] for array in data)) if own else (KEY, tuple(data))
        optimizer, net = optax.sgd(rates[k], 0.9), Network(l2=l2[k])
        return jaxnet.train(key, member(params, k), taken, net=net, optimizer=optimizer, **options)

    assert_members_are_solo_runs(result, solo)


def test_one_by_one_with_another_gradient(x64):
    params, *data = ensemble_problem()
    options = {"optimizer": SGD, "epochs": 3, "batch_size": 4, "gradient": jaxnet.autodiff}
    result = ensemble.train(KEY, params, tuple(data), layout="one by one", **options)
    assert_members_are_solo_runs(result, lambda k: jaxnet.train(KEY, member(params, k), tuple(data), **options))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="products are sums on a CPU only")
@pytest.mark.parametrize("layout", [None, "one by one"])
def test_optimizers_that_one_function_cannot_hold_take_products(layout, x64, monkeypatch):
    """They are found out once."""
    tried, compiled = [], ensemble.training._compiled
    monkeypatch.setattr(ensemble.training, "_compiled", lambda *args: tried.append(args[0]) or compiled(*args))
    params, *data = ensemble_problem((110, 50, 3))
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))
    options = {"optimizer": optimizer, "epochs": 3, "batch_size": 2}
    results = [ensemble.train(KEY, params, tuple(data), layout=layout, **options) for _ in range(2)]
    assert [plan.solo.one_function for plan in tried][:2] == [True, False]
    assert not any(plan.solo.one_function for plan in tried[1:])
    for result in results:
        assert result.layout.name == (layout or "stacked")
        assert_members_are_solo_runs(result, lambda k: jaxnet.train(KEY, member(params, k), tuple(data), **options))


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ((activations.softmax, losses.softmax_cross_entropy), "one by one"),
        ((activations.softmax, losses.softmax_cross_entropy), "stacked"),
        ((activations.identity, losses.cross_entropy), "members last"),
    ],
    ids=name_of,
)
def test_training_of_other_networks(kind, layout, x64):
    net = Network(activations.relu, *kind)
    params, *data = ensemble_problem((3, 4, 3, 2), net, members=2)
    options = {"net": net, "optimizer": optax.sgd(0.05), "epochs": 3, "batch_size": 4}
    result = ensemble.train(KEY, params, tuple(data), layout=layout, **options)
    assert_members_are_solo_runs(result, lambda k: jaxnet.train(KEY, member(params, k), tuple(data), **options))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hyperparameters_of_each_member(layout, x64):
    params, *data = ensemble_problem()
    rates, momenta = jnp.geomspace(0.1, 2.0, M), jnp.linspace(0.0, 0.9, M)
    l2 = jnp.geomspace(1e-4, 0.1, M)
    result = ensemble.train(
        KEY,
        params,
        tuple(data),
        net=Network(l2=l2),
        optimizer=optax.sgd,
        hyperparams={"learning_rate": rates, "momentum": momenta},
        epochs=10,
        batch_size=4,
        layout=layout,
    )
    assert_members_are_solo_runs(
        result,
        lambda k: jaxnet.train(
            KEY,
            member(params, k),
            tuple(data),
            net=Network(l2=l2[k]),
            optimizer=optax.sgd(rates[k], momenta[k]),
            epochs=10,
            batch_size=4,
        ),
    )


@pytest.mark.parametrize(
    ("own", "batch_size", "layout"),
    [
        ("x", None, "stacked"),
        ("y", 4, "stacked"),
        ("xy", 4, "members last"),
        ("weights", None, "members last"),
        ("none", 4, "stacked"),
    ],
)
def test_data_of_their_own(own, batch_size, layout, x64):
    params, *_ = ensemble_problem()
    keys = iter(jax.random.split(jax.random.key(3), 3))
    shapes = {"x": (10, 3), "y": (10, 2), "weights": (10,)}
    data = tuple(
        jax.random.uniform(next(keys), (M, *shape) if name in own else shape) for name, shape in shapes.items()
    )
    options = {"optimizer": SGD, "epochs": 4, "batch_size": batch_size, "metrics": {"accuracy": jaxnet.accuracy}}
    result = ensemble.train(KEY, params, data, validation=data[:2], layout=layout, **options)

    def solo(k):
        alone = tuple(array[k] if name in own else array for name, array in zip(shapes, data, strict=True))
        return jaxnet.train(KEY, member(params, k), alone, validation=alone[:2], **options)

    assert_members_are_solo_runs(result, solo)


def test_saturated_members_are_solo_runs(x64):
    params = ensemble.init(KEY, 8, (2, 4, 1), scheme="normal", scale=20.0, dtype="float64")
    data = tuple(array.astype("float64") for array in jaxnet.data.xor())
    options = {"optimizer": optax.sign_sgd(0.05), "epochs": 100}
    result = ensemble.train(KEY, params, data, layout="members last", **options)
    assert_members_are_solo_runs(result, lambda k: jaxnet.train(KEY, member(params, k), data, **options))


@pytest.mark.parametrize(("batch_size", "layout"), [(None, "stacked"), (3, "members last")])
def test_subsets_of_the_data(batch_size, layout, x64):
    params, *data = ensemble_problem()
    subset = jax.random.randint(jax.random.key(2), (M, 6), 0, 10)
    options = {"optimizer": SGD, "epochs": 4, "batch_size": batch_size}
    result = ensemble.train(KEY, params, tuple(data), subset=subset, layout=layout, **options)
    assert_members_are_solo_runs(
        result, lambda k: jaxnet.train(KEY, member(params, k), tuple(a[subset[k]] for a in data), **options)
    )


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("optimizer", "layout"),
    [
        (optax.adam(0.05), "members last"),
        (optax.sgd(optax.cosine_decay_schedule(2.0, 30), momentum=0.9, nesterov=True), "stacked"),
        (optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)), "members last"),
        pytest.param(optax.lbfgs(), "stacked", marks=pytest.mark.slow),
        (optax.polyak_sgd(1.0), "stacked"),
        (optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(2.0)), "members last"),
        (optax.inject_hyperparams(optax.sgd)(learning_rate=2.0), "stacked"),
    ],
    ids=["adam", "schedule", "line search", "lbfgs", "polyak", "clip", "inject"],
)
def test_any_optax_optimizer(optimizer, layout, x64):
    params, *data = ensemble_problem(members=2)
    options = {"optimizer": optimizer, "epochs": 5}
    result = ensemble.train(KEY, params, tuple(data), layout=layout, **options)
    assert_members_are_solo_runs(result, lambda k: jaxnet.train(KEY, member(params, k), tuple(data), **options))


@pytest.mark.parametrize("order", ["shared", "own"])
def test_gradients_that_draw_random_numbers(order, x64):
    def noisy(params, x, y, net, *, key):
        value, grads = jaxnet.backprop(params, x, y, net)
        return value, jax.tree.map(lambda g: g + 0.1 * jax.random.normal(key, g.shape, g.dtype), grads)

    params, *data = ensemble_problem()
    keys = jnp.stack([KEY] * M) if order == "shared" else jax.random.split(KEY, M)
    options = {"optimizer": SGD, "gradient": noisy, "epochs": 4, "batch_size": 4}
    result = ensemble.train(KEY if order == "shared" else keys, params, tuple(data), **options)
    assert_members_are_solo_runs(result, lambda k: jaxnet.train(keys[k], member(params, k), tuple(data), **options))


# Members that stop


@pytest.mark.parametrize("layout", LAYOUTS)
def test_members_stop_early_by_themselves(layout, x64):
    x, y = (array.astype(jnp.float64) for array in jaxnet.data.xor())
    params = ensemble.init(jax.random.key(0), 8, (2, 3, 1), scheme="normal", dtype=jnp.float64)
    options = {"optimizer": SGD, "validation": (x, 1 - y), "epochs": 60, "patience": 4}
    result = ensemble.train(KEY, params, (x, y), layout=layout, **options)
    assert len(set(result.epochs.tolist())) > 1
    assert_members_are_solo_runs(result, lambda k: jaxnet.train(KEY, member(params, k), (x, y), **options))


@pytest.mark.parametrize(("batch_size", "layout"), [(None, "stacked"), (None, "members last"), (4, "stacked")])
def test_members_that_diverge_are_reported_and_poison_nobody(batch_size, layout, x64):
    net = Network(output=activations.identity)
    params, *data = ensemble_problem((3, 2), net)
    rates = jnp.array([1e60, 0.01, 1e30])
    options = {"net": net, "epochs": 20, "batch_size": batch_size}
    with pytest.warns(
        RuntimeWarning, match=r"2 of 3 members stopped, the first of them member 0: epoch \d+, step \d+ .*smaller"
    ) as caught:
        result = ensemble.train(
            KEY,
            params,
            tuple(data),
            optimizer=optax.sgd,
            hyperparams={"learning_rate": rates},
            layout=layout,
            **options,
        )
    assert caught[0].filename == __file__
    assert result.failures.member.tolist() == [0, 2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))

    def solo(k):
        if k in (0, 2):
            with pytest.warns(RuntimeWarning, match="training stopped"):
                return jaxnet.train(KEY, member(params, k), tuple(data), optimizer=optax.sgd(rates[k]), **options)
        return jaxnet.train(KEY, member(params, k), tuple(data), optimizer=optax.sgd(rates[k]), **options)

    assert_members_are_solo_runs(result, solo)


def test_a_member_with_bad_data_stops_alone():
    params, x, y = ensemble_problem(dtype="float32")
    x = jnp.tile(x, (M, 1, 1)).at[2, 3, 1].set(jnp.nan)
    with pytest.warns(RuntimeWarning, match="1 of 3 members stopped, the first of them member 2.*met a cost of nan"):
        result = ensemble.train(KEY, params, (x, y), optimizer=SGD, epochs=3, batch_size=4)
    assert result.epochs.tolist() == [3, 3, 0]
    assert np.isfinite(result.history["cost"][:2]).all()


# Groups, chunks and calls


@pytest.mark.parametrize(
    ("sizes", "batch_size", "batches", "name"),
    [
        ((2, 2, 1), 4, "whole", "members last"),
        ((2, 16, 1), 32, "whole", "members last"),
        ((8, 16, 4), 32, "whole", "members last"),
        ((64, 10), 16, "whole", "members last"),
        ((64, 32, 10), 32, "whole", "stacked"),
        ((784, 30, 10), 10, "whole", "stacked"),
        ((2, 2, 1), 1000, "whole", "stacked"),
        # Where a chunk's steps are one function, these take 0.3 to 0.9 of the time that they take stacked:
        ((64, 16, 10), 1, "drawn", "members last"),
        ((8, 16, 4), 1, "drawn", "members last"),
        ((8, 16, 4), 8, "own", "members last"),
        ((2, 16, 1), 1, "drawn", "members last"),
        ((30, 30, 10), 32, "whole", "members last"),
        ((128, 16, 4), 10, "whole", "stacked"),  # with the members last, six times as long
    ],
)
def test_layouts_are_chosen_by_work(sizes, batch_size, batches, name, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    work = ensemble._layouts.Work(1000, sizes, batch_size, drawn=batches != "whole", own_batches=batches == "own")
    layout = ensemble._layouts.choose(None, work, True, lambda: True)
    assert layout.name == name
    assert 1 <= layout.chunk <= 1000
    assert ensemble._layouts.choose(None, work, False, lambda: True).name == "stacked"


@pytest.mark.parametrize(
    ("members", "sizes", "batch_size", "batches", "name"),
    [
        (16, (784, 30, 10), 10, "whole", "one by one"),
        (16, (784, 30, 10), 10, "own", "one by one"),
        (16, (784, 30, 10), 1, "drawn", "one by one"),
        (16, (784, 30, 10), 32, "drawn", "stacked"),
        (16, (784, 300, 100, 10), 10, "drawn", "stacked"),
        (16, (3072, 30, 10), 10, "drawn", "stacked"),
        (16, (200, 200, 200, 10), 4, "own", "one by one"),
        (512, (64, 32, 10), 10, "drawn", "members last"),
        (4, (64, 32, 10), 10, "drawn", "one by one"),  # that fill no vector register
        (16, (101, 5, 1), 10, "drawn", "stacked"),
    ],
)
def test_few_examples_are_for_members_one_by_one(members, sizes, batch_size, batches, name, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    work = ensemble._layouts.Work(members, sizes, batch_size, drawn=batches != "whole", own_batches=batches == "own")
    assert ensemble._layouts.choose(None, work, True, lambda: True, as_sums=True).name == name


@pytest.mark.parametrize(
    ("sizes", "batch_size"), [((2, 2, 1), 4), ((2, 16, 1), 32), ((10, 10, 10, 10), 10), ((784, 30, 10), 10)]
)
def test_chunks_that_are_chosen_hold_few_members_that_only_fill_them(sizes, batch_size, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(ensemble._layouts.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for members in range(9, 600):
        work = ensemble._layouts.Work(members, sizes, batch_size, drawn=False, own_batches=False)
        layout = ensemble._layouts.choose(None, work, True, lambda: True)
        size, starts = ensemble._layouts.cut_into_groups(layout, members)
        assert members <= size * len(starts)
        if layout.name == "stacked":
            assert size * len(starts) <= 1.3 * members
        else:  # whole registers of 16 numbers, up to two of them in vain in each thread
            assert layout.chunk % 16 == 0
            assert size * -(-len(starts) // 2) < -(-members // 2) + 32


@pytest.mark.parametrize(
    ("members", "name", "chunk", "threads"),
    [(1, "stacked", 3, 1), (7, "members last", 2, 2), (12, "stacked", 5, 3), (7, "one by one", 3, 2)],
)
def test_chunks_and_threads_change_nothing(members, name, chunk, threads, x64, monkeypatch):
    monkeypatch.setattr(ensemble._layouts, "_GROUP", 4)
    params, *data = ensemble_problem(members=members)
    options = {"optimizer": SGD, "epochs": 5, "batch_size": 4, "record_every": 2}
    layout = ensemble.Layout(name, chunk, threads)
    keys = jax.random.split(KEY, members)
    result = ensemble.train(keys, params, tuple(data), layout=layout, **options)
    assert result.layout == layout
    whole = ensemble.train(keys, params, tuple(data), layout="stacked", **options)
    assert result.history["cost"].shape == (members, 2)
    assert_close(result.params, whole.params)
    assert_close(jnp.asarray(result.history["cost"]), jnp.asarray(whole.history["cost"]))


def test_records_are_every_so_manieth_epoch(x64):
    params, *data = ensemble_problem()
    options = {"optimizer": SGD, "epochs": 11, "metrics": {"accuracy": jaxnet.accuracy}}
    every = ensemble.train(KEY, params, tuple(data), **options)
    fourth = ensemble.train(KEY, params, tuple(data), record_every=4, **options)
    for name in ("cost", "accuracy"):
        np.testing.assert_array_equal(fourth.history[name], every.history[name][:, 3::4])


def test_length_of_a_call_does_not_matter(monkeypatch):
    params, *data = ensemble_problem(dtype="float32")
    options = {"optimizer": SGD, "epochs": 50, "batch_size": 3, "record_every": 3}
    whole = ensemble.train(KEY, params, tuple(data), **options)
    clock = iter(range(10**6))  # every call seems to take a second, so each runs one epoch
    monkeypatch.setattr(ensemble.training.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(ensemble.training, "_first_call", lambda *_: 1)
    parts = ensemble.train(KEY, params, tuple(data), **options)
    np.testing.assert_array_equal(parts.history["cost"], whole.history["cost"])
    assert all(map(np.array_equal, jax.tree.leaves(parts.params), jax.tree.leaves(whole.params)))


@pytest.mark.parametrize("record_every", [1, 40])
def test_rounds_of_epochs_on_a_gpu(record_every, x64, monkeypatch):
    """Where the host is seldom asked whether to go on: 40 epochs are two rounds and 8 more."""
    params, *data = ensemble_problem()
    options = {"epochs": 40, "record_every": record_every, "layout": "stacked"}
    expected = ensemble.train(KEY, params, tuple(data), optimizer=SGD, **options)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = ensemble.train(KEY, params, tuple(data), optimizer=optax.sgd(0.5), **options)
    assert_close(found.params, expected.params)
    assert_close(jnp.asarray(found.history["cost"]), jnp.asarray(expected.history["cost"]))


def test_members_with_all_of_their_own_on_a_gpu(x64, monkeypatch):
    """There the passes of one network are mapped. Rounds of 32 epochs: nine before the record, and 12 more."""
    params, *data = ensemble_problem()
    keys, rates, l2 = jax.random.split(KEY, M), jnp.linspace(0.1, 0.5, M), jnp.linspace(0.0, 0.01, M)
    weights = jnp.linspace(0.0, 1.0, M * 10).reshape(M, 10)
    options = {"epochs": 330, "batch_size": 3}  # the last of four has a single example
    alone = [
        jaxnet.train(
            keys[k],
            member(params, k),
            (*data, weights[k]),
            net=Network(l2=l2[k]),
            optimizer=optax.sgd(rates[k]),
            **options,
        )
        for k in range(M)
    ]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(ensemble.training, "_first_call", lambda *_: 320)
    result = ensemble.train(
        keys, params, (*data, weights), net=Network(l2=l2), optimizer=optax.sgd, hyperparams={"learning_rate": rates},
        record_every=300, layout="stacked", **options,
    )  # fmt: skip
    assert result.history["cost"].shape == (M, 1)
    for k in range(M):
        assert_close(member(result.params, k), alone[k].params, 1e-10)
        assert_close(jnp.asarray(result.history["cost"][k, 0]), jnp.asarray(alone[k].history["cost"][299]), 1e-10)


@pytest.mark.parametrize("weights", ["none", "shared", "own"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "one kernel"])
def test_an_epoch_in_several_blocks(layout, weights, x64, monkeypatch):
    """Of 11 examples: two blocks of a step each, a step more, and a short one."""
    monkeypatch.setattr(ensemble._loop, "cut", lambda *_: [(2, 1, 3), (1, 1, 3), (1, 1, 2)])
    params, *data = ensemble_problem(n=11)
    own = jnp.linspace(0.0, 1.0, M * 11).reshape(M, 11)
    weighed = {"none": None, "shared": own[0], "own": own}[weights]
    options = {"optimizer": optax.sgd(0.5), "epochs": 3, "batch_size": 3}
    everything = tuple(data) if weighed is None else (*data, weighed)
    result = ensemble.train(KEY, params, everything, layout=layout, **options)
    for k in range(M):
        of_one = everything if weights != "own" else (*data, own[k])
        alone = jaxnet.train(KEY, member(params, k), of_one, **options)
        assert_close(member(result.params, k), alone.params, 1e-10)
        assert_close(jnp.asarray(result.history["cost"][k]), jnp.asarray(alone.history["cost"]), 1e-10)


def test_no_epochs_at_all():
    params, *data = ensemble_problem(dtype="float32")
    result = ensemble.train(KEY, params, tuple(data), optimizer=SGD, epochs=0)
    assert result.history["cost"].shape == (M, 0)
    assert all(map(np.array_equal, jax.tree.leaves(result.params), jax.tree.leaves(params)))


def test_nothing_is_traced_twice(monkeypatch):
    monkeypatch.setattr(ensemble.training, "_first_call", lambda *_: 1)
    traced, counts = [], []

    def gradient(*args):
        traced.append(None)
        return jaxnet.backprop(*args)

    params, *data = ensemble_problem(dtype="float32")
    for epochs in (3, 40):
        ensemble.train(
            KEY, params, tuple(data), optimizer=SGD, epochs=epochs, record_every=50, gradient=gradient, batch_size=5
        )
        counts.append(len(traced))
    assert counts[0] == counts[1]


def test_the_callers_parameters_survive():
    params, *data = ensemble_problem(dtype="float32")
    before = jax.tree.map(np.array, params)
    ensemble.train(KEY, params, tuple(data), optimizer=SGD, epochs=3)
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(before)))


def test_progress_counts_epochs_of_members(capsys):
    params, *data = ensemble_problem(dtype="float32")
    ensemble.train(KEY, params, tuple(data), optimizer=SGD, epochs=30, progress=True)
    assert re.search(r"90/90.*cost 0\.", capsys.readouterr().out)


# Initial parameters and outputs


def test_init_draws_each_member_from_its_own_key(dtype):
    scales = jnp.linspace(0.5, 2.0, M, dtype=dtype)
    params = ensemble.init(KEY, M, (3, 4, 2), scheme="normal", scale=scales, dtype=dtype)
    for k, key in enumerate(jax.random.split(KEY, M)):
        alone = jaxnet.init(key, (3, 4, 2), scheme="normal", scale=scales[k], dtype=dtype)
        assert_close(member(params, k), alone)
    same = ensemble.init(KEY, M, (3, 4, 2), scheme="normal", scale=0.5, dtype=dtype)
    assert_close(member(same, 0), member(params, 0))


def test_forward_of_shared_and_own_inputs(dtype):
    kind = (activations.relu, activations.softmax, losses.softmax_cross_entropy)
    params, x, _ = ensemble_problem(dtype=dtype)
    own = jnp.stack([x + k for k in range(M)])
    for inputs, of in ((x, lambda k: x), (own, lambda k: own[k]), (x[0], lambda k: x[0])):
        outputs = ensemble.forward(params, inputs, Network(*kind, l2=jnp.ones(M)))
        for k in range(M):
            assert_close(outputs[k], jaxnet.forward(member(params, k), of(k), Network(*kind)))


# Bad input


class Unhashable:
    """A function that makes an optimizer, whose class has no hash."""

    __hash__ = None

    def __call__(self, learning_rate):
        return optax.sgd(learning_rate)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key": 0}, TypeError, "key is a int, expected a typed key"),
        ({"key": jax.random.split(KEY, 2)}, ValueError, r"key has shape \(2,\), expected one key, or one for each"),
        (
            {"params": jaxnet.init(KEY, (2, 3, 1))},
            ValueError,
            "params have the shapes .*leading axis of mem",
        ),
        ({"params": ()}, ValueError, "params have the shapes"),
        ({"data": (jnp.ones((4, 3)), jnp.ones((4, 1)))}, ValueError, "data: x has 3 features"),
        ({"data": (jnp.ones((2, 4, 2)), jnp.ones((4, 1)))}, ValueError, r"data: x has shape .*that of the 3 members"),
        ({"data": jnp.ones((4, 2))}, TypeError, "data is an array of float32 .*expected a tuple"),
        ({"data": (*jaxnet.data.xor(), jnp.zeros((M, 4)))}, ValueError, "data: weights are negative, or all zero"),
        ({"validation": (jnp.full((4, 2), jnp.inf), jnp.ones((4, 1)))}, ValueError, "validation: x holds values"),
        ({"subset": jnp.ones((M, 2))}, ValueError, r"subset is an array of float32 .*integers \(3, rows\)"),
        ({"subset": [[0, 1], [1], [2, 3]]}, ValueError, r"subset holds rows of different lengths, .*\(3, rows\)"),
        ({"data": (jaxnet.data.xor(), jaxnet.data.xor())}, TypeError, "data is a tuple of 2, expected a tuple"),
        ({"data": ([[0.0, 1.0], [1.0]], jnp.ones((2, 1)))}, TypeError, "data: x is a list, which is not an array"),
        ({"subset": jnp.full((M, 2), 4)}, ValueError, "subset holds rows from 4 to 4, but the data has 4 examples"),
        (
            {"subset": [[2, 3], [0, 1], [3, 2]], "data": (*jaxnet.data.xor(), jnp.array([0.0, 0.0, 1.0, 1.0]))},
            ValueError,
            "subset picks only rows of weight 0 for member 1",
        ),
        (
            {"subset": [[0], [1], [0]], "data": (*jaxnet.data.xor(), jnp.eye(M, 4))},
            ValueError,
            "subset picks only rows of weight 0 for member 2",
        ),
        ({"net": Network(l2=jnp.ones(2))}, ValueError, r"net.l2 has shape \(2,\), expected one number, or one for"),
        ({"net": Network(l2=-jnp.ones(M))}, ValueError, "net.l2 holds values that are negative"),
        ({"net": "sigmoid"}, TypeError, "net is a str, expected a jaxnet.Network"),
        ({"hyperparams": {"learning_rate": 0.5}}, TypeError, "optimizer is .*has to be a function"),
        (
            {"optimizer": Unhashable(), "hyperparams": {"learning_rate": 0.5}},
            TypeError,
            "optimizer is a Unhashable that",
        ),
        ({"optimizer": optax.sgd, "hyperparams": [0.5]}, TypeError, "hyperparams is a list, expected values by name"),
        ({"optimizer": optax.sgd, "hyperparams": {"learning_rate": "a"}}, TypeError, "hyperparams.*is a str"),
        ({"optimizer": optax.sgd, "hyperparams": {"learning_rate": jnp.nan}}, ValueError, "hyperparams.*not finite"),
        ({"optimizer": optax.sgd}, TypeError, "optimizer is a function, expected an optax optimizer"),
        (
            {"optimizer": optax.sgd, "hyperparams": {"rate": 0.5}},
            TypeError,
            "optimizer cannot be made from the hyperparams rate: .*unexpected keyword argument",
        ),
        (
            {
                "optimizer": lambda steps: optax.sgd(optax.cosine_decay_schedule(0.5, steps)),
                "hyperparams": {"steps": 10},
            },
            TypeError,
            "optimizer needs the value of one of the hyperparams steps .*functools.partial",
        ),
        ({"metrics": {"a": lambda *_: 1j}}, ValueError, r"metrics\['a'\] returns .*complex.*expected a scalar, a real"),
        ({"record_every": 0}, ValueError, "record_every is 0, expected an integer >= 1"),
        ({"layout": "members last", "gradient": jaxnet.autodiff}, ValueError, "needs gradient=jaxnet.backprop"),
        ({"layout": "fast"}, ValueError, "layout is 'fast', expected one of"),
        (
            {"layout": ensemble.Layout("one kernel", M, 1), "gradient": jaxnet.autodiff},
            ValueError,
            "layout is 'one kernel', which needs gradient=jaxnet.backprop",
        ),
        ({"patience": 3}, ValueError, "patience is 3, but there is no validation data"),
        ({"batch_size": 5}, ValueError, "batch_size is 5, but the data has 4 examples"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {
        "key": KEY,
        "params": ensemble.init(KEY, M, (2, 3, 1)),
        "data": jaxnet.data.xor(),
        "optimizer": SGD,
        "epochs": 1,
    } | change
    key, params, data = (arguments.pop(name) for name in ("key", "params", "data"))
    with pytest.raises(error, match=message):
        ensemble.train(key, params, data, **arguments)


def test_bad_layouts():
    with pytest.raises(ValueError, match="layout is 'fast', expected one of stacked, members last, one kernel"):
        ensemble.Layout("fast", 16, 2)
    with pytest.raises(ValueError, match="chunk is 0, expected an integer >= 1"):
        ensemble.Layout("stacked", 0, 2)
    with pytest.raises(ValueError, match="threads is 0, expected an integer >= 1"):
        ensemble.Layout("stacked", 16, 0)


def test_bad_arguments_of_init_and_forward():
    with pytest.raises(ValueError, match="members is 0, expected an integer >= 1"):
        ensemble.init(KEY, 0, (2, 1))
    with pytest.raises(ValueError, match=r"scale has shape \(3,\), expected one number, or one for each member: \(5,"):
        ensemble.init(KEY, 5, (2, 1), scale=jnp.ones(3))
    params = ensemble.init(KEY, 5, (2, 1))
    with pytest.raises(ValueError, match="x has shape .*but there are 5 members"):
        ensemble.forward(params, jnp.ones((4, 3, 2)))
    with pytest.raises(ValueError, match=r"x has shape \(5, 4, 3, 2\), expected .*, or \(5, n, inputs\)"):
        ensemble.forward(params, jnp.ones((5, 4, 3, 2)))
    with pytest.raises(ValueError, match="x has 3 features"):
        ensemble.forward(params, jnp.ones((4, 3)))


@pytest.mark.parametrize("layout", [*LAYOUTS, "one by one"])
def test_nan_may_be_looked_for(layout):
    """A history holds nan where there is no record, which is no mistake."""
    params, *data = ensemble_problem(dtype="float32")
    jax.config.update("jax_debug_nans", True)  # worker threads do not see the context manager
    try:
        result = ensemble.train(KEY, params, tuple(data), optimizer=SGD, epochs=3, batch_size=4, layout=layout)
    finally:
        jax.config.update("jax_debug_nans", False)
    assert np.isfinite(result.history["cost"]).all()


def test_metrics_may_count():
    params, x, y = ensemble_problem(dtype="float32")

    def right(params, x, y, net):
        return jnp.sum((jaxnet.forward(params, x, net) > 0.5) == (y > 0.5))

    metrics = {"right": right, "all": lambda *args: right(*args) == y.size, "one": lambda *_: 1}
    options = {"optimizer": SGD, "epochs": 3, "metrics": metrics}
    alone = jaxnet.train(KEY, member(params, 1), (x, y), **options).history
    for more in ({}, {"validation": (x, y), "patience": 2}):
        found = ensemble.train(KEY, params, (x, y), **options, **more).history
        for name in metrics:
            assert found[name].dtype == jnp.float32
            np.testing.assert_array_equal(found[name][1], alone[name])


def test_few_records_and_rows_of_any_integers():
    params, x, y = ensemble_problem(dtype="float32")
    options = {"optimizer": SGD, "epochs": 3, "record_every": 2**31}
    results = [
        ensemble.train(KEY, params, (x, y), subset=np.zeros((M, 2), dtype), **options) for dtype in (">i4", "<i4")
    ]
    assert results[0].history["cost"].shape == (M, 0)
    assert_close(results[0].params, results[1].params, 0.0)


def test_runs_of_similar_length_share_a_program():
    traces = 0

    def gradient(*args):
        nonlocal traces
        traces += 1
        return jaxnet.backprop(*args)

    params, x, y = ensemble_problem(dtype="float32")

    def epochs_recorded(epochs):
        result = ensemble.train(KEY, params, (x, y), optimizer=SGD, epochs=epochs, gradient=gradient)
        return result.history["cost"].shape[1]

    assert epochs_recorded(9) == 9
    compiled = traces
    assert [epochs_recorded(epochs) for epochs in (16, 12, 9)] == [16, 12, 9]
    assert traces == compiled


def test_train_cannot_be_compiled():
    params, x, y = ensemble_problem(dtype="float32")
    with pytest.raises(TypeError, match=r"ensemble\.train drives a compiled loop from Python"):
        jax.jit(lambda x: ensemble.train(KEY, params, (x, y), optimizer=SGD, epochs=1).params)(x)


@pytest.mark.parametrize("layout", ["stacked", "members last"])
@pytest.mark.parametrize("transformation", [jax.grad, lambda f: lambda rate: jax.vmap(f)(jnp.full(2, rate))])
@pytest.mark.parametrize("optimizer", [optax.sgd, optax.inject_hyperparams(optax.sgd)], ids=["sgd", "in its state"])
def test_a_step_size_cannot_be_traced(transformation, layout, optimizer):
    params, x, y = ensemble_problem(dtype="float32")

    def trained(rate):
        options = {"optimizer": optimizer(rate), "epochs": 1, "layout": layout}
        return ensemble.train(KEY, params, (x, y), **options).params[0].bias[0, 0]

    with pytest.raises(TypeError, match=r"ensemble\.train drives a compiled loop from Python"):
        transformation(trained)(0.1)
