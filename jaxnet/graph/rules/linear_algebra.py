"""Rules of products, convolutions, Fourier transforms and decompositions."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as P

from jaxnet._sharding import explicit
from jaxnet.graph.registry import rule

# ----------------------------------------------------------------------------------------------------------------------
# Products


@rule(P.dot_general_p)
def dot_general(
    z_bar: Any, z: Any, x: Any, y: Any, *, dimension_numbers: Any, precision: Any, preferred_element_type: Any, **_: Any
) -> Any:
    """For matrices z = x y: x̄ = z̄ yᵀ and ȳ = xᵀ z̄."""
    (x_sum, y_sum), (x_batch, y_batch) = dimension_numbers
    n = len(x_batch)
    x_free = [axis for axis in range(x.ndim) if axis not in (*x_sum, *x_batch)]
    y_free = [axis for axis in range(y.ndim) if axis not in (*y_sum, *y_batch)]
    batch, z_x, z_y = range(n), range(n, n + len(x_free)), range(n + len(x_free), z.ndim)

    def back(other: Any, z_axes: Any, free: Any, other_sum: Any, other_batch: Any, own: Any) -> Any:
        """Contract z̄ with the other factor over its free axes, and put the axes that are left in order."""
        own_batch, own_free, own_sum, value = own
        # The other's summed axes come in the order that they stand in it.
        came = [*own_batch, *own_free, *(own_sum[list(other_sum).index(axis)] for axis in sorted(other_sum))]
        spec = jax.typeof(value).sharding.spec
        product = lax.dot_general(
            z_bar,
            other,
            ((tuple(z_axes), tuple(free)), (tuple(batch), tuple(other_batch))),
            precision=precision,
            preferred_element_type=preferred_element_type,
            out_sharding=explicit(z, [spec[axis] for axis in came]),  # the other factor may lie on no mesh
        )
        return lax.transpose(product, np.argsort(came)).astype(value.dtype)

    return (
        back(y, z_y, y_free, y_sum, y_batch, (x_batch, x_free, x_sum, x)),
        back(x, z_x, x_free, x_sum, x_batch, (y_batch, y_free, y_sum, y)),
    )


# ----------------------------------------------------------------------------------------------------------------------
# Convolutions


@rule(P.conv_general_dilated_p)
def conv_general_dilated(
    z_bar: Any,
    z: Any,
    x: Any,
    kernel: Any,
    *,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    precision: Any,
    preferred_element_type: Any,
    **_: Any,
) -> Any:
    """x̄ is a convolution of z̄ with the kernel turned round; the kernel's cotangent one of x with z̄."""
    specs = dimension_numbers
    values = zip((x, kernel, z), specs, (lhs_dilation, rhs_dilation, window_strides), strict=True)
    n, k, m = (np.array([_dilated(v.shape[a], d) for a, d in zip(s[2:], gaps, strict=True)]) for v, s, gaps in values)
    low = np.array([before for before, _ in padding], int)
    options = {"precision": precision, "preferred_element_type": preferred_element_type}

    # x̄: the kernel's input and output features change places, group by group.
    groups = max(feature_group_count, batch_group_count)
    turned = lax.rev(_regrouped(kernel, specs[1][0], specs[1][1], groups), tuple(specs[1][2:]))
    x_bar = lax.conv_general_dilated(
        z_bar,
        turned,
        lhs_dilation,
        _edges(k - 1 - low, n - m + low),
        lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(specs[2], _exchanged(specs[1]), specs[0]),
        feature_group_count=groups,
        **options,
    )
    if batch_group_count > 1:
        x_bar = _regrouped(x_bar, specs[0][1], specs[0][0], batch_group_count)

    # The kernel's: examples and features change places, and with them the two kinds of groups.
    kernel_bar = lax.conv_general_dilated(
        x,
        z_bar,
        rhs_dilation,
        _edges(low, m - n + k - 1 - low),
        lhs_dilation=lhs_dilation,
        rhs_dilation=window_strides,
        dimension_numbers=lax.ConvDimensionNumbers(*map(_exchanged, (specs[0], specs[2], specs[1]))),
        feature_group_count=batch_group_count,
        batch_group_count=feature_group_count,
        **options,
    )
    return x_bar.astype(x.dtype), kernel_bar.astype(kernel.dtype)


def _dilated(size: int, gap: int) -> int:
    return 0 if size == 0 else (size - 1) * gap + 1


def _edges(before: np.ndarray, after: np.ndarray) -> list[tuple[int, int]]:
    return [(int(b), int(a)) for b, a in zip(before, after, strict=True)]


def _exchanged(spec: Any) -> tuple[int, ...]:
    return (spec[1], spec[0], *spec[2:])


def _regrouped(x: Any, source: int, target: int, groups: int) -> Any:
    """Move the axis of groups, the outer part of axis ``source``, to be the outer part of axis ``target``."""
    if groups == 1:
        return x
    apart = lax.reshape(x, (*x.shape[:source], groups, x.shape[source] // groups, *x.shape[source + 1 :]))
    moved = jnp.moveaxis(apart, source, target)
    shape = list(x.shape)
    shape[source] //= groups
    shape[target] *= groups
    return lax.reshape(moved, shape)


# ----------------------------------------------------------------------------------------------------------------------
# Fourier transforms


@rule(P.fft_p)
def fft(z_bar: Any, z: Any, x: Any, *, fft_type: Any, fft_lengths: Any) -> Any:
    """The transform's matrix is symmetric; a real one sees only half of it."""
    kind = lax.FftType(fft_type)
    if kind in (lax.FftType.FFT, lax.FftType.IFFT):
        return (lax.fft(z_bar, kind, fft_lengths),)
    last = z_bar.ndim - 1
    if kind is lax.FftType.RFFT:  # the missing half of z has no cotangent
        missing = fft_lengths[-1] - z_bar.shape[-1]
        edges = [(0, missing if axis == last else 0, 0) for axis in range(z_bar.ndim)]
        full = lax.pad(z_bar, jnp.zeros((), z_bar.dtype), edges)
        return (lax.real(lax.fft(full, lax.FftType.FFT, fft_lengths)),)
    count = jnp.arange(x.shape[-1])  # an inner frequency stands for two
    twice = jnp.where((count == 0) | (2 * count == fft_lengths[-1]), 1.0, 2.0).astype(x.dtype)
    half = lax.fft(z_bar, lax.FftType.RFFT, fft_lengths)
    return (lax.conj(half) * jnp.broadcast_to(twice, x.shape) / math.prod(fft_lengths),)


# ----------------------------------------------------------------------------------------------------------------------
# Decompositions, of real matrices: Giles 2008, "Collected matrix derivative results for forward and reverse mode
# algorithmic differentiation"; Walter & Lehmann 2010 for QR; Townsend 2016 for the singular values


def _t(x: Any) -> Any:
    return jnp.swapaxes(x, -1, -2)


def _from_left(a: Any, b: Any, *, lower: bool, transpose: bool, unit: bool = False) -> Any:
    """A⁻¹ B, or A⁻ᵀ B, of a triangular matrix."""
    return lax.linalg.triangular_solve(a, b, left_side=True, lower=lower, transpose_a=transpose, unit_diagonal=unit)


def _from_right(a: Any, b: Any, *, lower: bool, transpose: bool) -> Any:
    """B A⁻¹, or B A⁻ᵀ, of a triangular matrix."""
    return lax.linalg.triangular_solve(a, b, left_side=False, lower=lower, transpose_a=transpose)


def _diagonal(d: Any) -> Any:
    return jnp.expand_dims(d, -1) * jnp.broadcast_to(jnp.eye(d.shape[-1], dtype=d.dtype), (*d.shape, d.shape[-1]))


def _over_gaps(m: Any, d: Any) -> Any:
    """m / (dⱼ − dᵢ), and 0 on the diagonal and where m is 0, so that equal values alone do no harm."""
    difference = jnp.expand_dims(d, -2) - jnp.expand_dims(d, -1)
    none = (m == 0) | jnp.broadcast_to(jnp.eye(d.shape[-1], dtype=bool), difference.shape)
    return jnp.where(none, 0, m / jnp.where(none, 1, difference))


def _over(m: Any, d: Any) -> Any:
    """m / d, and 0 where m is 0."""
    return jnp.where(m == 0, 0, m / jnp.where(m == 0, 1, d))


@rule(P.triangular_solve_p)
def triangular_solve(
    z_bar: Any,
    z: Any,
    a: Any,
    b: Any,
    *,
    left_side: bool,
    lower: bool,
    transpose_a: bool,
    conjugate_a: bool,
    unit_diagonal: bool,
) -> Any:
    """A z = b: b̄ = A⁻ᵀ z̄ and Ā = −b̄ zᵀ in A's triangle; the like for Aᵀ, and for z A = b."""
    if jnp.iscomplexobj(a):
        return NotImplemented, NotImplemented
    b_bar = lax.linalg.triangular_solve(
        a, z_bar, left_side=left_side, lower=lower, transpose_a=not transpose_a, unit_diagonal=unit_diagonal
    )
    a_bar = -(b_bar @ _t(z) if left_side else _t(z) @ b_bar)
    a_bar = _t(a_bar) if transpose_a else a_bar
    k = -1 if unit_diagonal else 0
    return jnp.tril(a_bar, k) if lower else jnp.triu(a_bar, -k), b_bar


@rule(P.cholesky_p)
def cholesky(z_bar: Any, z: Any, x: Any, **_: Any) -> Any:
    """x = z zᵀ: x̄ = z⁻ᵀ Φ(zᵀ z̄) z⁻¹, with Φ the lower triangle and half the diagonal."""
    if jnp.iscomplexobj(x):
        return (NotImplemented,)
    z = jnp.tril(z)  # what stands above the diagonal has no meaning
    product = jnp.tril(_t(z) @ z_bar)
    product = product - _diagonal(jnp.diagonal(product, axis1=-2, axis2=-1) / 2)
    x_bar = _from_right(z, _from_left(z, product, lower=True, transpose=True), lower=True, transpose=False)
    if jax.__version_info__ >= (0, 11):  # which lets all of x̄ stand in the triangle that is read
        x_bar = jnp.tril(x_bar) + jnp.tril(_t(x_bar), -1)
    return (x_bar,)


@rule(P.eigh_p)
def eigh(z_bar: Any, z: Any, x: Any, **_: Any) -> Any:
    """x = v diag(w) vᵀ: x̄ = v (diag(w̄) + (vᵀ v̄) / (wⱼ − wᵢ)) vᵀ."""
    (v, w), (v_bar, w_bar) = z, z_bar
    if jnp.iscomplexobj(x) or v.shape != x.shape:
        return (NotImplemented,)
    return (v @ (_diagonal(w_bar) + _over_gaps(_t(v) @ v_bar, w)) @ _t(v),)


@rule(P.qr_p)
def qr(z_bar: Any, z: Any, x: Any, *, pivoting: bool, full_matrices: bool, **_: Any) -> Any:
    """x = q r: x̄ = (q̄ + q S(r r̄ᵀ − q̄ᵀ q)) r⁻ᵀ, with S the symmetric matrix that has this lower triangle."""
    m, n = x.shape[-2:]
    if pivoting or m < n or (full_matrices and m != n) or jnp.iscomplexobj(x):
        return (NotImplemented,)
    (q, r), (q_bar, r_bar) = z, z_bar
    product = r @ _t(r_bar) - _t(q_bar) @ q
    symmetric = jnp.tril(product) + _t(jnp.tril(product, -1))
    return (_from_right(r, q_bar + q @ symmetric, lower=False, transpose=True),)


@rule(P.svd_p)
def svd(z_bar: Any, z: Any, x: Any, *, full_matrices: bool, compute_uv: bool, **params: Any) -> Any:
    """x = u diag(s) vᵀ; the singular values are distinct, and not 0 if u or v has a cotangent."""
    if jnp.iscomplexobj(x):
        return (NotImplemented,)
    if not compute_uv:
        u, _, vt = jnp.linalg.svd(x, full_matrices=False)
        return (u * jnp.expand_dims(z_bar[0], -2) @ vt,)
    if full_matrices and x.shape[-2] != x.shape[-1]:
        return (NotImplemented,)
    (s, u, vt), (s_bar, u_bar, vt_bar) = z, z_bar
    v, v_bar = _t(vt), _t(vt_bar)
    row, column = jnp.expand_dims(s, -2), jnp.expand_dims(s, -1)
    turn_u, turn_v = _over_gaps(_t(u) @ u_bar, s * s), _over_gaps(_t(v) @ v_bar, s * s)
    inner = _diagonal(s_bar) + (turn_u + _t(turn_u)) * row + (turn_v + _t(turn_v)) * column
    u_rest, v_rest = (bar - y @ (_t(y) @ bar) for y, bar in ((u, u_bar), (v, v_bar)))
    return (u @ inner @ vt + _over(u_rest, row) @ vt + u @ _t(_over(v_rest, row)),)


@rule(P.lu_p)
def lu(z_bar: Any, z: Any, x: Any) -> Any:
    """P x = l u: x̄ = Pᵀ l⁻ᵀ (tril(lᵀ l̄, −1) + triu(ū uᵀ)) u⁻ᵀ."""
    if x.shape[-2] != x.shape[-1] or jnp.iscomplexobj(x):
        return (NotImplemented,)
    packed, _, permutation = z
    lower = jnp.tril(packed, -1) + _diagonal(jnp.ones(packed.shape[:-1], packed.dtype))
    upper = jnp.triu(packed)
    bar = z_bar[0]
    inner = jnp.tril(_t(lower) @ jnp.tril(bar, -1), -1) + jnp.triu(jnp.triu(bar) @ _t(upper))
    permuted = _from_right(
        upper, _from_left(packed, inner, lower=True, transpose=True, unit=True), lower=False, transpose=True
    )
    return (jnp.take_along_axis(permuted, jnp.expand_dims(jnp.argsort(permutation), -1), axis=-2),)
