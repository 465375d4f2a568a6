"""Examples as rows with their shares, their norms, and contractions, a layer at a time, in the memory of a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnet._numeric import add_up, in_range, length, scale_of, scaled_root, square, total_length, wide
from jaxnet._products import Layout, Products
from jaxnet._validate import check_batch
from jaxnet.backprop import Signals, both_passes, contract, shares_of
from jaxnet.network import Layer, Network, Params, check_network


def rows_and_shares(params: Params, x: Any, y: Any, net: Network, weights: Any) -> tuple[Array, Array, Array]:
    """Inputs (n, inputs), targets (n, outputs), and the share of each in a mean (n,), at least float32."""
    check_network(net)
    x, y, weights = check_batch(params, x, y, weights)
    n = math.prod(x.shape[:-1])
    shares = jnp.asarray(shares_of(x, weights), wide(x.dtype))
    return x.reshape(n, -1), y.reshape(n, -1), jnp.broadcast_to(shares.ravel(), (n,))


def passes(params: Params, x: Any, y: Any, net: Network, weights: Any = None) -> tuple[Signals, Array, Layout]:
    """What the passes leave of examples flattened to rows, in its layout, and their shares (n,) in the dtype of x."""
    x, y, shares = rows_and_shares(params, x, y, net, weights)
    _, found, layout = both_passes(params, x, y, net)
    return found, shares.astype(x.dtype), layout


def each_layer(params: Params, found: Signals, layout: Layout) -> zip[tuple[Layer, Array, Array, Products]]:
    """Of every layer its parameters, inputs h, deltas, and the products for them."""
    return zip(params, found.activations[:-1], found.deltas, layout.layers(len(params)), strict=True)


def layer_norms(params: Params, found: Signals, net: Network, layout: Layout) -> list[Array]:
    """‖gᵢˡ‖ of each layer l: (n,), at least float32."""
    lengths = []
    for layer, h, delta, products in each_layer(params, found, layout):
        of_delta = length(delta, products.units)
        part = jnp.where(of_delta == 0, 0, of_delta * jnp.sqrt(square(h, products.inputs) + 1))
        if net.penalised:
            size, of_weight = in_range(of_delta), total_length(layer.weight)
            unit = delta / jnp.expand_dims(size, products.units).astype(delta.dtype)
            direction = layer.weight / in_range(of_weight).astype(delta.dtype)
            along = jnp.sum(unit * products.weigh(h, direction), axis=products.units)
            part = _length_of_sum(part, jnp.asarray(net.l2, part.dtype) * of_weight, size, along.astype(part.dtype))
        lengths.append(part)
    return lengths


def total_norms(lengths: list[Array]) -> Array:
    """‖gᵢ‖, of the norms of its layers."""
    scale = scale_of(reduce(jnp.maximum, lengths))
    return scaled_root(add_up([(part / scale) ** 2 for part in lengths]), scale)


def _length_of_sum(a: Array, b: Array, part: Array, along: Array) -> Array:
    """‖a + b‖ by the lengths of the two, and their inner product b · part · along; 0 where rounding makes it less."""
    scale = scale_of(jnp.maximum(a, b))
    return scaled_root((a / scale) ** 2 + 2 * (b / scale) * (part / scale) * along + (b / scale) ** 2, scale)


def mean_gradient(found: Signals, shares: Array, layout: Layout) -> list[Layer]:
    """Σᵢ sᵢ gᵢ, the mean gradient of the losses, layer by layer."""
    scale = jnp.expand_dims(shares, layout.others.units)
    return contract(found.activations, tuple(delta * scale for delta in found.deltas), layout)


def last_layer_first(
    contraction: Callable[[Array, Array, Products], Layer], found: Signals, layout: Layout
) -> list[Layer]:
    """Contract (h, δ) of each layer, from back to front, each δ only when the layer behind it is done.

    A layer's activations and deltas are then free when the next contraction begins. XLA by itself takes the layers in
    any order, and holds all of them, and what is made of them, at once: up to twice the memory of a gradient.
    """
    layers: list[Layer] = []
    products = layout.layers(len(found.deltas))
    for l in reversed(range(len(products))):
        delta = after(layers[-1].weight, found.deltas[l]) if layers else found.deltas[l]
        layers.append(contraction(found.activations[l], delta, products[l]))
    return layers[::-1]


def after(done: Array, value: Array) -> Array:
    """``value``, but not before ``done`` is computed; NaN where ``done`` begins with NaN.

    XLA's only order is that of data, and it drops optimization barriers before it settles the order.
    """
    first = done.ravel()[0].astype(value.dtype)
    return jnp.where(first == first, value, first)


_REGISTER = 16
"""Blocks of inputs are multiples of the float32 numbers in a vector register: products of 25 columns take longer than
products of 32."""


def outer_of_squares(delta2: Array, h: Array, products: Products, done: Array) -> Array:
    """The product (δ²)ᵀ h², summed over the examples, which are as ``products`` has them, after ``done``.

    A product needs h² in memory, which for a layer of fewer units than inputs is more than all else; so on a CPU it is
    squared in blocks of inputs, each about a quarter of the units, in whole registers. A GPU takes as long for each of
    them as for all. Measured by benchmarks/quantities.py.
    """
    units, inputs = delta2.shape[products.units], h.shape[products.inputs]
    if inputs <= max(_REGISTER, units) or jax.default_backend() != "cpu":
        return products.outer(delta2, after(done, h) ** 2)
    blocks = math.ceil(inputs / (_REGISTER * math.ceil(units / (4 * _REGISTER))))
    size = _REGISTER * math.ceil(inputs / (blocks * _REGISTER))

    def block(i: Array, weight: Array) -> Array:
        start = jnp.minimum(i * size, inputs - size)  # the last one overlaps the one before
        h2 = lax.dynamic_slice_in_dim(h, start, size, axis=products.inputs) ** 2
        return lax.dynamic_update_slice_in_dim(weight, products.outer(delta2, h2), start, axis=1)

    # The result's memory serves others until then.
    return lax.fori_loop(0, blocks, block, after(done, jnp.zeros((units, inputs), h.dtype)))
