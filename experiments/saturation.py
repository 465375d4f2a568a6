"""Saturation: from which initial weights a deep network of logistic units learns, and how its gradient vanishes.

The delta of a hidden layer is that of the next one times its weights times the slope s′ of the units, which is at most
1/4. With small weights every layer makes the gradient smaller, though no unit is saturated; with large ones the units
sit at 0 or 1, where their slope is next to nothing. Networks of 1 to 6 hidden layers on the digits that scikit-learn
ships start from usual weights (variance 1 / inputs, LeCun et al. 1998) times 1e-3 to 1e3, and learn by squared error or
by cross-entropy, whose delta at the output lacks the factor s′ (Nielsen 2015, chapter 3). Shown: the norm of the
gradient by layer, that is of the layer's mean delta, which is the gradient of its biases; the share of saturated units
(activation within 0.05 of 0 or 1); cost and accuracy after training.

Where JAXNET_DATA names the folder of MNIST, the norms at the start that Nielsen (2015, chapter 5) gives for the hidden
layers of networks with 2, 3 and 4 of them, on 1,000 images, are compared with many draws of his default initialisation,
and other readings of the same numbers beside it: another cost, the output layer counted as one of the layers, pixels
from 0 to 255. (Pixels divided by 255 or by 256 cannot be told apart.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from scipy.stats import norm

from experiments import _saturation_figures as figures
from experiments._saturation_runs import (
    NAMES,
    NETS,
    Grid,
    Settings,
    mnist_images,
    norms_of_starts,
    split_digits,
    train_grid,
)
from experiments.claims import mean_of
from experiments.common import (
    Claim,
    Result,
    Verdict,
    above,
    check_at_least,
    console,
    initial,
    main,
    network_agreement,
    verdict,
)
from jaxnet.data import Data

PUBLISHED = ((0.066, 0.31), (0.012, 0.060, 0.28), (0.003, 0.017, 0.070, 0.29))
READING = "cross-entropy, hidden layers only, pixels from 0 to 1"
LEARNED = 0.8
"""Test accuracy from which a network counts as one that has learned; guessing gets 0.1."""


def run(settings: Settings, *, progress: bool = False) -> Result:
    """The published norms, where MNIST is there, and the grid of scales, depths and losses."""
    check_at_least(settings, depth=2, per_decade=1, repeats=1, published_starts=2, batch_size=1, epochs=0)
    split_key, grid_key, published_key = jax.random.split(jax.random.key(settings.seed), 3)
    training, test = split_digits(split_key, settings.batch_size)
    images = mnist_images()
    readings = {}
    if images is not None:
        if progress:
            console.print("[dim]published gradient norms ...")
        readings = norms_by_reading(published_key, images, settings.published_starts)
    grid = train_grid(grid_key, training, test, settings, progress=progress)
    claims = (published(readings), *vanishing(grid, settings), *learning(grid, settings))
    numbers = {
        "published norms": {
            name: {
                "largest deviation": deviation(found),
                "means": [np.exp(np.log(norms).mean(axis=0)) for norms in found],
                "central 95 %": [np.quantile(norms, (0.025, 0.975), axis=0) for norms in found],
            }
            for name, found in readings.items()
        },
        "scales": settings.scales.tolist(),
        "grid": {name: dict(zip(NAMES, values, strict=True)) for name, values in grid._asdict().items()},
        "gradient_agreement": network_agreement(
            jax.tree.map(lambda leaf: leaf[0], initial(grid_key, 1, (training.x.shape[1], *[settings.units] * 2, 10))),
            training,
            NETS[1],
        ),
    }
    drawn = {
        "grid": figures.grid(grid, settings),
        "layers": figures.layers(grid, settings),
    }
    if readings:
        drawn["published"] = figures.published(readings[READING], PUBLISHED)
    return Result(numbers, drawn, claims)


# ----------------------------------------------------------------------------------------------------------------------
# The published norms


def norms_by_reading(key: Array, images: Data, members: int) -> dict[str, list[np.ndarray]]:
    """The norms (members, layers) of the three networks, for every way to read the published numbers."""
    readings = {}
    pixels = {"pixels from 0 to 1": 1.0, "pixels from 0 to 255": 255.0}
    by_depth = norms_of_starts(key, [Data(images.x * factor, images.y) for factor in pixels.values()], members, 4)
    for i, name in enumerate(pixels):
        squared, entropy = ([norms[:, i, loss] for norms in by_depth] for loss in (0, 1))
        for cost, found, unit in (
            ("cross-entropy", entropy, 1.0),
            ("squared error", squared, 1.0),
            ("half the squared error", squared, 0.5),
        ):
            readings[f"{cost}, hidden layers only, {name}"] = [unit * norms[:, :-1] for norms in found[1:]]
            readings[f"{cost}, output layer counted, {name}"] = [unit * norms for norms in found[:-1]]
    return readings


def deviation(found: Sequence[np.ndarray]) -> float:
    """How far the published norms are from those found at the most, in standard deviations of their logarithm."""
    logs = [np.log(norms) for norms in found]
    return max(
        float(np.abs((np.log(known) - log.mean(axis=0)) / log.std(axis=0, ddof=1)).max())
        for known, log in zip(PUBLISHED, logs, strict=True)
    )


def published(readings: dict[str, list[np.ndarray]]) -> Claim:
    """Whether the published norms are such as Nielsen's initialisation gives."""
    text = "The gradient norms that Nielsen published are ordinary draws from his initial weights."
    if not readings:
        return Claim(text, Verdict.OPEN, "MNIST is not here: set JAXNET_DATA to the folder that holds its files.")
    count = sum(map(len, PUBLISHED))
    bound = float(norm.ppf(1 - 0.05 / (2 * count)))  # by chance, any of them is further away in 5 % of cases
    deviations = {name: deviation(found) for name, found in readings.items()}
    others = [name for name in deviations if name != READING and deviations[name] < bound]
    means = ", ".join(
        "[" + ", ".join(f"{value:.2g}" for value in np.exp(np.log(norms).mean(axis=0))) + "]"
        for norms in readings[READING]
    )
    known = ", ".join("[" + ", ".join(f"{value:g}" for value in norms) + "]" for norms in PUBLISHED)
    return Claim(
        text,
        verdict(deviations[READING] < bound),
        f"Published {known}; geometric means here {means}, by {READING}: the furthest of the {count} is "
        f"{deviations[READING]:.1f} standard deviations away (bound {bound:.1f}). "
        + (
            "So near is also: " + "; ".join(f"{name} ({deviations[name]:.1f})" for name in others) + "."
            if others
            else "No other reading that was tried comes so near."
        ),
    )


# ----------------------------------------------------------------------------------------------------------------------
# The digits


def vanishing(grid: Grid, settings: Settings) -> tuple[Claim, ...]:
    """That the gradient gets smaller from layer to layer, and is lost at both ends of the scales."""
    scales = settings.scales
    usual = len(scales) // 2
    with np.errstate(divide="ignore"):
        norms = np.log(grid.norms[:, -1, :, usual])  # (losses, repeats, layers) of the deepest
    factors = [mean_of(one) for one in (norms[..., :-1] - norms[..., 1:]).mean(axis=2)]
    low, high = np.exp(min(one.low for one in factors)), np.exp(max(one.high for one in factors))

    ends = [0, -1]
    below = grid.norms[:, -1, :, 0, 0] / grid.norms[:, -1, :, 0, -1]  # of the first layer, over that of the output
    saturated = grid.saturated[:, -1][..., ends].mean(axis=(0, 1))
    accuracy = grid.accuracy[:, -1][..., ends].max(axis=(0, 1))
    return (
        Claim(
            "From usual initial weights, the gradient shrinks from layer to layer on its way back: it vanishes.",
            above(-1.0, -high, -low),
            f"{settings.depth} hidden layers, scale 1: from a layer to the one below, the norm is multiplied by "
            + " and ".join(
                f"{np.exp(one.mean):.2f} ({np.exp(one.low):.2f} to {np.exp(one.high):.2f}, {name})"
                for one, name in zip(factors, NAMES, strict=True)
            )
            + ".",
        ),
        Claim(
            "With tiny weights the gradient is lost though no unit is saturated; with huge ones nearly all units are "
            "saturated; neither learns.",
            verdict(
                bool((below < 1e-6).all() and saturated[0] == 0 and saturated[1] > 0.9 and (accuracy < LEARNED).all())
            ),
            f"{settings.depth} hidden layers: at scale {scales[0]:g} the first layer's gradient is at most "
            f"{below.max():.0e} of the output layer's; saturated are {saturated[0]:.0%} of the hidden units there and "
            f"{saturated[1]:.0%} at {scales[-1]:g}; accuracy after training is at most {accuracy[0]:.0%} and "
            f"{accuracy[1]:.0%}.",
        ),
    )


def learning(grid: Grid, settings: Settings) -> tuple[Claim, ...]:
    """That depth narrows the band of scales from which a network learns, and what cross-entropy changes."""
    learned = (grid.accuracy >= LEARNED).sum(axis=3)  # (losses, depths, repeats)
    lost = mean_of((learned[:, 0] - learned[:, -1]).mean(axis=0))
    shallow, deep = learned[:, 0].mean(axis=1), learned[:, -1].mean(axis=1)

    large = settings.scales >= 10
    advantage = grid.accuracy[1, ..., large] - grid.accuracy[0, ..., large]  # (scales, depths, repeats)
    gained = mean_of(advantage[:, 0].mean(axis=0))
    squared, entropy = grid.accuracy[:, 0][..., large].mean(axis=(1, 2))
    return (
        Claim(
            "The deeper the network, the fewer initial scales it learns from.",
            above(0.0, lost.low, lost.high),
            f"Of {len(settings.scales)} scales, {LEARNED:.0%} of the test examples are classified right with 1 hidden "
            f"layer from {shallow[0]:.3g} (squared error) and {shallow[1]:.3g} (cross-entropy), with {settings.depth} "
            f"from {deep[0]:.3g} and {deep[1]:.3g}; difference {lost:.1f}.",
        ),
        Claim(
            "Cross-entropy learns from saturated units that squared error does not get out of.",
            above(0.0, gained.low, gained.high),
            f"1 hidden layer, scales of 10 and more: accuracy {entropy:.1%} against {squared:.1%}, difference "
            f"{gained:.1%}.",
        ),
    )


FULL: dict[str, Any] = {
    "repeats": 8,
    "per_decade": 2,
    "learning_rates": (0.1, 0.3, 1.0, 3.0, 10.0),
    "epochs": 40,
    "published_starts": 500,
}

if __name__ == "__main__":
    raise SystemExit(main("saturation", run, Settings, FULL, __doc__))
