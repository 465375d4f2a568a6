"""How the examples' gradients are spread about their mean: entry by entry, and as one number, the noise scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxnet._numeric import scale_of, total_square
from jaxnet._products import Layout
from jaxnet.backprop import Signals, add_penalty, in_structure_of
from jaxnet.network import Layer, Network, Params
from jaxnet.per_example._layers import after, layer_norms, mean_gradient, outer_of_squares, passes, total_norms

__all__ = ["noise_and_signal", "noise_scale", "second_moment", "signal_to_noise", "variance"]


def second_moment(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The mean over the examples of the squared gradient, entry by entry: the structure of params.

    Σᵢ sᵢ gᵢ²,  sᵢ = wᵢ / Σ w;  of each layer: (s ⊙ δ²)ᵀ h² and Σᵢ sᵢ δᵢ²        Dangel, Kunstner & Hennig 2020

    and with a penalty, of each weight also 2 l2 W (s ⊙ δ)ᵀ h + l2² W². It is the diagonal of the empirical Fisher
    matrix. Parameters, and errors, as for `jaxnet.cost`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="zeros")
    >>> jaxnet.per_example.second_moment(params, *jaxnet.data.xor())[1].bias  # every δ is ±1/4
    Array([0.0625], dtype=float32)
    """
    found, shares, layout = passes(params, x, y, net, weights)
    layers = _mean_of_squares(found, shares, layout, shares)
    if net.penalised:
        l2 = jnp.asarray(net.l2, layers[0].weight.dtype)
        # The mean of (a + l2 W)² is that of a², and (mean a + l2 W)² less (mean a)².
        layers = [
            square._replace(weight=square.weight + l2 * layer.weight * (2 * mean.weight + l2 * layer.weight))
            for square, mean, layer in zip(layers, mean_gradient(found, shares, layout), params, strict=True)
        ]
    return in_structure_of(params, layers)


def variance(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The variance over the examples of the gradient, entry by entry: the structure of params.

    Σᵢ sᵢ (gᵢ − g)² = Σᵢ sᵢ gᵢ² − g²,  sᵢ = wᵢ / Σ w

    Of these examples themselves, as ``jnp.var``, not estimated for those they were drawn from: for that, divide by
    1 − Σ s², which is 1 − 1/n for equal weights. The penalty does not vary and drops out. As the difference of two
    means it has no digits where the spread is below √ε of the mean, and is 0 where rounding makes it negative.
    Parameters, and errors, as for `jaxnet.cost`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="zeros")
    >>> jaxnet.per_example.variance(params, *jaxnet.data.xor())[1].bias  # δ is 1/4 twice and −1/4 twice
    Array([0.0625], dtype=float32)
    """
    found, shares, layout = passes(params, x, y, net, weights)
    mean = mean_gradient(found, shares, layout)
    return in_structure_of(params, _variance(found, shares, layout, mean))


def signal_to_noise(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The gradient's signal-to-noise ratio, entry by entry: the structure of params.

    g² / Σᵢ sᵢ (gᵢ − g)²,  g the gradient of the cost        Liu et al. 2020

    0 where both are zero, such as at the weights of a dead unit; infinite where only the variance is. Parameters, and
    errors, as for `jaxnet.cost`; digits as for `variance`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="zeros")
    >>> jaxnet.per_example.signal_to_noise(params, *jaxnet.data.xor())[1].bias  # the examples cancel
    Array([0.], dtype=float32)
    """
    found, shares, layout = passes(params, x, y, net, weights)
    found, net = _scaled(found, net)
    mean = mean_gradient(found, shares, layout)
    return jax.tree.map(
        lambda g, var: jnp.where(g == 0, 0, g**2 / var),
        in_structure_of(params, add_penalty(net, mean, params)),
        in_structure_of(params, _variance(found, shares, layout, mean)),
    )


def noise_and_signal(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> tuple[Array, Array]:
    """What `noise_scale` is the ratio of, (tr Σ, ‖G‖²), each without bias: two scalars.

    Σ is the covariance of the gradient of one example, and G the gradient of the cost, both over the distribution that
    the n examples were drawn from. With s = w / Σ w, and g the gradient of the cost on these examples:

    tr Σ ≈ Σᵢ sᵢ ‖gᵢ − g‖² / (1 − Σ s²),  ‖G‖² ≈ ‖g‖² − Σ s² · tr Σ        (Σ s² = 1/n for equal weights)

    Of one batch both are noisy, and ‖G‖² may come out negative where the noise hides the gradient. Average each of the
    two over batches, and divide then: the mean of ratios is biased.

    Parameters, and errors, as for `jaxnet.cost`; also ValueError for a single example, which has no spread. NaN where
    all but one have a weight of 0.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> noise, signal = jaxnet.per_example.noise_and_signal(params, *jaxnet.data.xor())
    >>> bool(noise > 0)
    True
    """
    return _noise_and_signal(params, *_passes_of_some(params, x, y, net, weights), net)


def noise_scale(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Array:
    """The gradient noise scale tr Σ / ‖G‖², in examples: a scalar.

    The simple noise scale of McCandlish, Kaplan, Amodei & the OpenAI Dota team 2018. Batches much smaller than it waste
    steps, much larger ones waste examples. Estimated from n examples, by their two unbiased parts (`noise_and_signal`),
    to be averaged over batches where one gives no clear answer: negative says that these examples are too few to see
    the gradient for the noise. Parameters, and errors, as for `noise_and_signal`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.moons(jax.random.key(1), 100)
    >>> bool(jaxnet.per_example.noise_scale(params, x, y) > 0)
    True
    """
    found, shares, layout = _passes_of_some(params, x, y, net, weights)
    found, net = _scaled(found, net)
    noise, signal = _noise_and_signal(params, found, shares, layout, net)
    return noise / signal


def _passes_of_some(params: Params, x: Any, y: Any, net: Network, weights: Any) -> tuple[Signals, Array, Layout]:
    found, shares, layout = passes(params, x, y, net, weights)
    if len(shares) < 2:
        raise ValueError(f"x has {len(shares)} example, expected at least 2: the noise is their spread")
    return found, shares, layout


def _noise_and_signal(
    params: Params, found: Signals, shares: Array, layout: Layout, net: Network
) -> tuple[Array, Array]:
    mean = mean_gradient(found, shares, layout)
    unpenalised = Network(net.hidden, net.output, net.loss)
    squares = total_norms(layer_norms(params, found, unpenalised, layout)) ** 2
    shares = shares.astype(squares.dtype)
    spread = jnp.sum(shares**2)
    noise = (jnp.sum(shares * squares) - total_square(mean)) / jnp.where(spread < 1, 1 - spread, jnp.nan)
    signal = total_square(add_penalty(net, mean, params)) - spread * noise
    return noise, signal


def _scaled(found: Signals, net: Network) -> tuple[Signals, Network]:
    """Passes whose largest δ is 1, and the penalty that goes with them: so their squares are in range.

    All gradients are the same number of times smaller than they were, which no ratio of them notices.
    """
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(delta)) for delta in found.deltas]))
    scale = scale_of(largest)
    found = found._replace(deltas=tuple(delta / scale for delta in found.deltas))
    return found, replace(net, l2=net.l2 / scale) if net.penalised else net


def _mean_of_squares(found: Signals, shares: Array, layout: Layout, done: Array) -> list[Layer]:
    """Σᵢ sᵢ gᵢ² of each layer, (s ⊙ δ²)ᵀ h² and Σᵢ sᵢ δᵢ²: from back to front, each only after the one before.

    They begin after ``done``. The first layer's δ are squared before the second layer's product is taken: they are
    needed for nothing else, and what they came from, the second layer's h, is then free to be squared in place.
    """
    scale = jnp.expand_dims(shares, layout.others.units)
    products = layout.layers(len(found.deltas))
    squares: dict[int, Array] = {}
    totals: dict[int, Array] = {}
    weights: dict[int, Array] = {}
    for l in reversed(range(len(products))):
        for k in (1, 0) if l == 1 else (l,):
            if k not in squares:
                squares[k] = after(done, found.deltas[k]) ** 2 * scale
                totals[k] = done = products[k].total(squares[k])
        weights[l] = done = outer_of_squares(squares[l], found.activations[l], products[l], done)
    return [Layer(weights[l], totals[l]) for l in range(len(products))]


def _variance(found: Signals, shares: Array, layout: Layout, mean: list[Layer]) -> list[Layer]:
    squares = _mean_of_squares(found, shares, layout, mean[0].weight)
    return jax.tree.map(lambda square, g: jnp.maximum(square - g**2, 0), squares, mean)
