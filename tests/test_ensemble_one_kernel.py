"""Whole runs in one kernel: interpreted here, they are those of the other layouts; and they lower for a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close

import jaxnet
from jaxnet import Network, activations, ensemble, losses
from jaxnet.ensemble import _loop

KEY = jax.random.key(7)
M = 5


def xor(dtype="float64"):
    return tuple(array.astype(dtype) for array in jaxnet.data.xor())


def train(layout, data, *, sizes=(2, 3, 1), **options):
    params = ensemble.init(jax.random.key(0), M, sizes, scheme="normal", dtype=data[0].dtype)
    return ensemble.train(KEY, params, data, layout=layout, **{"optimizer": optax.sgd(0.5), "epochs": 9} | options)


def assert_same(**options):
    one, other = (train(layout, **options) for layout in ("one kernel", "stacked"))
    assert one.layout.name == "one kernel"
    assert_close((one.params, one.opt_state), (other.params, other.opt_state), 1e-12)
    for name, values in other.history.items():
        assert_close(jnp.asarray(one.history[name]), jnp.asarray(values), 1e-12)


@pytest.mark.promotes
@pytest.mark.parametrize("optimizer", [optax.sgd(0.5), optax.sgd(0.5, momentum=0.9), optax.adam(0.05)])
def test_is_the_other_layouts(optimizer, x64):
    assert_same(data=xor(), optimizer=optimizer, record_every=3)


def test_what_is_the_members_own(x64):
    x, y = xor()
    weights = jnp.linspace(0.0, 1.0, 4 * M).reshape(M, 4)
    data = (jnp.stack([x + k for k in range(M)]), y, weights)
    rates = {"learning_rate": jnp.linspace(0.1, 2.0, M), "momentum": 0.9}
    net = Network(l2=jnp.geomspace(1e-4, 0.1, M))
    assert_same(data=data, optimizer=optax.sgd, hyperparams=rates, net=net, record_every=9)


@pytest.mark.parametrize(
    "net",
    [
        Network(activations.tanh, activations.sigmoid, losses.cross_entropy, l2=0.01),
        Network(activations.softplus, activations.identity),
    ],
)
def test_networks_of_several_kinds(net, x64):
    assert_same(data=xor(), sizes=(2, 3, 2, 1), net=net, metrics={"accuracy": jaxnet.accuracy})


def test_members_that_diverge_stop_alone(x64):
    rates = jnp.array([0.1, 1e200, 0.1, 0.1, 0.1])
    net = Network(output=activations.identity)
    with pytest.warns(RuntimeWarning, match="1 of 5 members stopped, the first of them member 1"):
        result = train(
            "one kernel", xor(), net=net, optimizer=optax.sgd, hyperparams={"learning_rate": rates}, record_every=9
        )
    assert result.failures.member.tolist() == [1]
    assert np.isfinite(result.history["cost"][[0, 2, 3, 4]]).all()


@pytest.mark.promotes
@pytest.mark.parametrize("optimizer", [optax.sgd(0.5), optax.adam(0.05)])
def test_lowers_for_a_gpu(optimizer, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    net = Network(loss=losses.cross_entropy)
    params = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), ensemble.init(KEY, 256, (2, 2, 1)))
    state = jax.vmap(lambda params: jaxnet.State(params, optimizer.init(params)), -1, -1)(params)
    solo = _loop.solo.Plan(optimizer, net, jaxnet.backprop, (), 4)
    plan = _loop.Plan(solo, None, None, ensemble.Layout("one kernel", 256, 1), 100)
    given = _loop.Given(KEY, jaxnet.data.xor(), None, None, jnp.asarray(0.01), ())
    chunk = _loop._Chunk(plan, 256, given, _loop.Given(False, (False, False), None, None, False, ()))
    lowered = jax.jit(lambda state: _loop._in_one_kernel(chunk, state, 1000)).trace(state)
    assert "triton" in lowered.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (2, 64, 1)}, "at most 128 parameters, but these have 257"),
        ({"batch_size": 2}, "takes all examples in each step; leave batch_size out"),
        ({"net": Network(activations.softmax)}, "net.hidden is softmax, which does not act on each unit by itself"),
        ({"gradient": jaxnet.autodiff}, "layout is 'one kernel', which needs gradient=jaxnet.backprop"),
        ({"optimizer": optax.lbfgs()}, "keeps arrays that are not like the parameters; leave layout out"),
        ({"optimizer": optax.chain(optax.sgd(0.5), optax.scale_by_backtracking_linesearch(9))}, "asks for the cost"),
    ],
)
def test_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        train("one kernel", jaxnet.data.xor(), **change)
