"""Networks for `experiments.shared_hidden`: shared and separate hidden layers, units taken out, and committees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxnet
from experiments.common import RESULTS, initial, quickly_compiled
from jaxnet import ensemble
from jaxnet.activations import softmax
from jaxnet.data import Data
from jaxnet.losses import cross_entropy, softmax_cross_entropy

ATTRIBUTES = {
    "even": (0, 2, 4, 6, 8),
    "5 or more": (5, 6, 7, 8, 9),
    "has a loop": (0, 6, 8, 9),
    "prime": (2, 3, 5, 7),
    "multiple of 3": (0, 3, 6, 9),
}
"""Yes-or-no questions about a digit, by the digits whose answer is yes."""
ANSWERS = jaxnet.Network(loss=cross_entropy)
CLASSES = jaxnet.Network(output=softmax, loss=softmax_cross_entropy)


@dataclass(frozen=True)
class Settings:
    """What to train, and on how much."""

    units: tuple[int, ...] = (1, 2, 4)
    """Hidden units of each separate network; the shared layer has as many as fit into as many parameters in all."""
    repeats: int = 8
    """Splits of the digits, each with networks of its own."""
    seed: int = 0
    """Seed of the splits, the initial weights and the order of the examples."""
    learning_rate: float = 0.01
    """Step size of Adam."""
    epochs: int = 40
    """Passes over the training examples."""
    batch_size: int = 32
    """Examples in a step."""
    committee: int = 8
    """Classifiers that answer together."""
    committee_hidden: int = 8
    """Hidden units of each of them."""
    drawn: float = 0.3
    """Share of the training examples that each member of the second committee is trained on."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""

    def shared_units(self, units: int) -> int:
        """So many units of one hidden layer have no more parameters than separate networks of ``units`` each."""
        outputs = len(ATTRIBUTES)
        separate = outputs * (units * 65 + units + 1)
        return (separate - outputs) // (65 + outputs)


class Split(NamedTuple):
    """The digits and, for every repeat, which of them train and which test: rows (repeats, n)."""

    data: Data
    training: np.ndarray
    test: np.ndarray


def split(key: Array, repeats: int, batch_size: int) -> Split:
    """Four fifths to train on, whole batches of them, and the others to test with."""
    data = jaxnet.data.digits()
    n = len(data.x)
    order = np.stack([np.asarray(jax.random.permutation(own, n)) for own in jax.random.split(key, repeats)])
    whole = round(0.8 * n) // batch_size * batch_size
    return Split(data, order[:, :whole], order[:, whole:])


def answers(y: Array) -> Array:
    """The answers to every question, 0 or 1, from one-hot classes: (n, questions)."""
    table = np.array([[float(digit in digits) for digits in ATTRIBUTES.values()] for digit in range(10)], np.float32)
    return y @ table


def fit(
    key: Array, sizes: tuple[int, ...], data: Any, rows: np.ndarray, net: jaxnet.Network, settings: Settings
) -> Any:
    """Networks trained each on its own rows (members, n) of the data."""
    init_key, order_key = jax.random.split(key)
    return ensemble.train(
        order_key,
        initial(init_key, len(rows), sizes),
        data,
        net=net,
        optimizer=_adam(settings.learning_rate),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        subset=rows,
        record_every=max(settings.epochs, 1),
    ).params


_adam = cache(optax.adam)
"""One object for each step size, so that runs of equal shapes share a compiled program."""


def outputs(params: Any, x: np.ndarray, net: jaxnet.Network) -> np.ndarray:
    """What every member says of its own inputs (members, n, inputs)."""
    return np.asarray(quickly_compiled(lambda params, x: ensemble.forward(params, x, net), level=1)(params, x))


class Sharing(NamedTuple):
    """Accuracy on test examples for every repeat and question, (repeats, questions), and the shared networks."""

    shared: np.ndarray
    separate: np.ndarray
    params: Any


def compare(key: Array, parts: Split, units: int, settings: Settings) -> Sharing:
    """One hidden layer for all questions, against a network for each of them, of equal size in all."""
    shared_key, separate_key = jax.random.split(key)
    x, y = parts.data.x, answers(parts.data.y)
    questions = y.shape[1]
    shared = fit(shared_key, (64, settings.shared_units(units), questions), (x, y), parts.training, ANSWERS, settings)
    # Members run over repeats, and within each over questions.
    separate = fit(
        separate_key,
        (64, units, 1),
        (x, jnp.tile(y.T[:, :, None], (settings.repeats, 1, 1))),
        np.repeat(parts.training, questions, axis=0),
        ANSWERS,
        settings,
    )
    truth = np.asarray(y)[parts.test] > 0.5  # (repeats, n, questions)
    inputs = np.asarray(x)[parts.test]
    said = outputs(separate, np.repeat(inputs, questions, axis=0), ANSWERS)
    said = np.moveaxis(said.reshape(settings.repeats, questions, -1), 1, -1)
    return Sharing(
        ((outputs(shared, inputs, ANSWERS) > 0.5) == truth).mean(axis=1), ((said > 0.5) == truth).mean(axis=1), shared
    )


def ablation(params: Any, parts: Split) -> np.ndarray:
    """How much accuracy each output loses without each hidden unit: (repeats, outputs, units).

    The unit is held at its mean over the training examples, whatever the input.
    """
    first, last = params
    x, y = np.asarray(parts.data.x), np.asarray(answers(parts.data.y))
    hidden_net = jaxnet.Network(output=ANSWERS.hidden)
    mean, hidden = (
        outputs((first,), x[rows], hidden_net) for rows in (parts.training, parts.test)
    )  # (repeats, n, units)
    mean = mean.mean(axis=1, keepdims=True)
    weight, bias = np.asarray(last.weight), np.asarray(last.bias)
    logits = hidden @ np.swapaxes(weight, 1, 2) + bias[:, None]  # (repeats, n, outputs)
    # Without unit j the logits are less by what its deviation from the mean adds: (repeats, n, outputs, units).
    without = logits[..., None] - (hidden - mean)[:, :, None] * weight[:, None]
    truth = y[parts.test] > 0.5
    accuracy = ((logits > 0) == truth).mean(axis=1)
    return accuracy[..., None] - ((without > 0) == truth[..., None]).mean(axis=1)


class Committee(NamedTuple):
    """Classifiers of the ten digits, tested: ``probabilities`` (repeats, members, n, 10), ``truth`` (repeats, n)."""

    probabilities: np.ndarray
    truth: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which examples each member classifies right: (repeats, members, n)."""
        return self.probabilities.argmax(axis=-1) == self.truth[:, None]

    def averages(self) -> np.ndarray:
        """The accuracy of the average of the first k members, for every k: (repeats, members)."""
        members = self.probabilities.shape[1]
        total = np.cumsum(self.probabilities, axis=1)
        return np.stack([(total[:, k].argmax(axis=-1) == self.truth).mean(axis=-1) for k in range(members)], axis=1)

    def correlations(self) -> np.ndarray:
        """The correlation of two members' errors, averaged over pairs: (repeats,)."""
        pairs = np.triu_indices(self.right.shape[1], 1)
        return np.array([np.corrcoef(~right)[pairs].mean() for right in self.right])

    def squared_errors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean ‖ŷ − y‖² of the members, that of their average, and the spread about it, each (repeats,)."""
        y = np.eye(10)[self.truth][:, None]
        p = self.probabilities.astype(float)
        mean = p.mean(axis=1, keepdims=True)
        return tuple(((a - b) ** 2).sum(axis=-1).mean(axis=(1, 2)) for a, b in ((p, y), (mean, y), (p, mean)))


def committee(key: Array, parts: Split, share: float, settings: Settings) -> Committee:
    """Classifiers that differ by their initial weights and, below a share of 1, by the examples they are trained on."""
    rows_key, fit_key = jax.random.split(key)
    rows = np.repeat(parts.training, settings.committee, axis=0)
    if share < 1:
        keys = jax.random.split(rows_key, len(rows))
        order = np.asarray(jax.vmap(lambda key: jax.random.permutation(key, rows.shape[1]))(keys))
        whole = max(round(share * rows.shape[1]) // settings.batch_size, 1) * settings.batch_size
        rows = np.take_along_axis(rows, order[:, :whole], axis=1)
    params = fit(fit_key, (64, settings.committee_hidden, 10), parts.data, rows, CLASSES, settings)
    x, y = (np.asarray(array)[parts.test] for array in parts.data)
    said = outputs(params, np.repeat(x, settings.committee, axis=0), CLASSES)
    return Committee(said.reshape(settings.repeats, settings.committee, *said.shape[1:]), y.argmax(axis=-1))
