"""The networks of `experiments.minima`: tasks, training, and training on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

import jaxnet
from experiments._minima_census import NET
from experiments.common import RESULTS, quickly_compiled, two_at_a_time
from jaxnet import ensemble
from jaxnet.data import Data
from jaxnet.network import Layer, Params


@dataclass(frozen=True)
class Settings:
    """What to train."""

    members: int = 20_000
    """Networks for XOR of each number of hidden units."""
    hidden: tuple[int, ...] = (2, 3, 4, 8, 16)
    """Numbers of hidden units for XOR, rising; the first is looked at most closely."""
    parity_members: int = 2000
    """Networks for the parity of three bits of each number of hidden units."""
    parity_hidden: tuple[int, ...] = (2, 4, 16)
    """Numbers of hidden units for the parity of three bits, rising."""
    epochs: int = 2000
    """Steps, each on all examples."""
    learning_rate: float = 8.0
    """Step size of gradient descent."""
    scale: float = 1.0
    """Factor on the initial weights, which are standard normal."""
    longer: int = 10
    """How many times as many steps those get again that are not at the global minimum."""
    looked_at: int = 1000
    """Networks at most of each number of hidden units whose Hessian is computed, and that are trained longer."""
    searches: int = 500
    """Starts of Newton's method in search of stationary points."""
    pairs: int = 200
    """Pairs of solutions with a straight path between them."""
    seed: int = 0
    """Seed of all that is random."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


class Longer(NamedTuple):
    """Networks trained on: costs after every ``epochs`` steps, the first being those they had, and ‖θ‖ at both ends."""

    cost: np.ndarray
    norms: tuple[np.ndarray, np.ndarray]


def parity(bits: int = 3) -> Data:
    """All words of so many bits; y = 1 where an odd number of them is 1."""
    x = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
    return Data(jnp.asarray(x, jnp.float32), jnp.asarray(x.sum(axis=1, keepdims=True) % 2, jnp.float32))


def narrowed(params: Params, hidden: int) -> tuple[Layer, ...]:
    """Members with only the first so many of their hidden units: normal weights, drawn once, serve every width."""
    V, W = params
    return Layer(V.weight[:, :hidden], V.bias[:, :hidden]), Layer(W.weight[:, :, :hidden], W.bias)


class Descent(NamedTuple):
    """A start of gradient descent, its data, and for how long: ``times`` × ``Settings.epochs`` steps, in a dtype."""

    params: Params
    data: Data
    dtype: DTypeLike = jnp.float32
    times: int = 1


def descend(settings: Settings, run: Descent) -> ensemble.EnsembleResult:
    """Gradient descent, recorded after every ``settings.epochs`` steps."""
    with jax.enable_x64(run.dtype == jnp.float64):
        params, data = jax.tree.map(lambda leaf: jnp.asarray(leaf, run.dtype), (run.params, run.data))
        return ensemble.train(
            jax.random.key(0),  # for the order of the examples, which batch gradient descent does not use
            params,
            data,
            optimizer=_sgd(settings.learning_rate),
            epochs=run.times * settings.epochs,
            record_every=settings.epochs,
        )


_sgd = cache(optax.sgd)
"""One object for each step size, so that runs of equal shapes share a compiled program."""


def descend_each(settings: Settings, runs: Sequence[Descent], *, progress: bool) -> list[ensemble.EnsembleResult]:
    """`descend` each."""
    _sgd(settings.learning_rate)  # or two threads would make one
    jobs = {i: partial(descend, settings, run) for i, run in enumerate(runs)}
    return list(two_at_a_time(jobs, "training", progress=progress).values())


def _norms(params: Params) -> np.ndarray:
    return np.sqrt(sum(np.sum(np.square(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(params)))


def longer(run: Descent, result: ensemble.EnsembleResult) -> Longer:
    """What became of networks that trained on."""
    params, (x, y) = jax.tree.map(lambda leaf: np.asarray(leaf, run.dtype), (run.params, run.data))
    start = quickly_compiled(jax.vmap(lambda params: jaxnet.cost(params, x, y, NET)))(params)
    costs = np.concatenate([np.asarray(start)[:, None], result.history["cost"]], axis=1)
    return Longer(costs, (_norms(params), _norms(jax.tree.map(np.asarray, result.params))))
