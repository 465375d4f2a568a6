"""Sums that half precision could not hold, and lengths whose squares no precision could."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> DTypeLike:
    """The dtype of a sum over many numbers: at least float32, because half precision cannot count the examples."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def portions(weights: Array, axis: int | None = None) -> Array:
    """wᵢ / Σ w over all, or along an axis, kept; 0 where the sum, taken in float32 at least, is 0."""
    weighed = weights.astype(wide(weights.dtype))
    total = jnp.sum(weighed, axis=axis, keepdims=axis is not None)
    return (weighed / jnp.where(total == 0, 1, total)).astype(weights.dtype)


def square(v: Array, axis: int = -1) -> Array:
    """‖v‖² over an axis, at least in float32."""
    return jnp.sum(v.astype(wide(v.dtype)) ** 2, axis=axis)


def length(v: Array, axis: int = -1) -> Array:
    """‖v‖ over an axis, at least in float32, also where the squares are out of range; its derivative is 0 at v = 0."""
    v = v.astype(wide(v.dtype))
    scale = scale_of(jnp.max(jnp.abs(v), axis=axis, keepdims=True))
    return scaled_root(square(v / scale, axis), jnp.squeeze(scale, axis))


def scaled_root(squares: Array, scale: Array) -> Array:
    """The root of a sum of squares that were divided by scale²; 0 where it is 0, or rounding made it less."""
    some = ~(squares <= 0)
    return jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)) * scale, 0)


def scale_of(size: Array) -> Array:
    """A constant near a size, by which to divide what is squared, so that no square leaves the dtype's range."""
    return in_range(lax.stop_gradient(size))


def in_range(size: Array) -> Array:
    """A size that can be divided by; 1 in the place of 0, and of what is not finite."""
    return jnp.where((size > 0) & (size < jnp.inf), size, 1)


def total_length(tree: Any) -> Array:
    """‖tree‖, the length of all its numbers as a vector, at least in float32."""
    return length(jnp.stack([length(leaf.ravel()) for leaf in jax.tree.leaves(tree)]))


def total_square(tree: Any) -> Array:
    """‖tree‖², the sum of the squares of all its numbers, at least in float32."""
    return add_up([square(leaf.ravel()) for leaf in jax.tree.leaves(tree)])


def add_up(arrays: list[Array]) -> Array:
    """The sum of a list of arrays, of which there is at least one."""
    return sum(arrays[1:], start=arrays[0])
