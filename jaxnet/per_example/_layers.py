"""Contractions over the examples, one layer at a time, in the memory of a plain gradient."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxnet._products import outer
from jaxnet.backprop import Signals
from jaxnet.network import Layer


def last_layer_first(contraction: Callable[[Array, Array], Layer], signals: Signals) -> list[Layer]:
    """Contract (h, δ) of each layer, from back to front, each δ only when the layer behind it is done.

    A layer's activations and deltas are then free when the next contraction begins. XLA by itself takes the layers in
    any order, and holds all of them, and what is made of them, at once: up to twice the memory of a gradient.
    """
    layers: list[Layer] = []
    for h, delta in zip(reversed(signals.activations[:-1]), reversed(signals.deltas), strict=True):
        if layers:
            delta = after(layers[-1].weight, delta)
        layers.append(contraction(h, delta))
    return layers[::-1]


def after(done: Array, value: Array) -> Array:
    """``value``, but not before ``done`` is computed; NaN where ``done`` begins with NaN.

    XLA's only order is that of data, and it drops optimization barriers before it settles the order.
    """
    first = done.ravel()[0].astype(value.dtype)
    return jnp.where(first == first, value, first)


_BLOCK = 48


def outer_of_squares(delta2: Array, h: Array) -> Layer:
    """The products (δ²)ᵀ h² and Σ δ², summed over the examples: (..., units), (..., inputs) to a layer.

    A product needs h² in memory, which for a layer of few units is many times everything else; so it is squared in
    blocks of inputs. Measured by benchmarks/quantities.py.
    """
    units, inputs = delta2.shape[-1], h.shape[-1]
    examples = tuple(range(h.ndim - 1))
    bias = jnp.sum(delta2, axis=examples)
    if inputs <= max(2 * units, _BLOCK):
        return Layer(outer(delta2, after(bias, h) ** 2), bias)

    def block(i: Array, weight: Array) -> Array:
        start = jnp.minimum(i * _BLOCK, inputs - _BLOCK)  # the last one overlaps the one before
        h2 = lax.dynamic_slice_in_dim(h, start, _BLOCK, axis=-1) ** 2
        return lax.dynamic_update_slice_in_dim(weight, jnp.tensordot(delta2, h2, (examples, examples)), start, axis=1)

    # The result's memory serves others until then.
    nothing = after(bias, jnp.zeros((units, inputs), h.dtype))
    return Layer(lax.fori_loop(0, -(-inputs // _BLOCK), block, nothing), bias)
