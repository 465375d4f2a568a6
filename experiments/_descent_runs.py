"""Networks trained by batch, mini-batch and stochastic descent, and by other optimizers, at many step sizes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import jaxnet
from experiments.common import RESULTS
from jaxnet import ensemble, per_example
from jaxnet._numeric import total_square
from jaxnet.activations import identity, softmax
from jaxnet.data import Data
from jaxnet.losses import softmax_cross_entropy

NET = jaxnet.Network(output=softmax, loss=softmax_cross_entropy)
BATCH, MINI_BATCH, STOCHASTIC = METHODS = ("batch", "mini-batch", "stochastic")
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "momentum": partial(optax.sgd, momentum=0.9),
    "Adagrad": optax.adagrad,
    "RMSprop": optax.rmsprop,
    "Adam": optax.adam,
}
"""Beside plain descent; with optax's defaults."""


@dataclass(frozen=True)
class Settings:
    """What to train, and on how much."""

    hidden: int = 16
    """Hidden units."""
    seed: int = 0
    """Seed of the initial weights, the order of the examples, and the batches drawn to measure their noise."""
    repeats: int = 4
    """Networks of every step size by which the best one is chosen; it is judged by as many others."""
    per_decade: int = 1
    """Step sizes from one power of ten to the next, between 1e-4 and 1e2."""
    batch_size: int = 32
    """Examples in a mini-batch."""
    epochs: int = 20
    """Passes over the examples, by mini-batches, single examples, and every optimizer."""
    batch_epochs: int = 200
    """Passes over the examples by batch gradient descent, each of them one step."""
    target: float = 0.1
    """Cost to reach, in nats."""
    batches: int = 50
    """Batches of each size that are drawn to measure the noise in their gradient."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""

    @property
    def rates(self) -> np.ndarray:
        """The step sizes."""
        return np.logspace(-4, 2, 6 * self.per_decade + 1)


class Sweep(NamedTuple):
    """Training at every step size: ``costs`` (2 · repeats, rates, epochs), and the parameters at the end.

    The cost is that of all examples, after each epoch; infinite after one that was not finite.
    """

    costs: np.ndarray
    params: Any


class Tuned(NamedTuple):
    """The best step size by one half of a sweep, and the other half at it: ``costs`` (repeats, epochs)."""

    rate: float
    costs: np.ndarray
    params: Any


def examples(batch_size: int) -> Data:
    """The digits, as many as make whole batches."""
    x, y = jaxnet.data.digits()
    whole = len(x) // batch_size * batch_size
    return Data(x[:whole], y[:whole])


def starts(key: Array, settings: Settings, data: Data) -> Any:
    """Initial weights for both halves of a sweep, the same ones at every step size."""
    return ensemble.init(key, 2 * settings.repeats, (data.x.shape[1], settings.hidden, data.y.shape[1]))


def cost_after(params: Any, x: Array, y: Array, net: jaxnet.Network) -> Array:
    """The cost of all examples."""
    logits = jaxnet.forward(params, x, replace(net, output=identity))
    return jnp.mean(net.loss.value(logits, y))


def sweep(
    key: Array,
    params: Any,
    data: Data,
    optimizer: Callable[..., optax.GradientTransformation],
    settings: Settings,
    *,
    epochs: int,
    batch_size: int,
) -> Sweep:
    """Train all starts at all step sizes in one call."""
    rates = settings.rates
    runs = len(params[0].bias)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # step sizes that are far too large are part of a sweep
        result = ensemble.train(
            jnp.repeat(jax.random.split(key, runs), len(rates)),
            jax.tree.map(lambda leaf: jnp.repeat(leaf, len(rates), axis=0), params),
            data,
            net=NET,
            optimizer=optimizer,
            hyperparams={"learning_rate": np.tile(rates, runs)},
            epochs=epochs,
            batch_size=batch_size,
            metrics={"cost_after": cost_after},
        )
    costs = result.history["cost_after"].reshape(runs, len(rates), epochs)
    return Sweep(
        np.where(np.isfinite(costs), costs, np.inf),
        jax.tree.map(lambda leaf: np.asarray(leaf).reshape(runs, len(rates), *leaf.shape[1:]), result.params),
    )


def tuned(found: Sweep, score: Callable[[np.ndarray], np.ndarray], rates: np.ndarray) -> Tuned:
    """Choose the step size of the lowest mean score, a function of costs (..., epochs), by the first half."""
    half = len(found.costs) // 2
    best = int(np.argmin(score(found.costs[:half]).mean(axis=0)))
    return Tuned(
        float(rates[best]), found.costs[half:, best], jax.tree.map(lambda leaf: leaf[half:, best], found.params)
    )


def last_cost(costs: np.ndarray) -> np.ndarray:
    """The logarithm of the cost after the last epoch: a score."""
    return np.log10(costs[..., -1])


def epochs_to(target: float, costs: np.ndarray) -> np.ndarray:
    """After how many epochs the cost is at the target; one more than there are where it never is."""
    reached = costs <= target
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, costs.shape[-1] + 1).astype(float)


def first_epoch(key: Array, params: Any, data: Data, rate: float, batch_size: int) -> np.ndarray:
    """The cost of all examples at the start and after every step of the first epoch: (starts, steps + 1)."""
    step = jaxnet.make_step(optimizer := optax.sgd(rate), NET)

    def one(key: Array, params: Any) -> Array:
        def measured_step(state: jaxnet.State, rows: Array) -> tuple[jaxnet.State, Array]:
            state, _ = step(state, (data.x[rows], data.y[rows]))
            return state, jaxnet.cost(state.params, *data, NET)

        order = jax.random.permutation(key, len(data.x)).reshape(-1, batch_size)
        _, costs = lax.scan(measured_step, jaxnet.State(params, optimizer.init(params)), order)
        return jnp.concatenate([jaxnet.cost(params, *data, NET)[None], costs])

    keys = jax.random.split(key, len(params[0].bias))
    return np.asarray(jax.jit(lambda keys, params: lax.map(lambda given: one(*given), (keys, params)))(keys, params))


def seconds_per_epoch(key: Array, params: Any, data: Data, batch_size: int, epochs: int, times: int = 5) -> np.ndarray:
    """How long an epoch of one network takes, without compiling: (times,)."""
    optimizer, found = optax.sgd(0.01), []
    for _ in range(times + 1):
        began = time.perf_counter()
        jaxnet.train(key, params, data, net=NET, optimizer=optimizer, epochs=epochs, batch_size=batch_size)
        found.append((time.perf_counter() - began) / epochs)
    return np.array(found[1:])


class Noise(NamedTuple):
    """The noise in a batch's gradient, of networks (repeats,).

    ``variance``: tr Σ, the variance of one example's gradient. ``signal``: ‖G‖², the squared norm of the gradient of
    all examples. ``measured``: the mean of ‖g − G‖² over batches, (repeats, sizes).
    """

    variance: np.ndarray
    signal: np.ndarray
    measured: np.ndarray


def noise_of(key: Array, params: Any, data: Data, sizes: tuple[int, ...], batches: int) -> Noise:
    """Of networks (repeats, ...): the noise of batches of every size, drawn with replacement."""
    n = len(data.x)

    def counts(key: Array, size: int) -> Array:
        """How often each example is in each batch: its weight there, (batches, n)."""
        rows = jax.random.randint(key, (batches, size), 0, n)
        return jnp.zeros((batches, n)).at[jnp.arange(batches)[:, None], rows].add(1.0)

    weights = jnp.stack([counts(*given) for given in zip(jax.random.split(key, len(sizes)), sizes, strict=True)])

    def one(params: Any) -> tuple[Array, Array, Array]:
        _, gradient = jaxnet.backprop(params, *data, NET)

        def squared_error(weights: Array) -> Array:
            _, of_batch = jaxnet.backprop(params, *data, NET, weights)
            return total_square(jax.tree.map(jnp.subtract, of_batch, gradient))

        measured = lax.map(squared_error, weights.reshape(-1, n)).reshape(len(sizes), batches).mean(axis=1)
        variance = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(per_example.variance(params, *data, NET)))
        return jnp.asarray(variance), total_square(gradient), measured

    return Noise(*map(np.asarray, jax.jit(partial(lax.map, one))(params)))
