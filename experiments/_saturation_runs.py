"""Networks of many depths and initial scales for `experiments.saturation`: what they are like at the start and end."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxnet
from experiments.common import RESULTS, initial, quickly_compiled, two_at_a_time
from jaxnet._numeric import length
from jaxnet.data import Data
from jaxnet.losses import cross_entropy, squared_error

LOSSES = (squared_error, cross_entropy)
NETS = tuple(jaxnet.Network(loss=loss) for loss in LOSSES)
NAMES = ("squared error", "cross-entropy")
SATURATED = 0.05
"""A unit is saturated by an example where its activation is so near to 0 or 1."""


@dataclass(frozen=True)
class Settings:
    """Which networks to train, and on how much."""

    units: int = 30
    """Units of every hidden layer."""
    depth: int = 6
    """Hidden layers: from 1 to so many."""
    per_decade: int = 1
    """Initial scales from one power of ten to the next, between 1e-3 and 1e3."""
    repeats: int = 3
    """Networks of every loss, depth and scale, each with initial weights of its own."""
    seed: int = 0
    """Seed of the split, the initial weights and the order of the examples."""
    learning_rates: tuple[float, ...] = (1.0,)
    """Step sizes of gradient descent; of several, the one of the lowest cost for each network."""
    epochs: int = 15
    """Passes over the training examples."""
    batch_size: int = 32
    """Examples in a step."""
    published_starts: int = 100
    """Initial weights to compare the published gradient norms with."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""

    @property
    def scales(self) -> np.ndarray:
        """The initial scales; the middle one is 1."""
        return np.logspace(-3, 3, 6 * self.per_decade + 1)


class Start(NamedTuple):
    """Of a network before training.

    ``norms``: of the gradient of each layer's biases, which is the mean delta, the output last.
    ``saturated``: the share of all hidden units and examples.
    """

    norms: Array
    saturated: Array


class Grid(NamedTuple):
    """What became of the networks: arrays (losses, depths, repeats, scales).

    ``norms`` has one more axis, of layers: the hidden ones, nan where a network has fewer, and the output as last.
    """

    norms: np.ndarray
    saturated: np.ndarray
    cost: np.ndarray
    accuracy: np.ndarray


def start_of(params: Any, data: Data, net: jaxnet.Network) -> Start:
    """The gradient norms of a network, layer by layer, and the share of its hidden units that are saturated."""
    found = jaxnet.signals(params, *data, net)
    norms = jnp.stack([length(jnp.mean(delta, axis=0)) for delta in found.deltas])  # of vanishing ones, too
    hidden = jnp.concatenate(found.activations[1:-1], axis=-1)
    return Start(norms, jnp.mean(jnp.abs(hidden - 0.5) > 0.5 - SATURATED))


def split_digits(key: Array, batch_size: int) -> tuple[Data, Data]:
    """80 % of the digits to train on, whole batches of them, and 20 % to test with."""
    training, test = jaxnet.data.split(key, jaxnet.data.digits(), 0.8)
    whole = len(training.x) // batch_size * batch_size
    return Data(training.x[:whole], training.y[:whole]), test


def train_grid(key: Array, training: Data, test: Data, settings: Settings, *, progress: bool) -> Grid:
    """Train a network for every loss, depth, repeat, scale and step size; keep the best step size of each."""
    init_key, order_key = jax.random.split(key)
    shape = settings.repeats, len(settings.scales), len(settings.learning_rates)
    scales = np.broadcast_to(settings.scales[:, None], shape).ravel()
    rates = np.broadcast_to(np.array(settings.learning_rates, np.float32), shape).ravel()
    sizes = training.x.shape[1], *[settings.units] * settings.depth, training.y.shape[1]
    deepest = initial(init_key, len(scales), sizes, scale=scales)
    keys = jax.random.split(order_key, max(settings.epochs, 1))[: settings.epochs]
    order = [np.asarray(jax.random.permutation(key, len(training.x))) for key in keys]
    steps = len(training.x) // settings.batch_size
    rows = np.reshape(order, (settings.epochs, steps, settings.batch_size)).astype(int)
    batches = Data(training.x[rows], training.y[rows])

    def best(norms: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
        """What was found of the members (members, losses, ...), of the best step sizes: (losses, repeats, scales)."""
        padding = np.full((*norms.shape[:2], settings.depth + 1 - norms.shape[2]), np.nan)
        padded = np.concatenate([norms[..., :-1], padding, norms[..., -1:]], axis=-1)
        (*found,) = (np.moveaxis(np.reshape(array, (*shape, *array.shape[1:])), 3, 0) for array in (padded, *others))
        chosen = np.argmin(np.where(np.isfinite(found[2]), found[2], np.inf), axis=3)
        return tuple(
            np.take_along_axis(array, chosen.reshape(*chosen.shape, *[1] * (array.ndim - 3)), axis=3).squeeze(3)
            for array in found
        )

    def of_depth(depth: int) -> tuple[np.ndarray, ...]:
        found = _start_and_end((*deepest[:depth], deepest[-1]), rates, batches, training, test)
        return best(*map(np.asarray, found))

    jobs = {depth: partial(of_depth, depth) for depth in range(1, settings.depth + 1)}
    by_depth = two_at_a_time(jobs, "depths", progress=progress).values()
    return Grid(*(np.stack(values, axis=1) for values in zip(*by_depth, strict=True)))


@partial(quickly_compiled, level=1)
def _start_and_end(params: Any, rates: Array, batches: Data, training: Data, test: Data) -> tuple[Array, ...]:
    """Train members, each by both losses: norms and saturation at the start, cost and accuracy at the end.

    Returns arrays (members, losses, ...). The members take turns, for with so few of each depth `ensemble.train` takes
    longer to compile than to run.
    """

    def trained(net: jaxnet.Network, params: Any, rate: Array) -> Any:
        def step(params: Any, batch: Data) -> tuple[Any, Array]:
            return jaxnet.sgd_step(params, *batch, rate, net)

        return lax.scan(lambda params, epoch: lax.scan(step, params, epoch), params, batches)[0]

    def member(given: tuple[Any, Array]) -> tuple[Array, ...]:
        found = []
        for net in NETS:
            end = trained(net, *given)
            cost, accuracy = jaxnet.cost(end, *training, net), jaxnet.accuracy(end, *test, net)
            found.append((*start_of(given[0], training, net), cost, accuracy))
        return tuple(jnp.stack(values) for values in zip(*found, strict=True))

    return lax.map(member, (params, rates))


# ----------------------------------------------------------------------------------------------------------------------
# The published norms


def mnist_images(n: int = 1000) -> Data | None:
    """The first training images of MNIST; None where JAXNET_DATA names no folder: nothing is downloaded."""
    if not os.environ.get("JAXNET_DATA"):
        return None
    try:
        x, y = jaxnet.data.mnist().train
    except FileNotFoundError:
        return None
    return Data(x[:n], y[:n])


def default_start(key: Array, members: int, sizes: tuple[int, ...]) -> tuple[jaxnet.Layer, ...]:
    """Nielsen's default: weights of variance 1 / inputs, biases of variance 1, all normal."""
    return tuple(
        jaxnet.Layer(weight / math.sqrt(weight.shape[-1]), bias)
        for weight, bias in initial(key, members, sizes, scheme="normal")
    )


def norms_of_starts(key: Array, data: Sequence[Data], members: int, depth: int) -> list[np.ndarray]:
    """Gradient norms of 784-30-...-30-10 networks of 1, 2, ... ``depth`` hidden layers before training.

    Arrays (members, data sets, losses, layers). The shallow ones have the first hidden layers of the deepest.
    """
    inputs, outputs = data[0].x.shape[1], data[0].y.shape[1]
    deepest = default_start(key, members, (inputs, *[30] * depth, outputs))
    return list(map(np.asarray, _norms_by_depth(deepest, tuple(data))))


@partial(quickly_compiled, level=1)
def _norms_by_depth(deepest: Any, data: tuple[Data, ...]) -> list[Array]:
    def norms(params: Any) -> Array:
        return jnp.stack([jnp.stack([start_of(params, part, net).norms for net in NETS]) for part in data])

    depths = range(1, len(deepest))
    return lax.map(lambda params: [norms((*params[:depth], params[-1])) for depth in depths], deepest)
