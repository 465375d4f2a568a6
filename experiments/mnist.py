"""MNIST: one hidden layer of logistic units on the real images, and what a linear classifier makes of them.

Mini-batch training on the softmax cross-entropy with the gradient by hand; at every step each image is moved by up to
one pixel, at random, so that no image is seen twice alike (Simard, Steinkraus & Platt 2003, who publish 98.4 % for 800
hidden units without such changes, and 98.9 % and 99.3 % with affine and elastic ones). The parameters of the lowest
cost on 5,000 images held out from training are tested once on the 10,000 test images. All settings were chosen on the
held-out images. A quick network has 400 hidden units; ``--full`` trains 800 for longer.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from matplotlib.figure import Figure

import jaxnet
from experiments.common import RESULTS, Claim, Result, above, check_at_least, main, mnist, network_agreement, share
from jaxnet import plots
from jaxnet.activations import softmax
from jaxnet.data import Data
from jaxnet.losses import softmax_cross_entropy
from jaxnet.steps import Gradient

PUBLISHED = 0.984
"""Test accuracy of 800 hidden units by cross-entropy, images as they are: Simard et al. 2003."""


@dataclass(frozen=True)
class Settings:
    """What to train, and how; the data are found as `jaxnet.data.mnist` says."""

    hidden: int = 400
    """Hidden units."""
    seed: int = 0
    """Seed of the split, the initial weights, the order of the images and their shifts."""
    learning_rate: float = 0.005
    """Step size of Adam at the start; it falls to 0 along a cosine."""
    batch_size: int = 100
    """Images in a step."""
    epochs: int = 12
    """Passes over the training images."""
    shift: int = 1
    """Pixels that an image is moved by at the most, in both directions, at each step."""
    l2: float = 0.0
    """Strength of the penalty on squared weights."""
    held_out: int = 5000
    """Training images that are kept to choose the epoch by."""
    linear_epochs: int = 5
    """Passes of the linear classifier, on images that are not moved."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


class Trained(NamedTuple):
    """A network with its history and the time it took, compiling included."""

    result: jaxnet.TrainResult
    seconds: float


def shifting(pixels: int) -> Gradient:
    """`jaxnet.backprop` on images (n, side²) of which each is moved at random, zeros coming in at its edges."""

    def gradient(params: Any, x: Array, y: Array, net: jaxnet.Network, *, key: Array) -> tuple[Array, Any]:
        return jaxnet.backprop(params, shifted(key, x, pixels), y, net)

    return gradient if pixels else jaxnet.backprop


def shifted(key: Array, x: Array, pixels: int) -> Array:
    """Images (n, side²), each moved by −pixels to pixels down and across."""
    n, inputs = x.shape
    side = math.isqrt(inputs)
    padded = jnp.pad(x.reshape(n, side, side), ((0, 0), (pixels, pixels), (pixels, pixels)))
    corners = jax.random.randint(key, (n, 2), 0, 2 * pixels + 1)
    moved = jax.vmap(lambda image, corner: lax.dynamic_slice(image, corner, (side, side)))(padded, corners)
    return moved.reshape(n, inputs)


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Train a network and a linear classifier, and test both once."""
    training, test = mnist()
    split_key, weights_key, order_key = jax.random.split(jax.random.key(settings.seed), 3)
    n = len(training.x)
    if not 0 < settings.held_out < n:
        raise ValueError(f"held_out is {settings.held_out}, expected 1 to {n - 1}")
    check_at_least(settings, shift=0)
    training, held_out = jaxnet.data.split(split_key, training, 1 - settings.held_out / n)
    net = jaxnet.Network(output=softmax, loss=softmax_cross_entropy, l2=settings.l2)

    def train(sizes: tuple[int, ...], epochs: int, gradient: Gradient) -> Trained:
        steps = epochs * math.ceil(len(training.x) / max(settings.batch_size, 1))
        began = time.perf_counter()
        result = jaxnet.train(
            order_key,
            jaxnet.init(weights_key, sizes),
            training,
            net=net,
            optimizer=optax.adam(optax.cosine_decay_schedule(settings.learning_rate, max(steps, 1))),
            epochs=epochs,
            batch_size=settings.batch_size,
            gradient=gradient,
            validation=held_out,
            patience=max(epochs, 1),
            progress=progress,
        )
        return Trained(result, time.perf_counter() - began)

    inputs, outputs = test.x.shape[1], test.y.shape[1]
    network = train((inputs, settings.hidden, outputs), settings.epochs, shifting(settings.shift))
    linear = train((inputs, outputs), settings.linear_epochs, jaxnet.backprop)
    predicted, actual = predictions(network, test, net), jnp.argmax(test.y, axis=-1)
    right = predicted == actual
    linear_right = predictions(linear, test, net) == actual
    accuracy, linear_accuracy = (share(int(jnp.sum(hits)), len(test.x)) for hits in (right, linear_right))
    result = network.result
    numbers = {
        "test_accuracy": accuracy["share"],
        "test_accuracy_interval": accuracy,
        "held_out_accuracy": float(jaxnet.accuracy(result.params, *held_out, net)),
        "training_accuracy": float(jaxnet.accuracy(result.params, *training, net)),
        "linear_test_accuracy": linear_accuracy["share"],
        "linear_test_accuracy_interval": linear_accuracy,
        "seconds_of_training": network.seconds,
        "best_epoch": result.best_epoch,
        "examples": {"training": len(training.x), "held out": len(held_out.x), "test": len(test.x)},
        "history": result.history,
        "stopped_at": result.not_finite,
        "gradient_agreement": network_agreement(result.params, Data(training.x[:100], training.y[:100]), net),
    }
    side = math.isqrt(inputs)
    figures = {
        "weights": plots.first_layer_weights(
            result.params,
            (side, side),
            title=f"MNIST: weights of {min(32, settings.hidden)} of the {settings.hidden} hidden units",
        ),
        "confusion": plots.confusion_matrix(
            actual,
            predicted,
            [str(digit) for digit in range(outputs)],
            title=f"MNIST: {len(test.x):,} test images, {accuracy['share']:.2%} right",
        ),
        "errors": errors(test, np.asarray(actual), np.asarray(predicted)),
    }
    if settings.epochs:
        figures["cost"] = plots.cost_curves(
            {
                "training, images moved (running mean)": result.history["cost"],
                "held out": result.history["validation_cost"],
            },
            ylabel="cost: mean cross-entropy + penalty (nats)",
            title="MNIST: cost of training and held-out images",
        )
    return Result(numbers, figures, claims_of(settings, accuracy, linear_accuracy, network.seconds))


def predictions(trained: Trained, data: Data, net: jaxnet.Network) -> Array:
    """The class of the largest output for each image."""
    return jnp.argmax(jaxnet.forward(trained.result.params, data.x, net), axis=-1)


def claims_of(
    settings: Settings, accuracy: dict[str, Any], linear: dict[str, Any], seconds: float
) -> tuple[Claim, Claim]:
    """What the two accuracies, with their intervals, say."""
    wrong, linear_wrong = ({name: 1 - found[name] for name in ("share", "low", "high")} for found in (accuracy, linear))
    return (
        Claim(
            f"One hidden layer of logistic units classifies more than {PUBLISHED:.1%} of the test images right, which "
            "is the published figure for 800 units and images that are not moved.",
            above(PUBLISHED, accuracy["low"], accuracy["high"]),
            f"{settings.hidden} units: {accuracy['share']:.2%} of {accuracy['trials']:,} right (95 % interval "
            f"{accuracy['low']:.2%} to {accuracy['high']:.2%}), after {seconds:.0f} s of training.",
        ),
        Claim(
            "The hidden layer is worth it: it leaves less than a third of the errors of a linear classifier.",
            above(0, linear_wrong["high"] - 3 * wrong["low"], linear_wrong["low"] - 3 * wrong["high"]),
            f"Wrong: {wrong['share']:.2%} with {settings.hidden} hidden units, {linear_wrong['share']:.2%} without.",
        ),
    )


def errors(data: Data, actual: np.ndarray, predicted: np.ndarray, shown: int = 40) -> Figure:
    """The first test images that are taken for others."""
    figure = Figure(figsize=(10, 7.2), dpi=150, layout="constrained")
    wrong = np.flatnonzero(actual != predicted)
    side = math.isqrt(data.x.shape[1])
    for axes, i in zip_longest(figure.subplots(5, shown // 5).ravel(), wrong[:shown]):
        axes.set_axis_off()
        if i is not None:
            axes.imshow(np.asarray(data.x[i]).reshape(side, side), cmap="gray_r")
            axes.set_title(f"{actual[i]}, taken for {predicted[i]}", fontsize=9)
    figure.suptitle(f"MNIST: {min(shown, len(wrong))} of the {len(wrong)} test images that are classified wrong")
    return figure


FULL: dict[str, Any] = {"hidden": 800, "epochs": 50, "learning_rate": 0.003}

if __name__ == "__main__":
    raise SystemExit(main("mnist", run, Settings, FULL, __doc__))
