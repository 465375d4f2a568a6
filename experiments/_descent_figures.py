"""The figures of `experiments.descent`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments._descent_runs import Noise, Sweep, Tuned, last_cost
from experiments._drawing import STYLES, band, finish, new_figure


def methods(
    chosen: Mapping[str, Tuned],
    first: Mapping[str, tuple[np.ndarray, np.ndarray]],
    seconds: Mapping[str, np.ndarray],
    n: int,
    target: float,
) -> Figure:
    """The cost against epochs, examples seen, and time, for the three ways to descend."""
    figure = new_figure(13, 4.2)
    epochs, examples, times = figure.subplots(1, 3, sharey=True)
    start = next(iter(first.values()))[1][:, :1]  # all begin with the same weights
    for i, (name, tuned) in enumerate(chosen.items()):
        costs = np.concatenate([start, tuned.costs], axis=1)
        passes = np.arange(costs.shape[1])
        band(epochs, passes, costs, i, f"{name}, rate {tuned.rate:.2g}")
        seen, on_the_way = first.get(name, (np.zeros(1), start))
        later = n * passes > seen[-1]
        band(examples, np.append(seen, n * passes[later]), np.append(on_the_way, costs[:, later], axis=1), i, name)
        band(times, passes * np.median(seconds[name]), costs, i, name)
    epochs.set_xscale("symlog", linthresh=1)
    examples.set_xscale("symlog", linthresh=1)
    times.set_xscale("symlog", linthresh=1e-3)
    epochs.set_yscale("log")
    for axes in (epochs, examples, times):
        axes.set_xlim(left=0)
        axes.axhline(target, color="gray", linewidth=1, linestyle=(0, (1, 3)))
    finish(epochs, "epochs", "cost of all examples (nats)", loc="lower left", fontsize=9)
    finish(examples, "examples seen", "", loc="lower left", fontsize=9)
    finish(times, "seconds, without compiling", "", loc="lower left", fontsize=9)
    figure.suptitle("Digits: the same descent, by steps on all examples, on a few, on one (dotted: target)")
    return figure


def rates(methods: Mapping[str, Sweep], optimizers: Mapping[str, Sweep], rates: np.ndarray, epochs: int) -> Figure:
    """The cost after so many epochs against the step size: each curve one call that trains an ensemble."""
    figure = new_figure(11, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, sweeps, title in zip(panels, (methods, optimizers), ("plain descent", "optimizers"), strict=True):
        for i, (name, found) in enumerate(sweeps.items()):
            costs = found.costs[..., :epochs]
            band(axes, rates, 10 ** last_cost(costs), i, name, marker=True)
        axes.set(xscale="log", yscale="log")
        finish(axes, "learning rate", f"cost after {epochs} epochs (nats)", title, fontsize=9)
    return figure


def noise(found: Mapping[str, Noise], sizes: tuple[int, ...]) -> Figure:
    """The noise of a batch's gradient against its size, beside tr Σ / size and ‖G‖²."""
    figure = new_figure(6.8, 4.4)
    axes = figure.subplots()
    size = np.array(sizes)
    for (colour, line, symbol), (name, one) in zip(STYLES, found.items(), strict=False):
        axes.plot(size, one.measured.mean(axis=0), symbol, color=colour, label=f"{name}: measured ‖g − G‖²")
        axes.plot(size, one.variance.mean() / size, line, color=colour, label="tr Σ / size")
        axes.axhline(one.signal.mean(), color=colour, linewidth=1, linestyle=(0, (1, 3)), label="‖G‖²")
    axes.set(xscale="log", yscale="log")
    finish(axes, "examples in a batch", "squared norm", "Noise and signal in a batch's gradient", fontsize=8, ncols=2)
    return figure


def optimizers(chosen: Mapping[str, Tuned]) -> Figure:
    """The cost against the epoch, each optimizer at its best step size."""
    figure = new_figure(6.8, 4.4)
    axes = figure.subplots()
    for i, (name, tuned) in enumerate(chosen.items()):
        band(axes, np.arange(1, tuned.costs.shape[1] + 1), tuned.costs, i, f"{name}, rate {tuned.rate:.2g}")
    axes.set_yscale("log")
    finish(axes, "epoch", "cost of all examples (nats)", "Optimizers, each at its best rate", fontsize=9)
    return figure
