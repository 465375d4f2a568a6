"""Rules of functions that move entries: shapes, slices, gathers and scatters."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as P

from jaxnet.graph.registry import rule

# ----------------------------------------------------------------------------------------------------------------------
# Shapes


@rule(P.broadcast_in_dim_p)
def broadcast_in_dim(z_bar: Any, z: Any, x: Any, *_: Any, broadcast_dimensions: Any, **__: Any) -> Any:
    """The sum over the axes that are new or were of size 1."""
    stretched = [
        axis
        for axis, size in enumerate(z.shape)
        if axis not in broadcast_dimensions or x.shape[broadcast_dimensions.index(axis)] != size
    ]
    return lax.reshape(jnp.sum(z_bar, stretched), x.shape), *[None] * len(_)


@rule(P.reshape_p)
@rule(P.squeeze_p)
def reshape(z_bar: Any, z: Any, x: Any, *_: Any, **__: Any) -> Any:
    return lax.reshape(z_bar, x.shape), *[None] * len(_)


@rule(P.transpose_p)
def transpose(z_bar: Any, z: Any, x: Any, *, permutation: Any) -> Any:
    return (lax.transpose(z_bar, np.argsort(permutation)),)


@rule(P.rev_p)
def rev(z_bar: Any, z: Any, x: Any, *, dimensions: Any) -> Any:
    return (lax.rev(z_bar, dimensions),)


@rule(P.concatenate_p)
def concatenate(z_bar: Any, z: Any, *x: Any, dimension: int) -> Any:
    ends = np.cumsum([part.shape[dimension] for part in x])
    return tuple(
        lax.slice_in_dim(z_bar, int(end) - part.shape[dimension], int(end), axis=dimension)
        for part, end in zip(x, ends, strict=True)
    )


@rule(lax.stack_p)
def stack(z_bar: Any, z: Any, *x: Any, axis: int) -> Any:
    return tuple(lax.index_in_dim(z_bar, i, axis, keepdims=False) for i in range(len(x)))


@rule(lax.unstack_p)
def unstack(z_bar: Any, z: Any, x: Any, *, axis: int) -> Any:
    return (jnp.stack(z_bar, axis),)


@rule(lax.split_p)
def split(z_bar: Any, z: Any, x: Any, *, axis: int, **_: Any) -> Any:
    return (lax.concatenate(z_bar, axis),)


@rule(lax.tile_p)
def tile(z_bar: Any, z: Any, x: Any, *, reps: Any) -> Any:
    """The sum over the copies."""
    apart = [size for pair in zip(reps, x.shape, strict=True) for size in pair]
    return (jnp.sum(lax.reshape(z_bar, apart), tuple(range(0, 2 * x.ndim, 2))),)


@rule(P.pad_p)
def pad(z_bar: Any, z: Any, x: Any, fill: Any, *, padding_config: Any) -> Any:
    """The entries of x from where they went; to the fill, all the others."""
    zero = jnp.zeros((), z_bar.dtype)
    cropped = lax.pad(z_bar, zero, [(-low, -high, 0) for low, high, _ in padding_config])
    x_bar = lax.slice(cropped, [0] * x.ndim, cropped.shape, [gap + 1 for *_, gap in padding_config])
    return x_bar, jnp.sum(z_bar) - jnp.sum(x_bar)


# ----------------------------------------------------------------------------------------------------------------------
# Slices


@rule(P.slice_p)
def slice_(z_bar: Any, z: Any, x: Any, *, start_indices: Any, limit_indices: Any, strides: Any) -> Any:
    edges = []
    for start, stride, size, taken in zip(start_indices, strides or [1] * x.ndim, x.shape, z.shape, strict=True):
        reached = start + (taken - 1) * stride + 1 if taken else start
        edges.append((start, size - reached, stride - 1))
    return (lax.pad(z_bar, jnp.zeros((), z_bar.dtype), edges),)


@rule(P.dynamic_slice_p)
def dynamic_slice(z_bar: Any, z: Any, x: Any, *start: Any, **_: Any) -> Any:
    return lax.dynamic_update_slice(jnp.zeros_like(x), z_bar, start), *[None] * len(start)


@rule(P.dynamic_update_slice_p)
def dynamic_update_slice(z_bar: Any, z: Any, x: Any, update: Any, *start: Any) -> Any:
    x_bar = lax.dynamic_update_slice(z_bar, jnp.zeros_like(update), start)
    return x_bar, lax.dynamic_slice(z_bar, start, update.shape), *[None] * len(start)


# ----------------------------------------------------------------------------------------------------------------------
# Gathers and scatters are each other's way back


def _as_scatter(numbers: Any) -> Any:
    return lax.ScatterDimensionNumbers(
        update_window_dims=numbers.offset_dims,
        inserted_window_dims=numbers.collapsed_slice_dims,
        scatter_dims_to_operand_dims=numbers.start_index_map,
        operand_batching_dims=numbers.operand_batching_dims,
        scatter_indices_batching_dims=numbers.start_indices_batching_dims,
    )


def _gathered(z: Any, indices: Any, updates: Any, params: Any) -> Any:
    """What stands in z at the places where updates were scattered; 0 for those outside."""
    numbers = params["dimension_numbers"]
    sizes, window = [], iter(numbers.update_window_dims)
    for axis in range(z.ndim):
        flat = axis in numbers.inserted_window_dims or axis in numbers.operand_batching_dims
        sizes.append(1 if flat else updates.shape[next(window)])
    return lax.gather(
        z,
        indices,
        lax.GatherDimensionNumbers(
            offset_dims=numbers.update_window_dims,
            collapsed_slice_dims=numbers.inserted_window_dims,
            start_index_map=numbers.scatter_dims_to_operand_dims,
            operand_batching_dims=numbers.operand_batching_dims,
            start_indices_batching_dims=numbers.scatter_indices_batching_dims,
        ),
        sizes,
        mode=params["mode"],
        fill_value=0,
        unique_indices=params["unique_indices"],
        indices_are_sorted=params["indices_are_sorted"],
    )


def _options(params: Any) -> dict[str, Any]:
    return {name: params[name] for name in ("dimension_numbers", "mode", "unique_indices", "indices_are_sorted")}


@rule(P.gather_p)
def gather(z_bar: Any, z: Any, x: Any, indices: Any, **params: Any) -> Any:
    options = _options(params | {"dimension_numbers": _as_scatter(params["dimension_numbers"])})
    return lax.scatter_add(jnp.zeros_like(x), indices, z_bar, **options), None


@rule(P.scatter_add_p)
def scatter_add(z_bar: Any, z: Any, x: Any, indices: Any, updates: Any, **params: Any) -> Any:
    return z_bar, None, _gathered(z_bar, indices, updates, params)


@rule(lax.scatter_sub_p)
def scatter_sub(z_bar: Any, z: Any, x: Any, indices: Any, updates: Any, **params: Any) -> Any:
    return z_bar, None, -_gathered(z_bar, indices, updates, params)


@rule(P.scatter_mul_p)
def scatter_mul(z_bar: Any, z: Any, x: Any, indices: Any, updates: Any, **params: Any) -> Any:
    x_bar = lax.scatter_mul(z_bar, indices, updates, **_options(params))
    if not params["unique_indices"]:
        return x_bar, None, NotImplemented  # an update's factor would be a product over others of the same place
    return x_bar, None, _gathered(z_bar * x, indices, updates, params)


@rule(P.scatter_p)
def scatter(z_bar: Any, z: Any, x: Any, indices: Any, updates: Any, **params: Any) -> Any:
    """To x where nothing was written, and to the update that was written last."""
    options = _options(params)
    x_bar = lax.scatter(z_bar, indices, jnp.zeros_like(updates), **options)
    updates_bar = _gathered(z_bar, indices, updates, params)
    if not params["unique_indices"]:
        number = jnp.arange(1, math.prod(updates.shape) + 1, dtype=jnp.int32).reshape(updates.shape)
        written = lax.scatter(jnp.zeros(x.shape, jnp.int32), indices, number, **options)
        updates_bar = jnp.where(_gathered(written, indices, updates, params) == number, updates_bar, 0)
    return x_bar, None, updates_bar


@rule(P.scatter_max_p)
@rule(P.scatter_min_p)
def scatter_extremum(z_bar: Any, z: Any, x: Any, indices: Any, updates: Any, **params: Any) -> Any:
    """To whatever stands there now, in equal shares."""
    x_here = (x == z).astype(x.dtype)
    update_here = (updates == _gathered(z, indices, updates, params)).astype(x.dtype)
    count = lax.scatter_add(x_here, indices, update_here, **_options(params))
    share = z_bar / count
    return share * x_here, None, _gathered(share, indices, updates, params) * update_here
