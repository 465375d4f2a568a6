"""Networks of many depths and initial scales for `experiments.saturation`: what they are like at the start and end."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxnet
from experiments.common import RESULTS, console
from jaxnet import ensemble
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
    norms = jnp.stack([jnp.linalg.norm(jnp.mean(delta, axis=0)) for delta in found.deltas])
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
    rates = np.broadcast_to(np.array(settings.learning_rates), shape).ravel()
    sizes = training.x.shape[1], *[settings.units] * settings.depth, training.y.shape[1]
    deepest = ensemble.init(init_key, len(scales), sizes, scale=scales)

    def one(net: jaxnet.Network, depth: int) -> tuple[Any, ...]:
        params = *deepest[:depth], deepest[-1]
        trained = ensemble.train(
            order_key,
            params,
            training,
            net=net,
            optimizer=optax.sgd,
            hyperparams={"learning_rate": rates},
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            record_every=max(settings.epochs, 1),
        ).params
        norms, saturated = jax.vmap(lambda params: start_of(params, training, net))(params)
        padding = jnp.full((len(norms), settings.depth - depth), jnp.nan)
        found = (
            jnp.concatenate([norms[:, :-1], padding, norms[:, -1:]], axis=1),
            saturated,
            jax.vmap(lambda params: jaxnet.cost(params, *training, net))(trained),
            jax.vmap(lambda params: jaxnet.accuracy(params, *test, net))(trained),
        )
        (*found,) = (np.asarray(values).reshape(*shape, *values.shape[1:]) for values in found)
        best = np.argmin(found[2], axis=2)
        return tuple(
            np.take_along_axis(values, best.reshape(*best.shape, *[1] * (values.ndim - 2)), axis=2).squeeze(2)
            for values in found
        )

    rows = []
    for net, name in zip(NETS, NAMES, strict=True):
        row = []
        for depth in range(1, settings.depth + 1):
            if progress:
                console.print(f"[dim]{name}, {depth} hidden layers ...")
            row.append(one(net, depth))
        rows.append([np.stack(values) for values in zip(*row, strict=True)])
    return Grid(*(np.stack(values) for values in zip(*rows, strict=True)))


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
        for weight, bias in ensemble.init(key, members, sizes, scheme="normal")
    )


def norms_of_starts(key: Array, data: Data, members: int, depth: int) -> np.ndarray:
    """Gradient norms of 784-30-...-30-10 networks before training: (losses, members, layers)."""
    params = default_start(key, members, (data.x.shape[1], *[30] * depth, data.y.shape[1]))
    return np.stack([jax.vmap(lambda one, net=net: start_of(one, data, net).norms)(params) for net in NETS])
