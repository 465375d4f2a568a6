"""Whole runs in one kernel: interpreted here, they are those of the other layouts; and they lower for a GPU."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close
from jax.sharding import AxisType

import jaxnet
from jaxnet import Network, activations, ensemble, losses
from jaxnet.ensemble import _loop
from jaxnet.ensemble._layouts import ONE_KERNEL, STACKED, Work, choose, in_threads, kernel_pays
from jaxnet.ensemble._one_kernel import run_epochs

KEY = jax.random.key(7)
M = 5


def xor(dtype="float64"):
    return tuple(array.astype(dtype) for array in jaxnet.data.xor())


def train(layout, data, *, sizes=(2, 3, 1), key=KEY, **options):
    params = ensemble.init(jax.random.key(0), M, sizes, scheme="normal", dtype=data[0].dtype)
    return ensemble.train(key, params, data, layout=layout, **{"optimizer": optax.sgd(0.5), "epochs": 9} | options)


def assert_same(**options):
    one, other = (train(layout, **options) for layout in ("one kernel", "stacked"))
    assert one.layout.name == "one kernel"
    assert_close((one.params, one.opt_state), (other.params, other.opt_state), 1e-12)
    for name, values in other.history.items():
        assert_close(jnp.asarray(one.history[name]), jnp.asarray(values), 1e-12)


IN_THREADS, IN_WARPS = (2, 3, 1), (2, 40, 1)


def test_the_forms_of_these_sizes():
    assert in_threads(M, IN_THREADS, 4, 4)
    assert not in_threads(M, IN_WARPS, 4, 2)
    # Of sizes that both forms take, threads are for many members; and for few numbers.
    assert [in_threads(members, (2, 16, 1), 32, 2) for members in (1000, 65_536)] == [False, True]
    assert not in_threads(65_536, (2, 16, 1), 32, 4)


def weights_of(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def plus(number):
    """A step that moves what has no gradient, too."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: u + number, updates))


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("optimizer", "sizes"),
    [
        (optax.sgd(0.5, momentum=0.9), IN_THREADS),
        (optax.adam(optax.cosine_decay_schedule(0.05, 20)), IN_THREADS),
        (optax.adamw(0.05, weight_decay=0.3, mask=weights_of), IN_THREADS),
        (optax.adamw(0.05, weight_decay=0.3, mask=weights_of), IN_WARPS),
        (optax.masked(optax.sgd(0.5, momentum=0.9), weights_of), IN_WARPS),
        (optax.chain(optax.sgd(jnp.asarray(0.5)), plus(0.01)), IN_WARPS),
    ],
)
def test_is_the_other_layouts(optimizer, sizes, x64):
    assert_same(data=xor(), sizes=sizes, optimizer=optimizer, record_every=3)


def test_a_list_of_layers_and_numbers_from_numpy(x64):
    params = [ensemble.init(jax.random.key(0), M, IN_THREADS, dtype="float64")[i] for i in range(2)]
    params = [jaxnet.Layer(*map(np.asarray, layer)) for layer in params]
    options = {"optimizer": optax.sgd(0.5), "epochs": 3}
    one, other = (ensemble.train(KEY, params, xor(), layout=layout, **options) for layout in ("one kernel", "stacked"))
    assert isinstance(one.params, list)
    assert_close(one.params, other.params, 1e-12)


@pytest.mark.parametrize("sizes", [IN_THREADS, IN_WARPS])
def test_what_is_the_members_own(sizes, x64):
    x, y = xor()
    weights = jnp.linspace(0.0, 1.0, 4 * M).reshape(M, 4)
    data = (jnp.stack([x + k for k in range(M)]), y, weights)
    rates = {"learning_rate": jnp.linspace(0.1, 2.0, M), "momentum": 0.9}
    net = Network(l2=jnp.geomspace(1e-4, 0.1, M))
    assert_same(data=data, sizes=sizes, optimizer=optax.sgd, hyperparams=rates, net=net, record_every=9)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"record_every": 2}, IN_WARPS),
        ({"own_order": True}, IN_THREADS),
        ({"own_order": True, "subset": True, "weights": True}, IN_WARPS),
    ],
)
def test_batches_that_are_drawn(options, sizes, x64):
    """Of 11 examples by threes, the last of them two; groups of examples that a warp fills up."""
    options = dict(options)
    n = 11
    data = [jax.random.normal(jax.random.key(1), (n, 2)), jax.random.uniform(jax.random.key(2), (n, 1))]
    if options.pop("weights", False):
        data.append(jnp.linspace(0.0, 1.0, n))
    if options.pop("subset", False):
        options["subset"] = jax.vmap(lambda key: jax.random.permutation(key, n))(jax.random.split(KEY, M))
    key = jax.random.split(KEY, M) if options.pop("own_order", False) else KEY
    assert_same(data=tuple(data), sizes=sizes, batch_size=3, key=key, **options)


def test_every_epoch_is_recorded(x64, monkeypatch):
    """More of them than fit into one call of the kernel, and nothing is done again with care."""
    strides, advance = [], _loop._advance

    def counted(chunk, loop, stride, *arguments):
        jax.debug.callback(lambda stride: strides.append(int(stride)), stride)
        return advance(chunk, loop, stride, *arguments)

    monkeypatch.setattr(_loop, "_advance", counted)
    monkeypatch.setattr(ensemble.training.solo, "first_call", lambda *_: 71)
    assert_same(data=xor(), epochs=71)
    jax.effects_barrier()
    for_the_kernel, stacked = strides[:3], strides[3:]
    assert for_the_kernel == [32, 32, 7]
    assert sorted(stacked) == [7, 7, 32, 32, 32, 32]  # in two groups


def test_more_examples_than_go_through_a_warp_together(x64):
    x, y = (jnp.tile(array, (25, 1)) for array in xor())
    assert_same(data=(x, y, jnp.linspace(0.0, 1.0, 100)), sizes=(2, 40, 12, 1))


@pytest.mark.parametrize(
    ("net", "sizes"),
    [
        (Network(activations.tanh, activations.sigmoid, losses.cross_entropy, l2=0.01), (2, 10, 9, 1)),
        (Network(activations.softplus, activations.identity), (2, 3, 2, 1)),
    ],
)
def test_networks_of_several_kinds(net, sizes, x64):
    assert_same(data=xor(), sizes=sizes, net=net, metrics={"accuracy": jaxnet.accuracy})


def test_members_that_diverge_stop_alone(x64):
    rates = jnp.array([0.1, 1e200, 0.1, 0.1, 0.1])
    net = Network(output=activations.identity)
    with pytest.warns(RuntimeWarning, match="1 of 5 members stopped, the first of them member 1"):
        result = train(
            "one kernel", xor(), net=net, optimizer=optax.sgd, hyperparams={"learning_rate": rates}, record_every=9
        )
    assert result.failures.member.tolist() == [1]
    assert np.isfinite(result.history["cost"][[0, 2, 3, 4]]).all()


def hopper():
    """The device that JAX 0.11 asks for before it lowers a kernel for it."""
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    mesh = jax.sharding.AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.promotes
@pytest.mark.parametrize("x64_too", [False, True])
@pytest.mark.parametrize("sizes", [IN_THREADS, IN_WARPS, (64, 32, 10)])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.5), optax.adam(optax.warmup_cosine_decay_schedule(0, 0.5, 10, 100))])
def test_lowers_for_a_gpu(optimizer, sizes, x64_too, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def step(state, cost, grads, _):
        return jaxnet.make_step(optimizer, Network(), lambda *_: (cost, grads))(state, (None, None))[0]

    def run(state, batches):
        own = (False, False)
        l2 = jnp.asarray(0.01, state.params[0].weight.dtype)
        return run_epochs(step, state, batches, own, Network(loss=losses.cross_entropy), l2, (), 100, 1)

    with jax.enable_x64(x64_too):
        for dtype in ("float32", "float64")[: 1 + x64_too]:
            params = ensemble.init(KEY, 256, sizes, dtype=dtype)
            state = jax.vmap(lambda params: jaxnet.State(params, optimizer.init(params)))(params)
            batches = (jnp.ones((3, 7, sizes[0]), dtype), jnp.ones((3, 7, sizes[-1]), dtype))
            with hopper():
                lowered = jax.jit(run).trace(state, batches).lower(lowering_platforms=("cuda",))
            assert "triton" in lowered.as_text()


@pytest.mark.parametrize(
    ("work", "pays"),
    [
        (Work(65_536, (2, 2, 1), 4, False, False), True),
        (Work(64, (2, 2, 1), 4, False, False), True),
        (Work(1024, (8, 16, 4), 8, False, False), True),
        (Work(1024, (8, 16, 4), 8, True, False), True),
        (Work(1024, (8, 16, 4), 8, True, True), False),
        (Work(56, (64, 16, 10), 1, True, True), True),
        (Work(4096, (64, 32, 10), 32, False, False), False),
        (Work(64, (64, 64, 10), 100, False, False), False),
        (Work(65_536, (2, 2, 1), 1000, False, False), False),
        (Work(65_536, (2, 2, 2, 2, 1), 4, False, False), False),
    ],
)
def test_pays_where_it_was_measured_to(work, pays):
    assert kernel_pays(work, 2) == pays


@pytest.mark.parametrize("pays", [True, False])
def test_is_chosen_on_a_gpu_where_it_pays(pays, monkeypatch):
    work = Work(64, (2, 2, 1), 4, False, False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert choose(None, work, True, lambda: True).name != ONE_KERNEL
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose(None, work, True, lambda: pays) == ensemble.Layout(ONE_KERNEL if pays else STACKED, 64, 1)
    assert choose(None, work, False, lambda: True).name == STACKED


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, ONE_KERNEL),
        ({"optimizer": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5))}, STACKED),
        ({"sizes": (2, 600, 1)}, STACKED),
        ({"sizes": (2, 600, 1), "optimizer": optax.sgd(0.5), "batch_size": 2}, STACKED),
        ({"data": xor("float16")}, STACKED),
        ({"optimizer": jaxnet.optimizers.kfac()}, STACKED),
    ],
)
def test_what_a_hopper_is_given(options, name, monkeypatch):
    """The layout that train asks for, where the GPU is one in name only."""
    chosen = []

    def compiled(plan, *_):
        chosen.append(plan.layout)
        raise InterruptedError

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(ensemble.training, "_compiled", compiled)
    monkeypatch.setattr(ensemble.training, "_on_hopper", lambda params: hasattr(params[0].weight, "devices"))
    with pytest.raises(InterruptedError):
        train(None, **{"data": xor("float32")} | options)
    assert chosen == [ensemble.Layout(name, M, 1)]


def test_other_devices_are_given_the_other_layouts(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_device(jax.devices("cpu")[0]):
        assert train(None, xor("float32")).layout.name == STACKED  # the parameters lie on a CPU


CUBE = replace(activations.identity, name="cube")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sizes": (2, 600, 1)},
            r"do not hold networks of sizes \(2, 600, 1\) with 2 numbers for each parameter; leave layout out",
        ),
        (
            {"net": Network(activations.softmax)},
            "net.hidden is softmax, and such a kernel takes only sigmoid, tanh",
        ),
        (
            {"net": Network(CUBE)},
            "net.hidden is cube, and such a kernel takes only sigmoid, tanh, relu, softp",
        ),
        ({"data": xor("float16")}, "which is for float32 or float64, but params are float16"),
        ({"optimizer": jaxnet.optimizers.kfac()}, "asks for more than a cost and its gradient .AttributeError"),
        ({"gradient": jaxnet.autodiff}, "layout is 'one kernel', which needs gradient=jaxnet.backprop"),
        ({"optimizer": optax.lbfgs()}, "the optimizer asks for the cost at other parameters; leave layout out"),
        (
            {"optimizer": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5))},
            "does not treat each number by itself: it needs reduce_sum; leave layout out",
        ),
        ({"optimizer": optax.chain(optax.sgd(0.5), optax.scale_by_backtracking_linesearch(9))}, "asks for the cost"),
    ],
)
def test_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        train("one kernel", **{"data": jaxnet.data.xor()} | change)
