"""Rules of functions that treat every entry alike: x̄ = z̄ ∂z/∂x.

Where a function has a kink or a pole, the branch is JAX's: |x|′ = 1 at 0, max(x, x) shares equally, and so on.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.extend.core import primitives as P

from jaxnet.graph.registry import rule
from jaxnet.graph.tape import is_differentiable


def _one_operand(primitive: Primitive, derivative: Any) -> None:
    @rule(primitive)
    def backward(z_bar: Any, z: Any, x: Any, **_: Any) -> Any:
        return (z_bar * derivative(z, x),)


# z = f(x): ∂z/∂x from z and x.
DERIVATIVES = {
    P.exp_p: lambda z, _: z,
    P.exp2_p: lambda z, _: z * math.log(2),
    P.expm1_p: lambda z, _: z + 1,
    P.log_p: lambda _, x: 1 / x,
    P.log1p_p: lambda _, x: 1 / (x + 1),
    P.sqrt_p: lambda z, _: 0.5 / z,
    P.rsqrt_p: lambda z, x: -0.5 * z / x,
    P.cbrt_p: lambda z, _: 1 / (3 * z * z),
    P.square_p: lambda _, x: 2 * x,
    P.logistic_p: lambda z, _: z * (1 - z),
    P.tanh_p: lambda z, _: (1 - z) * (1 + z),
    P.sin_p: lambda _, x: lax.cos(x),
    P.cos_p: lambda _, x: -lax.sin(x),
    P.tan_p: lambda z, _: 1 + z * z,
    P.asin_p: lambda _, x: lax.rsqrt(1 - x * x),
    P.acos_p: lambda _, x: -lax.rsqrt(1 - x * x),
    P.atan_p: lambda _, x: 1 / (1 + x * x),
    P.sinh_p: lambda _, x: lax.cosh(x),
    P.cosh_p: lambda _, x: lax.sinh(x),
    P.asinh_p: lambda _, x: lax.rsqrt(x * x + 1),
    P.acosh_p: lambda _, x: lax.rsqrt((x - 1) * (x + 1)),
    P.atanh_p: lambda _, x: 1 / ((1 - x) * (1 + x)),
    P.erf_p: lambda _, x: 2 / math.sqrt(math.pi) * lax.exp(-x * x),
    P.erfc_p: lambda _, x: -2 / math.sqrt(math.pi) * lax.exp(-x * x),
    P.erf_inv_p: lambda z, _: math.sqrt(math.pi) / 2 * lax.exp(z * z),
    P.lgamma_p: lambda _, x: lax.digamma(x),
    P.digamma_p: lambda _, x: lax.polygamma(jnp.ones_like(x), x),
    P.bessel_i0e_p: lambda z, x: lax.bessel_i1e(x) - lax.sign(x) * z,
    P.bessel_i1e_p: lambda z, x: _bessel_i1e_slope(z, x),
}
IN_JAX_0_11 = {
    "log2_p": lambda _, x: 1 / (x * math.log(2)),
    "one_minus_square_p": lambda _, x: -2 * x,
}
DERIVATIVES |= {getattr(P, name): derivative for name, derivative in IN_JAX_0_11.items() if hasattr(P, name)}
for _primitive, _derivative in DERIVATIVES.items():
    _one_operand(_primitive, _derivative)


def _bessel_i1e_slope(z: Any, x: Any) -> Any:
    """i₀e(x) − i₁e(x) (sign x + 1/x), whose limit at 0 is 1/2."""
    tiny = jnp.abs(x) < jnp.finfo(x.dtype).eps
    safe = jnp.where(tiny, 1, x)
    return jnp.where(tiny, 0.5, lax.bessel_i0e(safe) - z * (lax.sign(safe) + 1 / safe))


@rule(P.neg_p)
def neg(z_bar: Any, z: Any, x: Any) -> Any:
    return (-z_bar,)


@rule(P.sign_p)
@rule(P.floor_p)
@rule(P.ceil_p)
@rule(P.round_p)
def step(z_bar: Any, z: Any, x: Any, **_: Any) -> Any:
    """Constant but for jumps."""
    return (None,)


@rule(P.abs_p)
def absolute(z_bar: Any, z: Any, x: Any) -> Any:
    if jnp.iscomplexobj(x):  # z̄ conj(x) / |x|, in JAX's convention for complex cotangents
        return ((z_bar / jnp.where(z == 0, 1, z)).astype(x.dtype) * jnp.conj(x),)
    return (jnp.where(x >= 0, z_bar, -z_bar),)


@rule(P.integer_pow_p)
def integer_pow(z_bar: Any, z: Any, x: Any, *, y: int) -> Any:
    if y == 0:
        return (None,)
    return (z_bar * (y if y == 1 else y * lax.integer_pow(x, y - 1)),)


# ----------------------------------------------------------------------------------------------------------------------
# Two operands and more


@rule(P.add_p)
@rule(P.add_jaxvals_p)
def add(z_bar: Any, z: Any, x: Any, y: Any) -> Any:
    return z_bar, z_bar


@rule(P.sub_p)
def sub(z_bar: Any, z: Any, x: Any, y: Any) -> Any:
    return z_bar, -z_bar


@rule(P.mul_p)
def mul(z_bar: Any, z: Any, x: Any, y: Any, **_: Any) -> Any:
    return z_bar * y, z_bar * x


@rule(P.div_p)
def div(z_bar: Any, z: Any, x: Any, y: Any) -> Any:
    return z_bar / y, -z_bar * z / y


@rule(P.rem_p)
def rem(z_bar: Any, z: Any, x: Any, y: Any) -> Any:
    """z = x − y trunc(x / y)."""
    ratio = x / y
    return z_bar, -z_bar * lax.sign(ratio) * lax.floor(lax.abs(ratio))


@rule(P.pow_p)
def power(z_bar: Any, z: Any, x: Any, y: Any) -> Any:
    """z = xʸ, x̄ = z̄ y xʸ⁻¹, ȳ = z̄ xʸ log x; 0⁰ counts as constant in x, and 0ʸ in y."""
    if not is_differentiable(y):  # an integer exponent
        n = y.astype(x.dtype)
        return z_bar * jnp.where(y == 0, 0, n * lax.pow(x, jnp.where(y == 0, 1, y - 1))), None
    x_slope = y * lax.pow(*jnp.broadcast_arrays(x, jnp.where(y == 0, 1, y - 1)))
    y_slope = lax.log(jnp.where(x == 0, 1, x)) * z
    return z_bar * jnp.where(y == 0, 0, x_slope), z_bar * y_slope


@rule(P.max_p)
@rule(P.min_p)
def extremum(z_bar: Any, z: Any, x: Any, y: Any) -> Any:
    """To the operand that z is; half to each where both are."""
    tie = jnp.where(x == y, 0.5, 1).astype(z.dtype)
    return jnp.where(x == z, z_bar * tie, 0), jnp.where(y == z, z_bar * tie, 0)


@rule(P.atan2_p)
def atan2(z_bar: Any, z: Any, x: Any, y: Any) -> Any:
    square = x * x + y * y
    return z_bar * (y / square), z_bar * (-x / square)


@rule(P.select_n_p)
def select_n(z_bar: Any, z: Any, which: Any, *cases: Any) -> Any:
    """To the case that was selected."""
    which = which.astype(np.int32) if which.dtype == bool else which
    return None, *(jnp.where(which == i, z_bar, 0) for i in range(len(cases)))


@rule(P.clamp_p)
def clamp(z_bar: Any, z: Any, low: Any, x: Any, high: Any) -> Any:
    inside = (x > low) & (x < high)
    return jnp.where(low > x, z_bar, 0), jnp.where(inside, z_bar, 0), jnp.where(high < x, z_bar, 0)


# ----------------------------------------------------------------------------------------------------------------------
# Special functions


@rule(P.polygamma_p)
def polygamma(z_bar: Any, z: Any, m: Any, x: Any) -> Any:
    return NotImplemented, z_bar * lax.polygamma(m + 1, x)


@rule(P.zeta_p)
def zeta(z_bar: Any, z: Any, x: Any, q: Any) -> Any:
    """ζ(x, q) = Σ (k + q)⁻ˣ, of which only q is differentiated."""
    return NotImplemented, z_bar * (-x * lax.zeta(x + 1, q))


def _gamma_density(a: Any, x: Any) -> Any:
    """xᵃ⁻¹ e⁻ˣ / Γ(a)."""
    return lax.exp(-x + (a - 1) * lax.log(x) - lax.lgamma(a))


@rule(P.igamma_p)
def igamma(z_bar: Any, z: Any, a: Any, x: Any) -> Any:
    return z_bar * P.igamma_grad_a_p.bind(a, x), z_bar * _gamma_density(a, x)


@rule(P.igammac_p)
def igammac(z_bar: Any, z: Any, a: Any, x: Any) -> Any:
    return -z_bar * P.igamma_grad_a_p.bind(a, x), -z_bar * _gamma_density(a, x)


@rule(P.regularized_incomplete_beta_p)
def regularized_incomplete_beta(z_bar: Any, z: Any, a: Any, b: Any, x: Any) -> Any:
    """I(a, b, x), of which only x is differentiated: xᵃ⁻¹ (1 − x)ᵇ⁻¹ / B(a, b)."""
    log_beta = lax.lgamma(a) + lax.lgamma(b) - lax.lgamma(a + b)
    density = lax.exp((b - 1) * lax.log1p(-x) + (a - 1) * lax.log(x) - log_beta)
    return NotImplemented, NotImplemented, z_bar * density


_gamma_slope: Any = lax.random_gamma_grad  # whose decorator hides from type checkers that it fills in an argument


@rule(P.random_gamma_p)
def random_gamma(z_bar: Any, z: Any, key: Any, a: Any, *, log_space: bool) -> Any:
    """How a sample, or its logarithm, moves with a at a fixed probability: Figurnov et al. 2018."""
    if not log_space:
        return None, z_bar * _gamma_slope(a, z)
    sample = lax.max(lax.exp(z), jnp.full_like(z, jnp.finfo(z.dtype).tiny))
    return None, z_bar * _gamma_slope(a, sample) / sample


# ----------------------------------------------------------------------------------------------------------------------
# Types, and functions that change nothing


@rule(P.convert_element_type_p)
def convert_element_type(z_bar: Any, z: Any, x: Any, **_: Any) -> Any:
    real = jnp.iscomplexobj(z_bar) and not jnp.iscomplexobj(x)
    return (lax.convert_element_type(jnp.real(z_bar) if real else z_bar, x.dtype),)


@rule(P.reduce_precision_p)
def reduce_precision(z_bar: Any, z: Any, x: Any, **params: Any) -> Any:
    return (P.reduce_precision_p.bind(z_bar, **params),)


@rule(P.copy_p)
def copy(z_bar: Any, z: Any, x: Any, **_: Any) -> Any:
    return (z_bar,)


@rule(P.sharding_constraint_p)
def sharding_constraint(z_bar: Any, z: Any, x: Any, **params: Any) -> Any:
    return (P.sharding_constraint_p.bind(z_bar, **params),)


@rule(P.device_put_p)
@rule(lax.optimization_barrier_p)
def identity(z_bar: Any, z: Any, *x: Any, **_: Any) -> Any:
    return z_bar


@rule(P.real_p)
def real(z_bar: Any, z: Any, x: Any) -> Any:
    return (P.complex_p.bind(z_bar, jnp.zeros_like(z_bar)),)


@rule(P.imag_p)
def imag(z_bar: Any, z: Any, x: Any) -> Any:
    return (P.complex_p.bind(jnp.zeros_like(z_bar), -z_bar),)


@rule(P.complex_p)
def make_complex(z_bar: Any, z: Any, x: Any, y: Any) -> Any:
    return jnp.real(z_bar), -jnp.imag(z_bar)


@rule(P.conj_p)
def conj(z_bar: Any, z: Any, x: Any, **_: Any) -> Any:
    if not jnp.iscomplexobj(x):
        return (jnp.real(z_bar),)
    return (lax.conj(z_bar),)
