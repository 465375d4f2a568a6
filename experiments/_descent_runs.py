"""Networks trained by batch, mini-batch and stochastic descent, and by other optimizers, at many step sizes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
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
from experiments.common import RESULTS, initial, quickly_compiled
from jaxnet import ensemble, per_example
from jaxnet._numeric import total_square
from jaxnet.activations import identity, softmax
from jaxnet.data import Data
from jaxnet.losses import softmax_cross_entropy

NET = jaxnet.Network(output=softmax, loss=softmax_cross_entropy)
BATCH, MINI_BATCH, STOCHASTIC = METHODS = ("batch", "mini-batch", "stochastic")
PLAIN = "plain descent"
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    PLAIN: optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "Adagrad": optax.adagrad,
    "RMSprop": optax.rmsprop,
    "Adam": optax.adam,
}
"""With optax's defaults."""


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
    sizes = data.x.shape[1], settings.hidden, data.y.shape[1]
    return initial(key, 2 * settings.repeats, sizes)


def cost_after(params: Any, x: Array, y: Array, net: jaxnet.Network) -> Array:
    """The cost of all examples."""
    logits = jaxnet.forward(params, x, replace(net, output=identity))
    return jnp.mean(net.loss.value(logits, y))


def any_of(names: Iterable[str]) -> Callable[[Array, Array], optax.GradientTransformation]:
    """Makes one of these `OPTIMIZERS`, by its number: all of them take a step, and that of the chosen one counts."""

    def make(learning_rate: Array, number: Array) -> optax.GradientTransformation:
        all_of = [OPTIMIZERS[name](learning_rate) for name in names]

        def chosen(*updates: Array) -> Array:
            return jnp.select([number == i for i in range(len(updates))], updates)

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            found = [one.update(updates, own, params) for one, own in zip(all_of, state, strict=True)]
            return jax.tree.map(chosen, *(of_one for of_one, _ in found)), tuple(own for _, own in found)

        return optax.GradientTransformation(lambda params: tuple(one.init(params) for one in all_of), update)

    return make


def sweeps(
    key: Array, params: Any, data: Data, names: Sequence[str], settings: Settings, *, epochs: int, batch_size: int
) -> dict[str, Sweep]:
    """Train all starts at all step sizes by each of these optimizers, all in one call: one program to compile."""
    rates = settings.rates
    number, start, rate = (grid.ravel() for grid in np.indices((len(names), len(params[0].bias), len(rates))))
    shape = len(names), -1, len(rates)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # step sizes that are far too large are part of a sweep
        result = ensemble.train(
            jax.random.split(key, max(start) + 1)[start],
            jax.tree.map(lambda leaf: np.asarray(leaf)[start], params),
            data,
            net=NET,
            optimizer=any_of(names),
            hyperparams={"learning_rate": rates[rate], "number": number},
            epochs=epochs,
            batch_size=batch_size,
            metrics={"cost_after": cost_after},
        )
    costs = result.history["cost_after"]
    costs = np.where(np.isfinite(costs), costs, np.inf).reshape(*shape, epochs)
    ended = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*shape, *leaf.shape[1:]), result.params)
    return {name: Sweep(costs[i], jax.tree.map(lambda leaf, i=i: leaf[i], ended)) for i, name in enumerate(names)}


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


def first_epoch(
    key: Array, params: Any, data: Data, rate: float, batch_size: int, points: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """The cost of all examples on the way through the first epoch: how many were seen, and costs (starts, points).

    At few points, because a cost of all examples takes as long as many a step on one.
    """
    n = len(data.x)
    told = np.unique(np.append(0, np.geomspace(1, n // batch_size, points).round().astype(int)))
    step = jaxnet.make_step(optimizer := optax.sgd(rate), NET)

    def one(given: tuple[Array, Any]) -> Array:
        key, params = given

        def kept_step(state: jaxnet.State, rows: Array) -> tuple[jaxnet.State, Any]:
            after, _ = step(state, (data.x[rows], data.y[rows]))
            return after, state.params

        order = jax.random.permutation(key, n).reshape(-1, batch_size)
        last, before = lax.scan(kept_step, jaxnet.State(params, optimizer.init(params)), order)
        some = jax.tree.map(lambda rest, last: jnp.append(rest, last[None], axis=0)[told], before, last.params)
        return lax.map(lambda params: jaxnet.cost(params, *data, NET), some)

    keys = jax.random.split(key, len(params[0].bias))
    return told * batch_size, np.asarray(quickly_compiled(partial(lax.map, one), level=1)((keys, params)))


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
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    # How often each example is in each batch: its weight there.
    weights = np.stack([generator.multinomial(size, np.full(n, 1 / n), batches) for size in sizes])
    return Noise(*map(np.asarray, _noise(params, data, weights.astype(np.float32))))


@partial(quickly_compiled, level=1)
def _noise(params: Any, data: Data, weights: Array) -> tuple[Array, Array, Array]:
    def one(params: Any) -> tuple[Array, Array, Array]:
        _, gradient = jaxnet.backprop(params, *data, NET)

        def squared_error(weights: Array) -> Array:
            _, of_batch = jaxnet.backprop(params, *data, NET, weights)
            return total_square(jax.tree.map(jnp.subtract, of_batch, gradient))

        measured = lax.map(lambda of_size: jnp.mean(lax.map(squared_error, of_size)), weights)
        variance = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(per_example.variance(params, *data, NET)))
        return jnp.asarray(variance), total_square(gradient), measured

    return lax.map(one, params)
