"""The published program: its random numbers, the order of its examples, its steps, and what it measures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from rich.progress import track

import jaxnet
from experiments.common import mnist
from jaxnet.losses import Loss, cross_entropy, squared_error

Curve = Literal["evaluation_cost", "evaluation_correct", "training_cost", "training_correct"]
Curves = dict[str, np.ndarray]

_BATCHES_A_CALL = 250
_EXAMPLES_A_CALL = 1000
_PERTURBATION = 1e-15
VALIDATION_FROM = 50_000


def _half_squared_error(z: Array, y: Array) -> Array:
    return squared_error.value(z, y) / 2


def _half_squared_error_derivative(z: Array, y: Array) -> Array:
    return z - y


COSTS = {
    "cross_entropy": cross_entropy,
    "quadratic": Loss("half_squared_error", _half_squared_error, _half_squared_error_derivative),
}


@dataclass(frozen=True)
class Recipe:
    """What makes a figure of the book; the names and meanings are those of `experiments.nielsen.Settings`."""

    sizes: tuple[int, ...]
    images: int
    initialisation: Literal["default", "large"]
    eta: tuple[float, ...]
    lmbda: float
    batch: int
    cost: Literal["cross_entropy", "quadratic"]
    epochs: int
    measure: tuple[Curve, ...]
    evaluation: Literal["validation", "test"]
    seed: int

    def network(self, n: int) -> jaxnet.Network:
        """The kind of the network, with the penalty of a set of ``n`` examples: λ/(2n) Σ W²."""
        return jaxnet.Network(loss=COSTS[self.cost], l2=self.lmbda / n)


class Images(NamedTuple):
    """Pixels (n, inputs) and one-hot labels (n, 10), in float32, which holds them exactly."""

    x: np.ndarray
    y: np.ndarray


class Run(NamedTuple):
    """What was measured of a network after each epoch, and of its twin over the first epochs.

    The twin begins with parameters that differ by a part in 10¹⁵ and is trained alike: where its curves leave the
    others, rounding decides, and the order of sums in which programs differ.
    """

    eta: float
    curves: Curves
    twin: Curves


def take(data: Images, rows: Any) -> Images:
    """Some of the examples."""
    return Images(data.x[rows], data.y[rows])


def load() -> tuple[Images, Images]:
    """All MNIST images, to train on and to test with; the program divides pixels by 256, `jaxnet.data` by 255."""
    parts = (Images(np.rint(np.asarray(data.x) * 255) / np.float32(256), np.asarray(data.y)) for data in mnist())
    return next(parts), next(parts)


def choose(recipe: Recipe, training: Images, test: Images) -> tuple[Images, Images]:
    """To train on, the first of the first 50,000; to evaluate on, the last 10,000 or the test images."""
    available = min(VALIDATION_FROM, len(training.x))
    if not 1 <= recipe.images <= available:
        raise ValueError(f"images is {recipe.images}, expected 1 to {available}")
    evaluation = test if recipe.evaluation == "test" else take(training, slice(VALIDATION_FROM, None))
    if not len(evaluation.x):
        raise ValueError(f"evaluation is {recipe.evaluation}, but there are no more than {available} training images")
    return take(training, slice(recipe.images)), evaluation


def draw(recipe: Recipe, generator: np.random.RandomState) -> tuple[jaxnet.Layer, ...]:
    """Biases first, then weights / √inputs; the large initialisation draws all again, and does not divide."""

    def parameters(divide: bool) -> tuple[jaxnet.Layer, ...]:
        biases = [generator.randn(units) for units in recipe.sizes[1:]]
        weights = [
            generator.randn(units, inputs) / (np.sqrt(inputs) if divide else 1)
            for inputs, units in pairwise(recipe.sizes)
        ]
        return tuple(jaxnet.Layer(jnp.asarray(w), jnp.asarray(b)) for w, b in zip(weights, biases, strict=True))

    params = parameters(divide=True)
    return params if recipe.initialisation == "default" else parameters(divide=False)


def shuffle(order: list[int], generator: random.Random) -> None:
    """As ``random.shuffle`` of Python 2 did it."""
    draw = generator.random
    for i in range(len(order) - 1, 0, -1):
        j = int(draw() * (i + 1))
        order[i], order[j] = order[j], order[i]


@jax.jit
def descend(params: Any, x: Array, y: Array, eta: Array, net: jaxnet.Network) -> Any:
    """A step on each of the batches (steps, batch, inputs), one after another."""

    def step(params: Any, batch: tuple[Array, Array]) -> tuple[Any, Array]:
        x, y = (array.astype(eta.dtype) for array in batch)
        return jaxnet.sgd_step(params, x, y, eta, net)

    return lax.scan(step, params, (x, y))[0]


def epoch(params: Any, training: Images, order: list[int], eta: Array, batch: int, net: jaxnet.Network) -> Any:
    """All the examples once, in their order; a last short batch is a step of its own."""
    rows, rest = np.split(np.array(order), [len(order) // batch * batch])
    size = _BATCHES_A_CALL * batch
    for part in [*(rows[start : start + size] for start in range(0, len(rows), size)), rest]:
        if len(part):
            x, y = (array.reshape(-1, min(batch, len(part)), array.shape[1]) for array in take(training, part))
            params = descend(params, x, y, eta, net)
    return params


@jax.jit
def cost_and_correct(params: Any, x: Array, y: Array, net: jaxnet.Network) -> tuple[Array, Array]:
    """The cost, and how many examples are classified right."""
    x, y = (array.astype(params[0].bias.dtype) for array in (x, y))
    return jaxnet.cost(params, x, y, net), jnp.round(jaxnet.accuracy(params, x, y, net) * len(x)).astype(int)


def measured(params: Any, data: Images, net: jaxnet.Network) -> tuple[float, int]:
    """`cost_and_correct` of all examples, some at a time."""
    n, total, right = len(data.x), 0.0, 0
    for start in range(0, n, _EXAMPLES_A_CALL):
        part = take(data, slice(start, start + _EXAMPLES_A_CALL))
        cost, correct = cost_and_correct(params, *part, net)
        total, right = total + float(cost) * len(part.x) / n, right + int(correct)
    return total, right


def networks(
    recipe: Recipe, training: Images, evaluation: Images, *, epochs: int, twin_epochs: int, progress: bool
) -> Iterator[Run]:
    """Train a network for each eta, and a twin, over the first epochs of the recipe, and measure after each of them.

    Random numbers and the order of the examples go on from one network to the next, as if all epochs had been run.
    """
    draws, shuffles = np.random.RandomState(recipe.seed), random.Random(recipe.seed)
    order = list(range(len(training.x)))
    net = recipe.network(len(training.x))

    def next_epoch(params: Any, eta: float) -> tuple[Any, dict[str, float]]:
        with jax.enable_x64(True):  # JAX's settings belong to threads
            params = epoch(params, training, order, jnp.asarray(eta), recipe.batch, net)
            return params, record(recipe, params, training, evaluation)

    with ThreadPoolExecutor(2) as threads:  # a step on ten images keeps one core busy
        for eta in recipe.eta:
            own = draw(recipe, draws)
            both = [own, jax.tree.map(lambda leaf: leaf * (1 + _PERTURBATION), own)]
            records: tuple[list[Any], list[Any]] = [], []
            for done in track(range(recipe.epochs), f"η = {eta:g}", disable=not progress, transient=True):
                shuffle(order, shuffles)
                trained = (done < epochs) + (done < min(epochs, twin_epochs))
                for i, (params, found) in enumerate(threads.map(partial(next_epoch, eta=eta), both[:trained])):
                    both[i] = params
                    records[i].append(found)
            yield Run(eta, *({name: np.array([r[name] for r in part]) for name in recipe.measure} for part in records))


def record(recipe: Recipe, params: Any, training: Images, evaluation: Images) -> dict[str, float]:
    """What the recipe measures."""
    found = {}
    for name, data in (("training", training), ("evaluation", evaluation)):
        if any(curve.startswith(name) for curve in recipe.measure):
            cost, correct = measured(params, data, recipe.network(len(data.x)))
            found |= {f"{name}_cost": cost, f"{name}_correct": correct}
    return found
