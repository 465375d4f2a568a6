"""The figures of `experiments.beyond_gradient`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments._drawing import STYLES, band, finish, new_figure
from jaxnet.curvature import Spectrum
from jaxnet.plots import BLUE, GREEN, VERMILLION


def mislabelled(
    x: np.ndarray, given: np.ndarray, true: np.ndarray, norms: np.ndarray, found: Mapping[str, np.ndarray]
) -> Figure:
    """The examples of the largest gradients, the largest of those with right labels, and how soon flips are found."""
    figure = new_figure(13, 4.4)
    figure.set_label(
        "Digits with the largest gradients, most of them with flipped labels; those with right labels, which are hard "
        "to read; and the share of the flipped labels found against the share of the training examples looked at"
    )
    columns: Any = figure.subfigures(1, 3, width_ratios=(1, 1, 1.25))
    left, middle, right = columns
    ranked = np.argsort(-norms)
    flipped = given != true
    for part, chosen, title in (
        (left, ranked, "largest gradients: labels as given,\nflipped ones in orange with their true label"),
        (middle, ranked[~flipped[ranked]], "largest gradients among right labels:\nhard digits"),
    ):
        part.suptitle(title, fontsize=11)
        for axes, i in zip(part.subplots(4, 6).ravel(), chosen, strict=False):
            axes.imshow(x[i].reshape(8, 8), cmap="gray_r")
            colour = VERMILLION if flipped[i] else "black"
            label = f"{given[i]} (is {true[i]})" if flipped[i] else f"{given[i]}"
            axes.set_title(label, fontsize=9, color=colour, fontweight="bold" if flipped[i] else "normal")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=2 if flipped[i] else 0.8)
    axes = right.subplots()
    n, share = len(given), flipped.mean()
    seen = np.arange(1, n + 1) / n
    for i, (name, shares) in enumerate(found.items()):
        band(axes, seen, shares, i, f"by {name}")
    axes.plot(seen, np.minimum(seen / share, 1), color="gray", linewidth=1, label="perfect ranking")
    axes.plot(seen, seen, color="gray", linewidth=1, linestyle=(0, (1, 3)), label="chance")
    axes.set_xlim(0, 6 * share)
    finish(axes, "share of the training examples looked at", "share of the flipped labels found", "", loc="lower right")
    return figure


def noise_scale(
    scales: Mapping[str, tuple[np.ndarray, np.ndarray]],
    batches: np.ndarray,
    limit: int,
    parts: Sequence[np.ndarray],
) -> Figure:
    """The noise scale and the adaptive batch against the epoch; beside them, the two parts of the scale."""
    figure = new_figure(10.5, 4.2)
    left, right = figure.subplots(1, 2)
    epochs = np.arange(batches.shape[1])
    labels = {"plain": "noise scale, plain training", "adaptive": "noise scale, adaptive batch"}
    for (colour, style, _), (name, (scale, error)) in zip(STYLES, scales.items(), strict=False):
        shown = scale > 0
        left.plot(epochs[shown], scale[shown], style, color=colour, label=labels[name], linewidth=1.8)
        low = np.maximum(scale - error, scale / 10)
        left.fill_between(epochs, low, scale + error, where=shown, color=colour, alpha=0.2, linewidth=0)
    left.plot(epochs, batches.mean(axis=0), "^", color=GREEN, label="batch it chooses")
    left.axhline(limit, color="gray", linewidth=1, linestyle=(0, (1, 3)), label="largest batch allowed")
    left.set_yscale("log")
    left.set_ylim(10, 3e4)  # room for the legend
    finish(left, "epoch", "examples", "gradient noise scale", loc="upper left")
    for i, (values, label) in enumerate(zip(parts, ("noise, tr Σ", "signal, ‖G‖²"), strict=True)):
        band(right, epochs, values, i, label)
    right.set_yscale("log", nonpositive="mask")
    finish(right, "epoch", "squared norm", "its two parts, plain training")
    return figure


def spectrum(largest: np.ndarray, smallest: np.ndarray, spectra: Mapping[int, Spectrum]) -> Figure:
    """Extreme eigenvalues against the epoch, and densities of eigenvalues."""
    figure = new_figure(10.5, 4.2)
    left, right = figure.subplots(1, 2)
    epochs = np.arange(len(largest))
    left.plot(epochs, largest, "-o", color=BLUE, label="largest", markersize=4)
    left.plot(epochs, smallest, "--s", color=VERMILLION, label="smallest", markersize=4)
    left.axhline(0, color="gray", linewidth=0.8)
    finish(left, "epoch", "eigenvalue", "extreme eigenvalues of the Hessian")
    low = min(float(found.eigenvalues.min()) for found in spectra.values())
    high = max(float(found.eigenvalues.max()) for found in spectra.values())
    width = (high - low) / 100
    points = np.linspace(low - 5 * width, high + 5 * width, 600, dtype=largest.dtype)
    for (colour, style, _), (epoch, found) in zip(STYLES, spectra.items(), strict=False):
        right.plot(points, found.density(points, width), style, color=colour, label=f"epoch {epoch}", linewidth=1.5)
    right.set_yscale("log")
    right.set_ylim(1e-5, 1e2)
    finish(right, "eigenvalue", "density", "density of all eigenvalues")
    return figure


def tangent_kernel(
    kernels: Sequence[np.ndarray], labels: np.ndarray, alignment: np.ndarray, change: np.ndarray
) -> Figure:
    """The kernel's cosines before and after, sorted by class, and how it moves."""
    figure = new_figure(13, 4.2)
    columns: Any = figure.subfigures(1, 2, width_ratios=(2.2, 1))
    heat, line = columns
    maps, curves = heat.subplots(1, 2), line.subplots()
    starts = np.searchsorted(labels, np.arange(10))
    ends = np.searchsorted(labels, np.arange(10), side="right")
    image: Any = None
    for axes, kernel, title in zip(maps, kernels, ("before training", "after training"), strict=True):
        root = np.sqrt(np.diag(kernel))
        image = axes.imshow(kernel / np.outer(root, root), cmap="cividis", vmin=0, vmax=1)
        axes.set(title=title, xlabel="held-out examples, by class")
        for ticks in (axes.set_xticks, axes.set_yticks):
            ticks((starts + ends - 1) / 2, [str(label) for label in range(10)])
    maps[0].set_ylabel("held-out examples, by class")
    heat.colorbar(image, ax=maps, label="cosine Θᵢⱼ / √(Θᵢᵢ Θⱼⱼ)", shrink=0.85)
    epochs = np.arange(alignment.shape[1])
    band(curves, epochs, alignment, 0, "alignment with the labels")
    band(curves, epochs, change, 1, "1 − cosine with the start")
    curves.set_ylim(0, 1)
    finish(curves, "epoch", "cosine of centred kernels", "how the kernel moves", loc="center right")
    return figure


def private(
    noise_multipliers: np.ndarray,
    accuracies: Sequence[Mapping[str, Any]],
    epsilons: Sequence[float | None],
    plain: Mapping[str, Any],
) -> Figure:
    """Accuracy against the noise, beside that of plain training."""
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    places = np.arange(len(noise_multipliers))
    error = plain["standard_error"] or 0.0
    axes.axhline(plain["mean"], color=VERMILLION, linestyle="--", label="plain, mini-batches")
    axes.axhspan(plain["mean"] - error, plain["mean"] + error, color=VERMILLION, alpha=0.2, linewidth=0)
    axes.errorbar(
        places,
        [found["mean"] for found in accuracies],
        [found["standard_error"] or 0.0 for found in accuracies],
        fmt="-o",
        color=BLUE,
        capsize=4,
        label="private, all examples a step",
    )
    spent = ["" if epsilon is None else f"\nε = {epsilon:.2g}".replace("inf", "∞") for epsilon in epsilons]
    axes.set_xticks(places, [f"{sigma:g}{text}" for sigma, text in zip(noise_multipliers, spent, strict=True)])
    finish(axes, "noise multiplier σ", "accuracy on held-out digits", "private training", loc="lower left")
    return figure


def second_order(curves: Mapping[str, Mapping[str, np.ndarray]], enough: float) -> Figure:
    """The cost against the step: medians over the starts, and the range of their middle 80 %."""
    figure = new_figure(10.5, 4.2)
    for axes, (problem, of_problem) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        for (colour, style, _), (name, costs) in zip(STYLES, of_problem.items(), strict=False):
            steps = np.arange(costs.shape[1]) + 1
            low, median, high = np.percentile(costs, (10, 50, 90), axis=0)
            axes.plot(steps, median, style, color=colour, label=name, linewidth=1.8)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(enough, color="gray", linewidth=1, linestyle=(0, (1, 3)))
        axes.set(xscale="log", yscale="log", ylim=(1e-20, None))
        finish(axes, "step", "cost", problem, loc="lower right")
    return figure
