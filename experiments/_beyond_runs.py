"""Networks in training for `experiments.beyond_gradient`, kept after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from matplotlib.figure import Figure

import jaxnet
from experiments.common import RESULTS, Claim, quickly_compiled
from jaxnet.activations import identity, softmax, tanh
from jaxnet.data import Data
from jaxnet.losses import softmax_cross_entropy

NET = jaxnet.Network(hidden=tanh, output=softmax, loss=softmax_cross_entropy)
LOGITS = jaxnet.Network(hidden=tanh, output=identity, loss=softmax_cross_entropy)


@dataclass(frozen=True)
class Settings:
    """What to train, and on how much."""

    hidden: int = 32
    """Hidden units."""
    seed: int = 0
    """Seed of all that is random."""
    repeats: int = 5
    """Splits of the digits, each with a network of its own."""
    epochs: int = 20
    """Passes over the training examples."""
    batch_size: int = 32
    """Examples in a step; the adaptive batch is made of quarters of it."""
    learning_rate: float = 0.3
    """Step size of gradient descent."""
    flipped: float = 0.05
    """Share of the training labels that are flipped."""
    noise_multipliers: tuple[float, ...] = (0.0, 4.0, 16.0, 64.0)
    """Noise of private training, relative to the bound of 1 on the norm of each example's gradient."""
    private_steps: int = 40
    """Steps of private training, each on all examples."""
    starts: int = 20
    """Initial weights for XOR and the regression."""
    steps: int = 100
    """Steps of Levenberg-Marquardt; gradient descent gets a hundred times as many."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


class Runs(NamedTuple):
    """Networks after every epoch: ``states`` have leading axes (repeats, epochs + 1), the data (repeats,)."""

    states: jaxnet.State
    training: Data
    held_out: Data


Part = tuple[dict[str, Any], Figure, tuple[Claim, ...]]
"""What a part of the experiment found, its figure, and its claims."""


def splits(key: Array, repeats: int) -> tuple[Data, Data]:
    """80 % of the digits to train on, and 20 % held out, split anew for every repeat: leading axis (repeats,)."""
    data = jaxnet.data.digits()
    parts = [jaxnet.data.split(own, data, 0.8) for own in jax.random.split(key, repeats)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def trajectory(
    key: Array,
    params: Any,
    data: Data,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    gradient: Callable[..., tuple[Array, Any]] = jaxnet.backprop,
) -> jaxnet.State:
    """The state at the start and after every epoch, (epochs + 1, ...): a step is the body of two nested scans."""
    step = jaxnet.make_step(optimizer, NET, gradient)
    order_key, own_key = jax.random.split(key)

    def epoch(state: jaxnet.State, key: Array) -> tuple[jaxnet.State, jaxnet.State]:
        n = len(data.x)
        order = jax.random.permutation(key, n)[: n // batch_size * batch_size].reshape(-1, batch_size)
        state, _ = lax.scan(step, state, (data.x[order], data.y[order]))
        return state, state

    start = jaxnet.State(params, optimizer.init(params), own_key)
    _, after = lax.scan(epoch, start, jax.random.split(order_key, epochs))
    states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, after)
    return states._replace(key=None)


@partial(quickly_compiled, level=1, static_argnames=("settings", "optimizer"))
def train(
    key: Array,
    training: Data,
    held_out: Data,
    settings: Settings,
    optimizer: optax.GradientTransformation | None = None,
) -> Runs:
    """One network for every split, by plain gradient descent unless told otherwise."""
    chosen = optax.sgd(settings.learning_rate) if optimizer is None else optimizer

    def one(given: tuple[Array, Data]) -> jaxnet.State:
        params_key, order_key = jax.random.split(given[0])
        params = jaxnet.init(params_key, (training.x.shape[-1], settings.hidden, training.y.shape[-1]))
        return trajectory(order_key, params, given[1], chosen, settings.epochs, settings.batch_size)

    keys = jax.random.split(key, len(training.x))
    return Runs(lax.map(one, (keys, training)), training, held_out)


def measured(quantity: Callable[[Any, Runs], Any], runs: Runs) -> Any:
    """``quantity(params, run)`` of every network after every epoch: (repeats, epochs + 1, ...)."""

    def one(run: Runs) -> Any:
        return lax.map(lambda params: quantity(params, run), run.states.params)

    return jax.tree.map(np.asarray, quickly_compiled(partial(lax.map, one))(runs))
