"""Figures, in matplotlib: the only module besides drawings of graphs that uses it, imported when asked for.

Each function draws on a new figure and returns it. Colours are told apart by colour-blind readers (Okabe & Ito 2008;
the maps are cividis and a blue-orange diverging one), and differ in lightness or marker too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jaxnet._colours import BLUE, BLUE_TO_VERMILLION, GREEN, PURPLE, VERMILLION
from jaxnet._validate import checked_count
from jaxnet.backprop import forward
from jaxnet.losses import squared_error
from jaxnet.network import Network, Params

__all__ = ["boundary_and_hidden_space", "confusion_matrix", "cost_curves", "first_layer_weights"]

_COLOURS, _STYLES = (BLUE, VERMILLION, GREEN, PURPLE), ("-", "--", "-.", ":")
_DIVERGING = LinearSegmentedColormap.from_list("blue-orange", BLUE_TO_VERMILLION)
_MARKERS = ("o", "s")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _scatter_classes(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    for value, colour, marker in zip((0, 1), (BLUE, VERMILLION), _MARKERS, strict=True):
        points = x[(y > 0.5) == value]
        axes.scatter(*points.T, c=colour, marker=marker, s=130, edgecolors="white", linewidths=2, zorder=3)
        axes.scatter(*points.T, c=colour, marker=marker, s=90, edgecolors="black", zorder=4, label=f"y = {value}")


def boundary_and_hidden_space(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), *, title: str = ""
) -> Figure:
    """The output over the plane of two inputs, and the same examples as the first two hidden units see them.

    Left, ŷ(x₁, x₂) with its boundary ŷ = 1/2 and, dashed, the line of each unit of the first hidden layer. Right, the
    examples in hidden space, where one layer remains: with two hidden units the boundary is a straight line there.
    Needs two inputs, one output, and one hidden layer of at least two units. Outputs that are logits are shown as what
    the loss makes of them.
    """
    if net.loss.link is not None:
        net = replace(net, output=net.loss.link)
    x, targets = np.asarray(x), np.asarray(y).ravel()
    if len(params) != 2 or x.shape[1] != 2 or targets.shape != (len(x),) or len(params[0].bias) < 2:
        sizes = [x.shape[1], *(len(layer.bias) for layer in params)]
        raise ValueError(f"the network has sizes {sizes}, expected 2 inputs, 2 or more hidden units, and 1 output")
    figure = _figure(10.5, 4.4)
    plane, hidden_space = figure.subplots(1, 2)

    low, high = x.min(axis=0) - 0.5, x.max(axis=0) + 0.5
    axis1, axis2 = (np.linspace(a, b, 201) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(axis1, axis2), axis=-1).astype(x.dtype)
    output = np.asarray(forward(params, grid, net))[..., 0]
    image = plane.pcolormesh(axis1, axis2, output, cmap=_DIVERGING, vmin=0, vmax=1, shading="nearest", rasterized=True)
    figure.colorbar(image, ax=plane, label="output ŷ")
    plane.contour(axis1, axis2, output, levels=[0.5], colors="black", linewidths=2)
    for (v1, v2), bias in zip(*params[0], strict=True):
        a = v1 * grid[..., 0] + v2 * grid[..., 1] + bias
        plane.contour(axis1, axis2, a, levels=[0.0], colors=GREEN, linewidths=2, linestyles="dashed")
    _scatter_classes(plane, x, targets)
    plane.set_aspect("equal")
    plane.set(xlabel="x₁", ylabel="x₂", title="input space: ŷ = ½ (solid), hidden units (dashed)")

    hidden = np.asarray(forward(params[:1], x, replace(net, output=net.hidden, loss=squared_error)))[:, :2]
    _scatter_classes(hidden_space, hidden, targets)
    below = hidden[:, 1] < np.median(hidden[:, 1])
    for point, (h1, h2), low_point in zip(x, hidden, below, strict=True):
        label = "(" + ", ".join(f"{value:g}" for value in point) + ")"
        shift = -14 if low_point else 10
        hidden_space.annotate(label, (h1, h2), xytext=(0, shift), textcoords="offset points", ha="center", fontsize=9)
    if len(params[0].bias) == 2:
        h1, h2 = (np.linspace(*_widened(column), 201, dtype=x.dtype) for column in hidden.T)
        output = np.asarray(forward(params[1:], np.stack(np.meshgrid(h1, h2), axis=-1), net))[..., 0]
        hidden_space.contour(h1, h2, output, levels=[0.5], colors="black", linewidths=2)
    hidden_space.set(
        xlim=_widened(hidden[:, 0]),
        ylim=_widened(hidden[:, 1]),
        xlabel="hidden unit h₁",
        ylabel="hidden unit h₂",
        title="hidden space" if len(params[0].bias) == 2 else f"hidden space: units 1, 2 of {len(params[0].bias)}",
    )
    hidden_space.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle(title)
    return figure


def _widened(values: np.ndarray) -> tuple[float, float]:
    margin = 0.2 * max(float(np.ptp(values)), 0.5)
    return float(values.min()) - margin, float(values.max()) + margin


def cost_curves(histories: Mapping[str, ArrayLike], *, ylabel: str = "cost", title: str = "") -> Figure:
    """Curves against the epoch, one for each name, on a logarithmic axis where all values are positive."""
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for i, (name, values) in enumerate(histories.items()):
        colour, style = _COLOURS[(i + i // 4) % 4], _STYLES[i % 4]  # sixteen pairs
        values = np.asarray(values)
        axes.plot(np.arange(1, len(values) + 1), values, style, color=colour, label=name, linewidth=1.8)
    if all(np.all(np.asarray(values) > 0) for values in histories.values()):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    if len(histories) > 1:
        axes.legend(frameon=False)
    return figure


def first_layer_weights(params: Params, image_shape: tuple[int, int], *, units: int = 32, title: str = "") -> Figure:
    """The weights of the first ``units`` units of the first layer, each as an image: orange positive, blue negative.

    The scale is common to all and symmetric about zero.
    """
    units = checked_count("units", units, least=1)
    weight = np.asarray(params[0].weight)[:units]
    if weight.shape[1] != np.prod(image_shape):
        raise ValueError(f"image_shape is {image_shape}, but the first layer has {weight.shape[1]} inputs")
    columns = min(8, len(weight))
    rows = -(-len(weight) // columns)
    figure = _figure(1.0 * columns + 1, 1.0 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False)
    limit = float(np.abs(weight).max()) or 1.0
    image: Any = None
    for i, axes in enumerate(grid.ravel()):
        axes.set_axis_off()
        if i < len(weight):
            image = axes.imshow(weight[i].reshape(image_shape), cmap=_DIVERGING, vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=grid, label="weight", shrink=0.9)
    figure.suptitle(title)
    return figure


def confusion_matrix(actual: ArrayLike, predicted: ArrayLike, classes: Sequence[str], *, title: str = "") -> Figure:
    """How many examples of each class (row) were taken for which (column), both given as integer labels (n,)."""
    actual, predicted = np.asarray(actual), np.asarray(predicted)
    if actual.shape != predicted.shape or actual.ndim != 1:
        raise ValueError(f"actual has shape {actual.shape} and predicted {predicted.shape}, expected the same (n,)")
    for name, labels in (("actual", actual), ("predicted", predicted)):
        if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"{name} runs from {labels.min()} to {labels.max()}, expected 0 to {len(classes) - 1}")
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (actual, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure(6.2, 5.4)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the actual class")
    for (i, j), count in np.ndenumerate(counts):
        if count:
            colour = "black" if shares[i, j] > 0.5 else "white"
            axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=9)
    axes.set(
        xticks=range(len(classes)),
        xticklabels=classes,
        yticks=range(len(classes)),
        yticklabels=classes,
        xlabel="predicted class",
        ylabel="actual class",
        title=title,
    )
    return figure
