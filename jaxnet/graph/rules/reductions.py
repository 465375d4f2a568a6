"""Rules of reductions, cumulative reductions, windows and sorting."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as P

from jaxnet.graph.registry import rule
from jaxnet.graph.tape import Tape, bind, is_differentiable


def _spread(z: Any, x: Any, axes: tuple[int, ...]) -> Any:
    """The result of a reduction over ``axes``, broadcast back to the shape of x."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    return lax.broadcast_in_dim(z, x.shape, kept)


@rule(P.reduce_sum_p)
def reduce_sum(z_bar: Any, z: Any, x: Any, *, axes: tuple[int, ...], **_: Any) -> Any:
    return (_spread(z_bar, x, axes),)


@rule(P.reduce_max_p)
@rule(P.reduce_min_p)
def reduce_extremum(z_bar: Any, z: Any, x: Any, *, axes: tuple[int, ...], **_: Any) -> Any:
    """To the entries that are the extremum, in equal shares."""
    here = (x == _spread(z, x, axes)).astype(x.dtype)
    return (here * _spread(z_bar / jnp.sum(here, axes), x, axes),)


@rule(P.reduce_prod_p)
def reduce_prod(z_bar: Any, z: Any, x: Any, *, axes: tuple[int, ...], **_: Any) -> Any:
    """x̄ᵢ = z̄ Π_{k ≠ i} xₖ, without a division, so that entries may be 0."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    order = (*kept, *axes)
    rows = lax.reshape(
        lax.transpose(x, order), (*(x.shape[axis] for axis in kept), math.prod(x.shape[a] for a in axes))
    )
    last = rows.ndim - 1
    before, after = (_exclusive_product(rows, last, reverse) for reverse in (False, True))
    others = lax.reshape(before * after, tuple(x.shape[axis] for axis in order))
    inverse = sorted(range(x.ndim), key=order.__getitem__)
    return (lax.transpose(others, inverse) * _spread(z_bar, x, axes),)


def _exclusive_product(x: Any, axis: int, reverse: bool) -> Any:
    """The product of all entries before each one, or after it."""
    n = x.shape[axis]
    if n == 0:
        return x
    ones = jnp.ones_like(lax.slice_in_dim(x, 0, 1, axis=axis))
    kept = lax.slice_in_dim(x, 1, n, axis=axis) if reverse else lax.slice_in_dim(x, 0, n - 1, axis=axis)
    shifted = lax.concatenate([kept, ones] if reverse else [ones, kept], axis)
    return lax.cumprod(shifted, axis, reverse=reverse)


@rule(P.cumsum_p)
def cumsum(z_bar: Any, z: Any, x: Any, *, axis: int, reverse: bool) -> Any:
    return (lax.cumsum(z_bar, axis, reverse=not reverse),)


def _cumulative(combine: Any) -> Any:
    """The chain rule through the tree of ``combine`` that computes a cumulative reduction."""

    def backward(z_bar: Any, z: Any, x: Any, *, axis: int, reverse: bool) -> Any:
        program = jax.make_jaxpr(lambda x: lax.associative_scan(combine, x, reverse=reverse, axis=axis))(x)
        return tuple(Tape.of(program, [x], [True]).back([z_bar]))

    return backward


rule(P.cumprod_p)(_cumulative(lax.mul))
rule(P.cummax_p)(_cumulative(lax.max))
rule(P.cummin_p)(_cumulative(lax.min))
rule(P.cumlogsumexp_p)(_cumulative(jnp.logaddexp))

# ----------------------------------------------------------------------------------------------------------------------
# Windows


@rule(P.reduce_window_sum_p)
def reduce_window_sum(
    z_bar: Any,
    z: Any,
    x: Any,
    *,
    window_dimensions: Any,
    window_strides: Any,
    padding: Any,
    base_dilation: Any,
    window_dilation: Any,
) -> Any:
    """Each entry gets the cotangents of the windows that hold it: the same sum over z̄, dilated by the strides."""
    zero = jnp.zeros((), x.dtype)
    spans = [(size - 1) * dilation for size, dilation in zip(window_dimensions, window_dilation, strict=True)]
    edges = []
    for n, m, stride, span, (low, _), spread in zip(
        x.shape, z.shape, window_strides, spans, padding, base_dilation, strict=True
    ):
        before = span - low
        length = spread * (n - 1) + 1 if n else 0  # of x, dilated
        after = length + span - before - (stride * (m - 1) + 1 if m else 0)
        edges.append((before, after, stride - 1))
    padded = lax.pad(z_bar, zero, edges)
    ones = [1] * x.ndim
    summed = lax.reduce_window(
        padded, zero, lax.add, window_dimensions, ones, [(0, 0)] * x.ndim, ones, list(window_dilation)
    )
    return (lax.slice(summed, [0] * x.ndim, summed.shape, list(base_dilation)),)


def _window_extremum(select: Any) -> Any:
    def backward(z_bar: Any, z: Any, x: Any, *, base_dilation: Any, window_dilation: Any, **params: Any) -> Any:
        """To the first entry of each window that is its extremum."""
        if any(d != 1 for d in (*base_dilation, *window_dilation)):
            return (NotImplemented,)
        return (P.select_and_scatter_add_p.bind(z_bar, x, select_prim=select, **params),)

    return backward


rule(P.reduce_window_max_p)(_window_extremum(P.ge_p))
rule(P.reduce_window_min_p)(_window_extremum(P.le_p))


@rule(P.select_and_scatter_add_p)
def select_and_scatter_add(z_bar: Any, z: Any, source: Any, x: Any, **params: Any) -> Any:
    """Linear in the source, whose entries come back from where they went."""
    ones = (1,) * x.ndim
    source_bar = P.select_and_gather_add_p.bind(z_bar, x, base_dilation=ones, window_dilation=ones, **params)
    return source_bar, None


@rule(P.select_and_gather_add_p)
def select_and_gather_add(
    z_bar: Any, z: Any, t: Any, x: Any, *, base_dilation: Any, window_dilation: Any, **params: Any
) -> Any:
    """Linear in t, whose entries are selected by x."""
    if any(d != 1 for d in (*base_dilation, *window_dilation)):
        return NotImplemented, None
    return P.select_and_scatter_add_p.bind(z_bar, x, **params), None


# ----------------------------------------------------------------------------------------------------------------------
# Over a mapped axis


@rule(P.psum_p)
def psum(z_bar: Any, z: Any, x: Any, *, axes: Any, **params: Any) -> Any:
    """Each member acts on the sum of all, so that its cotangent is the sum of theirs; axes in x itself are summed."""
    own = tuple(axis for axis in axes if isinstance(axis, int))
    mapped = tuple(axis for axis in axes if not isinstance(axis, int))
    x_bar = _spread(z_bar, x, own) if own else z_bar
    return (bind(P.psum_p, [x_bar], {"axes": mapped, **params}) if mapped else x_bar,)


# ----------------------------------------------------------------------------------------------------------------------
# Sorting


@rule(P.sort_p)
def sort(z_bar: Any, z: Any, *x: Any, dimension: int, is_stable: bool, num_keys: int) -> Any:
    """Back to the places that the entries came from."""
    places = lax.broadcasted_iota(jnp.int32, x[0].shape, dimension)
    *_, came_from = bind(P.sort_p, [*x, places], {"dimension": dimension, "is_stable": is_stable, "num_keys": num_keys})
    _, went_to = lax.sort_key_val(came_from, places, dimension=dimension)
    return tuple(
        jnp.take_along_axis(bar, went_to, axis=dimension) if is_differentiable(value) else None
        for bar, value in zip(z_bar, x, strict=True)
    )


@rule(P.top_k_p)
def top_k(z_bar: Any, z: Any, x: Any, *, axis: int, **_: Any) -> Any:
    """Back to the places that the largest entries came from."""
    return (jnp.put_along_axis(jnp.zeros_like(x), z[1], z_bar[0], axis=axis, inplace=False),)
