"""Whole runs in one kernel: interpreted here, they are those of the other layouts; and they lower for a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close
from jax.sharding import AxisType

import jaxnet
from jaxnet import Network, activations, ensemble, losses
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
MOMENTUM = optax.sgd(0.5, momentum=0.9)


def test_the_forms_of_these_sizes():
    assert in_threads(M, IN_THREADS, 4, 4)
    assert not in_threads(M, IN_WARPS, 4, 2)
    # Of sizes that both forms take, threads are for many members; and for few numbers.
    assert [in_threads(members, (2, 16, 1), 32, 2) for members in (1000, 65_536)] == [False, True]
    assert not in_threads(65_536, (2, 16, 1), 32, 4)


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("optimizer", "sizes"),
    [(MOMENTUM, IN_THREADS), (optax.adam(0.05), IN_THREADS), (optax.adam(0.05), IN_WARPS)],
)
def test_is_the_other_layouts(optimizer, sizes, x64):
    if jax.default_backend() == "gpu" and optimizer.update is not MOMENTUM.update:
        pytest.skip("powers of float64 do not compile there")
    assert_same(data=xor(), sizes=sizes, optimizer=optimizer, record_every=3)


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


def test_every_epoch_is_recorded(x64):
    """More of them than fit into one call of the kernel."""
    assert_same(data=xor(), epochs=70)


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
@pytest.mark.parametrize("sizes", [IN_THREADS, IN_WARPS, (64, 32, 10)])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.5), optax.adam(0.05)])
def test_lowers_for_a_gpu(optimizer, sizes, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    params = ensemble.init(KEY, 256, sizes)
    state = jax.vmap(lambda params: jaxnet.State(params, optimizer.init(params)))(params)
    batches = (jnp.ones((3, 7, sizes[0])), jnp.ones((3, 7, sizes[-1])))

    def step(state, cost, grads, _):
        return jaxnet.make_step(optimizer, Network(), lambda *_: (cost, grads))(state, (None, None))[0]

    def run(state):
        own = (False, False)
        return run_epochs(step, state, batches, own, Network(loss=losses.cross_entropy), jnp.asarray(0.01), (), 100, 1)

    with hopper():
        lowered = jax.jit(run).trace(state).lower(lowering_platforms=("cuda",))
    assert "triton" in lowered.as_text()


@pytest.mark.parametrize(
    ("members", "sizes", "n", "pays"),
    [
        (65_536, (2, 2, 1), 4, True),
        (64, (2, 2, 1), 4, True),
        (1024, (8, 16, 4), 8, True),
        (4096, (64, 32, 10), 32, False),
        (64, (64, 64, 10), 100, False),
    ],
)
def test_pays_where_it_was_measured_to(members, sizes, n, pays):
    assert kernel_pays(members, sizes, n, 2) == pays


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
    ],
)
def test_what_a_gpu_is_given(options, name, monkeypatch):
    """The layout that train asks for, where the GPU is one in name only."""
    chosen = []

    def compiled(plan, *_):
        chosen.append(plan.layout)
        raise InterruptedError

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(ensemble.training, "_compiled", compiled)
    with pytest.raises(InterruptedError):
        train(None, **{"data": xor("float32")} | options)
    assert chosen == [ensemble.Layout(name, M, 1)]


@pytest.mark.promotes
def test_powers_of_float64_do_not_compile_for_a_gpu(x64, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="optimizer takes powers, which do not compile for float64; leave layout out"):
        train("one kernel", xor(), optimizer=optax.adam(0.05))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sizes": (2, 600, 1)},
            r"do not hold networks of sizes \(2, 600, 1\) with 2 numbers for each parameter; leave layout out",
        ),
        ({"net": Network(activations.softmax)}, "net.hidden is softmax, which does not act on each unit by itself"),
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
        train("one kernel", jaxnet.data.xor(), **change)
