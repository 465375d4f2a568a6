"""Sums that half precision could not hold."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
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


def total_square(tree: Any) -> Array:
    """‖tree‖², the sum of the squares of all its numbers, at least in float32."""
    return add_up([square(leaf.ravel()) for leaf in jax.tree.leaves(tree)])


def add_up(arrays: list[Array]) -> Array:
    """The sum of a list of arrays, of which there is at least one."""
    return sum(arrays[1:], start=arrays[0])
