"""Handwritten digits: one hidden layer of logistic units on real data, trained with the gradient by hand.

The 1,797 images of 8x8 pixels that scikit-learn ships, split at random into training, validation and test examples.
Mini-batch training on the softmax cross-entropy stops when the validation cost no longer falls, and the best parameters
are tested on examples that nothing was chosen by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import tyro

import jaxnet
from experiments.common import RESULTS, Result, gradient_agreement, present
from jaxnet import plots
from jaxnet.activations import softmax
from jaxnet.losses import softmax_cross_entropy


@dataclass(frozen=True)
class Settings:
    """What to train, and on how much."""

    hidden: int = 256
    """Hidden units."""
    seed: int = 0
    """Seed of the split, the initial weights and the order of the examples."""
    learning_rate: float = 0.01
    """Step size of Adam."""
    batch_size: int = 10
    """Examples in a step."""
    l2: float = 1e-4
    """Strength of the penalty on squared weights."""
    epochs: int = 200
    """Passes over the training examples, at the most."""
    patience: int = 20
    """Epochs without a lower validation cost before training stops."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Train on 72 %, choose the epoch by 8 %, test on 20 % of the digits."""
    test_key, validation_key, weights_key, order_key = jax.random.split(jax.random.key(settings.seed), 4)
    rest, test = jaxnet.data.split(test_key, jaxnet.data.digits(), 0.8)
    training, validation = jaxnet.data.split(validation_key, rest, 0.9)
    net = jaxnet.Network(output=softmax, loss=softmax_cross_entropy, l2=settings.l2)
    params = jaxnet.init(weights_key, (64, settings.hidden, 10))
    result = jaxnet.train(
        order_key,
        params,
        training,
        net=net,
        optimizer=optax.adam(settings.learning_rate),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        validation=validation,
        metrics={"accuracy": jaxnet.accuracy},
        patience=settings.patience,
        progress=progress,
    )
    test_accuracy = float(jaxnet.accuracy(result.params, *test, net))
    predicted = jnp.argmax(jaxnet.forward(result.params, test.x, net), axis=-1)
    numbers = {
        "test_accuracy": test_accuracy,
        "test_accuracy_standard_error": math.sqrt(test_accuracy * (1 - test_accuracy) / len(test.x)),
        "test_cost": float(jaxnet.cost(result.params, *test, net)),
        "training_accuracy": float(jaxnet.accuracy(result.params, *training, net)),
        "validation_accuracy": float(jaxnet.accuracy(result.params, *validation, net)),
        "examples": {"training": len(training.x), "validation": len(validation.x), "test": len(test.x)},
        "epochs": len(result.history["cost"]),
        "best_epoch": result.best_epoch,
        "history": result.history,
        "gradient_agreement": gradient_agreement(params, training, net),
    }
    figures = {
        "cost": plots.cost_curves(
            {"training (running mean)": result.history["cost"], "validation": result.history["validation_cost"]},
            ylabel="cost: mean cross-entropy + penalty (nats)",
            title="Digits: cost of training and validation examples",
        ),
        "weights": plots.first_layer_weights(
            result.params, (8, 8), title=f"Digits: weights of the first hidden units (of {settings.hidden})"
        ),
        "confusion": plots.confusion_matrix(
            jnp.argmax(test.y, axis=-1),
            predicted,
            [str(digit) for digit in range(10)],
            title=f"Digits: {len(test.x)} test examples, {test_accuracy:.1%} right",
        ),
    }
    return Result(numbers, figures)


if __name__ == "__main__":
    raise SystemExit(not present("digits", run, tyro.cli(Settings, description=__doc__)))
