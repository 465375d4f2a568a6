"""Examples spread over four devices give what one device gives, and results with an axis of examples stay spread.

The devices are virtual ones of a process of their own, which runs this file as a program and prints what it found.
"""

import inspect
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from helpers import problem
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxnet
from jaxnet import Network, activations, curvature, ensemble, graph, kernel, losses, per_example

DEVICES, N, SIZES = 4, 8, (60, 3, 2)  # no other axis is as long as the examples'; squares are taken in blocks
WIDE = (6, 60, 2)  # its products are taken examples first
NET = Network(activations.tanh, activations.softmax, losses.softmax_cross_entropy, l2=0.1)
KEY = jax.random.key(11)
CLIPPING = {"bound": 0.3}


def trained(params, x, y, net, **options):
    found = jaxnet.train(KEY, params, (x, y), net=net, optimizer=optax.sgd(0.5), epochs=3, **options)
    return found.params, found.history


def members_trained(params, x, y, net, own=False):
    """As many members as devices, one on each where the examples are spread; and so what is each member's own."""
    members = jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + k) for k in range(DEVICES)]), params)
    members = jax.device_put(members, x.sharding)
    key, options = KEY, {"optimizer": optax.sgd(0.5), "epochs": 3, "batch_size": 3}
    if own:
        rates = {"learning_rate": jnp.linspace(0.1, 0.5, DEVICES)}
        key, rates = jax.device_put((jax.random.split(KEY, DEVICES), rates), x.sharding)
        options |= {"optimizer": optax.sgd, "hyperparams": rates}
    found = ensemble.train(key, members, (x, y), net=net, **options)
    return found.params, found.history


def gradient_in_shard_map(params, x, y, net):
    """The sum over devices of what each finds for its examples, with the parameters on all of them."""

    def gradient(params, x):
        return jax.grad(lambda params: jnp.sum(jaxnet.forward_with_backprop(params, x, net) ** 2))(params)

    if len(x.devices()) == 1:
        return gradient(params, x)
    specs = PartitionSpec(), PartitionSpec("examples")
    mapped = jax.shard_map(gradient, mesh=x.sharding.mesh, in_specs=specs, out_specs=specs[0])
    return jax.jit(mapped)(params, x)


# Functions of (params, x, y, net), under jit.
QUANTITIES = {
    "forward": lambda p, x, y, net: jaxnet.forward(p, x, net),
    "cost": jaxnet.cost,
    "backprop": jaxnet.backprop,
    "signals": jaxnet.signals,
    "input_gradient": jaxnet.input_gradient,
    "sgd_step": lambda p, x, y, net: jaxnet.sgd_step(p, x, y, 0.5, net),
    "per_example.gradients": per_example.gradients,
    "per_example.norms": per_example.norms,
    "per_example.dot_products": per_example.dot_products,
    "per_example.dot_products, another set": lambda p, x, y, net: per_example.dot_products(
        p, x, y, net, (x[:3], y[:3])
    ),
    "per_example.dot_products, as many others": lambda p, x, y, net: per_example.dot_products(p, x, y, net, (2 * x, y)),
    "per_example.cosine_to_mean": per_example.cosine_to_mean,
    "per_example.clipped_gradient": partial(per_example.clipped_gradient, **CLIPPING),
    "per_example.clipped_gradient, microbatches": partial(per_example.clipped_gradient, **CLIPPING, microbatch=3),
    "per_example.private_gradient": partial(per_example.private_gradient, **CLIPPING, key=KEY, noise_multiplier=0.5),
    "per_example.second_moment": per_example.second_moment,
    "per_example.variance": per_example.variance,
    "per_example.signal_to_noise": per_example.signal_to_noise,
    "per_example.noise_and_signal": per_example.noise_and_signal,
    "per_example.noise_scale": per_example.noise_scale,
    "curvature.hvp": lambda p, x, y, net: curvature.hvp(p, x, y, p, net),
    "curvature.ggn_vp": lambda p, x, y, net: curvature.ggn_vp(p, x, y, p, net),
    "curvature.fisher_vp": lambda p, x, y, net: curvature.fisher_vp(p, x, p, net),
    "curvature.empirical_fisher_vp": lambda p, x, y, net: curvature.empirical_fisher_vp(p, x, y, p, net),
    "curvature.hessian": curvature.hessian,
    "curvature.is_minimum": curvature.is_minimum,
    "curvature.ggn_diagonal": curvature.ggn_diagonal,
    "curvature.hessian_diagonal": curvature.hessian_diagonal,
    "curvature.trace": curvature.trace,
    "curvature.trace_estimate": partial(curvature.trace_estimate, key=KEY, probes=5),
    "curvature.kfac": curvature.kfac,
    "curvature.spectrum": partial(curvature.spectrum, key=KEY, steps=5, probes=2),
    "kernel.empirical_ntk": lambda p, x, y, net: kernel.empirical_ntk(p, x, None, net),
    "kernel.empirical_ntk, diagonal": lambda p, x, y, net: kernel.empirical_ntk(p, x, None, net, outputs="diagonal"),
    "kernel.empirical_ntk, trace": lambda p, x, y, net: kernel.empirical_ntk(p, x, None, net, outputs="trace"),
    "kernel.empirical_ntk, blocks": lambda p, x, y, net: kernel.empirical_ntk(p, x, None, net, block_size=3),
    "kernel.ntk_vp": lambda p, x, y, net: kernel.ntk_vp(p, x, y, None, net),
    "graph.grad": lambda p, x, y, net: graph.grad(lambda p: jaxnet.cost(p, x, y, net))(p),
}


def own_in_shard_map(name):
    """What each device finds of its own examples, for quantities that loop; the first axis of results is devices."""

    def run(params, x, y, net):
        def own(params, x, y):
            return jax.tree.map(lambda array: array[None], QUANTITIES[name](params, x, y, net))

        if len(x.devices()) == 1:
            parts = [own(params, *part) for part in zip(jnp.split(x, DEVICES), jnp.split(y, DEVICES), strict=True)]
            return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
        rows = PartitionSpec("examples")
        mapped = jax.shard_map(own, mesh=x.sharding.mesh, in_specs=(PartitionSpec(), rows, rows), out_specs=rows)
        return jax.jit(mapped)(params, x, y)

    return run


LOOPS = "per_example.clipped_gradient, microbatches", "per_example.second_moment", "curvature.spectrum"
# These compile by themselves.
BY_THEMSELVES = {
    **{f"{name}, in shard_map": own_in_shard_map(name) for name in LOOPS},
    "forward_with_backprop, in shard_map": gradient_in_shard_map,
    "train, batch": trained,
    "train, mini-batches": partial(trained, batch_size=3),
    "ensemble.train": members_trained,
    "ensemble.train, own keys and rates": partial(members_trained, own=True),
}
# Of what all others are made: on a mesh with explicit axes, which JAX makes where nothing is asked for.
EXPLICIT = [
    f"{name}, explicit axes"
    for name in (
        "backprop", "backprop, wide", "signals", "per_example.dot_products", "per_example.dot_products, as many others",
        "per_example.clipped_gradient, microbatches", "per_example.second_moment", "curvature.hvp", "curvature.kfac",
        "kernel.empirical_ntk", "kernel.empirical_ntk, diagonal", "kernel.empirical_ntk, trace",
        "kernel.empirical_ntk, blocks", "kernel.ntk_vp", "forward_with_backprop, in shard_map", "graph.grad",
        "train, batch", "train, mini-batches", "ensemble.train",
        "ensemble.train, own keys and rates",
    )
]  # fmt: skip
NAMES = [*QUANTITIES, "backprop, wide", "signals, wide", *BY_THEMSELVES, *EXPLICIT]

PER_EXAMPLE = {
    "forward", "signals", "signals, wide", "input_gradient", "per_example.gradients", "per_example.norms",
    "per_example.dot_products", "per_example.dot_products, another set", "per_example.cosine_to_mean",
    "per_example.dot_products, as many others", "kernel.empirical_ntk", "kernel.empirical_ntk, trace", "kernel.ntk_vp",
    "kernel.empirical_ntk, diagonal, explicit axes",
}  # fmt: skip
# A product for each output, and a loop over blocks: the compiler gathers these on every device.
GATHERED = {"kernel.empirical_ntk, diagonal", "kernel.empirical_ntk, blocks"}


def program(name):
    """What computes a quantity, and the sizes of the network that it is computed of."""
    name = name.removesuffix(", explicit axes")
    if name in BY_THEMSELVES:
        return BY_THEMSELVES[name], SIZES
    plain = name.removesuffix(", wide")
    return jax.jit(QUANTITIES[plain]), SIZES if plain == name else WIDE


def findings():
    """Of each quantity, the relative difference from one device's, and over how many devices axes of examples lie."""
    explicit = jax.make_mesh((DEVICES,), ("examples",))
    automatic = jax.make_mesh((DEVICES,), ("examples",), axis_types=(AxisType.Auto,))
    found = {}
    for name in NAMES:
        mesh = explicit if name in EXPLICIT else automatic
        everywhere, by_rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("examples",)))
        run, sizes = program(name)
        params, x, y = problem(sizes, NET, n=N, dtype="float64")
        actual = run(jax.device_put(params, everywhere), *jax.device_put((x, y), by_rows), NET)
        worst = jaxnet.check.compare(actual, run(params, x, y, NET)).witnesses[0].worst
        leaves = [leaf for leaf in jax.tree.leaves(actual) if leaf.shape[:1] == (N,)]
        devices = {N // leaf.sharding.shard_shape(leaf.shape)[0] for leaf in leaves}
        found[name] = {"difference": worst.relative_error, "devices": sorted(devices)}
    return found


@pytest.fixture(scope="module")
def found():
    root = Path(__file__).parents[1]
    environment = {
        "PYTHONPATH": str(root),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "JAX_ENABLE_X64": "1",
        # Nearly all of the time is compiling, which goes as in make test.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run([sys.executable, __file__], cwd=root, env=os.environ | environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_devices_change_nothing(found, name):
    assert found[name]["difference"] <= 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_axes_of_examples_stay_spread(found, name):
    spread, gathered = ({name, name.removesuffix(", explicit axes")} & names for names in (PER_EXAMPLE, GATHERED))
    expected = [DEVICES] if spread else [1] if gathered else []
    assert found[name]["devices"] == expected


def test_everything_public_is_here():
    for module in (per_example, curvature, kernel):
        package = module.__name__.removeprefix("jaxnet.")
        public = {f"{package}.{name}" for name in module.__all__ if inspect.isfunction(getattr(module, name))}
        assert public <= {name.partition(",")[0] for name in QUANTITIES}


if __name__ == "__main__":
    print(json.dumps(findings()))
