"""Handwritten digits: one hidden layer of logistic units on real data, trained with the gradient by hand.

The 1,797 images of 8x8 pixels that scikit-learn ships, split at random into training, validation and test examples.
Mini-batch training on the softmax cross-entropy keeps the parameters of the lowest validation cost, and these are
tested on examples that nothing was chosen by. A network without a hidden layer is trained beside it in the same way.
All is repeated with other splits and initial weights, because one test set of 359 examples says little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxnet
from experiments.common import (
    RESULTS,
    Claim,
    Result,
    above,
    check_at_least,
    estimate,
    interval,
    main,
    network_agreement,
)
from jaxnet import plots
from jaxnet.activations import softmax
from jaxnet.data import Data
from jaxnet.losses import softmax_cross_entropy


@dataclass(frozen=True)
class Settings:
    """What to train, and on how much."""

    hidden: int = 128
    """Hidden units."""
    seed: int = 0
    """Seed of the splits, the initial weights and the order of the examples."""
    repeats: int = 8
    """Splits of the data, each with a network of its own."""
    learning_rate: float = 0.01
    """Step size of Adam at the start; it falls to 0 along a cosine."""
    batch_size: int = 10
    """Examples in a step."""
    l2: float = 1e-4
    """Strength of the penalty on squared weights."""
    epochs: int = 60
    """Passes over the training examples."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


class Split(NamedTuple):
    """One way to split the digits, and keys for what else is random."""

    training: Data
    validation: Data
    test: Data
    weights_key: Array
    order_key: Array


def split(key: Array) -> Split:
    """72 % to train on, 8 % to choose the epoch by, 20 % to test with."""
    test_key, validation_key, weights_key, order_key = jax.random.split(key, 4)
    rest, test = jaxnet.data.split(test_key, jaxnet.data.digits(), 0.8)
    return Split(*jaxnet.data.split(validation_key, rest, 0.9), test, weights_key, order_key)


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Train and test on every split; figures and histories are those of the first."""
    check_at_least(settings, repeats=1)
    net = jaxnet.Network(output=softmax, loss=softmax_cross_entropy, l2=settings.l2)
    splits = [split(key) for key in jax.random.split(jax.random.key(settings.seed), settings.repeats)]
    steps = settings.epochs * math.ceil(len(splits[0].training.x) / max(settings.batch_size, 1))
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, max(steps, 1)))
    starts = [jaxnet.init(part.weights_key, (64, settings.hidden, 10)) for part in splits]
    straight = [jaxnet.init(part.weights_key, (64, 10)) for part in splits]
    results, linear_results = (
        [
            jaxnet.train(
                part.order_key,
                start,
                part.training,
                net=net,
                optimizer=optimizer,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                validation=part.validation,
                metrics={"accuracy": jaxnet.accuracy},
                patience=max(settings.epochs, 1),
                progress=progress,
            )
            for part, start in zip(splits, given, strict=True)
        ]
        for given in (starts, straight)
    )
    accuracy, linear = (
        estimate(
            [float(jaxnet.accuracy(result.params, *part.test, net)) for result, part in zip(of, splits, strict=True)]
        )
        for of in (results, linear_results)
    )
    first, result = splits[0], results[0]
    history = result.history
    numbers = {
        "test_accuracy": accuracy["mean"],
        "standard_error": accuracy["standard_error"],
        "test_accuracies": accuracy["values"],
        "test_accuracy_without_hidden_layer": linear,
        "first_test_cost": float(jaxnet.cost(result.params, *first.test, net)),
        "first_training_accuracy": float(jaxnet.accuracy(result.params, *first.training, net)),
        "first_validation_accuracy": float(jaxnet.accuracy(result.params, *first.validation, net)),
        "first_best_epoch": result.best_epoch,
        "examples": {name: len(getattr(first, name).x) for name in ("training", "validation", "test")},
        "history": history,
        "stopped_at": result.not_finite,
        "gradient_agreement": network_agreement(starts[0], first.training, net),
    }
    figures = {
        "weights": plots.first_layer_weights(
            result.params,
            (8, 8),
            title=f"Digits: weights of {min(32, settings.hidden)} of the {settings.hidden} hidden units",
        ),
        "confusion": plots.confusion_matrix(
            jnp.argmax(first.test.y, axis=-1),
            jnp.argmax(jaxnet.forward(result.params, first.test.x, net), axis=-1),
            [str(digit) for digit in range(10)],
            title=f"Digits: {len(first.test.x)} test examples, {accuracy['values'][0]:.1%} right",
        ),
    }
    if settings.epochs:
        figures["cost"] = plots.cost_curves(
            {"training (running mean)": history["cost"], "validation": history["validation_cost"]},
            ylabel="cost: mean cross-entropy + penalty (nats)",
            title="Digits: cost of training and validation examples",
        )
    return Result(numbers, figures, claims(accuracy, linear))


def claims(accuracy: dict[str, Any], linear: dict[str, Any]) -> tuple[Claim, ...]:
    """What the test accuracies with and without a hidden layer say, split by split."""
    low, high = interval(accuracy["values"])
    gain = accuracy["values"] - linear["values"]
    gain_low, gain_high = interval(gain)
    return (
        Claim(
            "A network with one hidden layer names more than 95 % of handwritten digits that it has never seen.",
            above(0.95, low, high),
            f"{accuracy['mean']:.1%} of the test examples, 95 % interval {low:.1%} to {high:.1%} "
            f"({len(gain)} splits of the data).",
        ),
        Claim(
            "The hidden layer is worth having: without it, fewer digits are named.",
            above(0.0, gain_low, gain_high),
            f"{linear['mean']:.1%} without; the hidden layer gains {100 * gain.mean():.1f} points, 95 % interval "
            f"{100 * gain_low:.1f} to {100 * gain_high:.1f}.",
        ),
    )


FULL: dict[str, Any] = {"repeats": 32}

if __name__ == "__main__":
    raise SystemExit(main("digits", run, Settings, FULL, __doc__))
