"""XOR: a hidden layer of logistic units solves what no linear classifier can.

Trains the lecture's network h = s₁(V x), ŷ = s(W h) by batch gradient descent on the mean of ‖ŷ − y‖², with the
gradient by hand, a linear classifier beside it, and checks that gradient against automatic differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxnet
from experiments.common import RESULTS, Result, main, network_agreement
from jaxnet import plots


@dataclass(frozen=True)
class Settings:
    """What to train."""

    hidden: int = 2
    """Hidden units."""
    seed: int = 0
    """Seed of the initial weights."""
    scale: float = 1.0
    """Factor on the initial weights, which are standard normal."""
    learning_rate: float = 4.0
    """Step size of gradient descent."""
    epochs: int = 5000
    """Steps, each on all four points."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Train the network and a linear classifier beside it."""
    net, data = jaxnet.Network(), jaxnet.data.xor()
    optimizer = optax.sgd(settings.learning_rate)
    weights_key, linear_key, order_key = jax.random.split(jax.random.key(settings.seed), 3)
    params = jaxnet.init(weights_key, (2, settings.hidden, 1), scheme="normal", scale=settings.scale)
    linear = jaxnet.init(linear_key, (2, 1), scheme="normal", scale=settings.scale)
    trained, straight = (
        jaxnet.train(
            order_key,
            start,
            data,
            net=net,
            optimizer=optimizer,
            epochs=settings.epochs,
            metrics={"accuracy": jaxnet.accuracy},
            progress=progress,
        )
        for start in (params, linear)
    )
    outputs = np.asarray(jaxnet.forward(trained.params, data.x, net)).ravel()
    numbers = {
        "cost": float(jaxnet.cost(trained.params, *data, net)),
        "accuracy": float(jaxnet.accuracy(trained.params, *data, net)),
        "linear_cost": float(jaxnet.cost(straight.params, *data, net)),
        "linear_accuracy": float(jaxnet.accuracy(straight.params, *data, net)),
        "outputs": {str(point): output for point, output in zip(data.x.tolist(), outputs.tolist(), strict=True)},
        "V": jaxnet.to_augmented(trained.params)[0],
        "W": jaxnet.to_augmented(trained.params)[1],
        "history": trained.history,
        "stopped_at": trained.not_finite,
        "gradient_agreement": network_agreement(params, data, net),
    }
    curves = {
        f"{settings.hidden} hidden units": trained.history["cost"],
        "no hidden layer": straight.history["cost"],
    }
    figures = {}
    if settings.epochs:
        figures["cost"] = plots.cost_curves(curves, ylabel="cost: mean of ‖ŷ − y‖²", title="XOR by gradient descent")
    if settings.hidden >= 2:
        figures["boundary"] = plots.boundary_and_hidden_space(
            trained.params, *data, net, title=f"XOR, {settings.hidden} hidden units"
        )
    return Result(numbers, figures)


FULL: dict[str, Any] = {"epochs": 50_000}

if __name__ == "__main__":
    raise SystemExit(main("xor", run, Settings, FULL, __doc__))
