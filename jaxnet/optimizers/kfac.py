"""K-FAC: natural gradient descent with a Kronecker-factored Gauss-Newton matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve

from jaxnet import curvature
from jaxnet._numeric import wide
from jaxnet.backprop import in_structure_of
from jaxnet.curvature import Factors
from jaxnet.network import from_augmented, to_augmented
from jaxnet.optimizers._common import check_damping, check_decay, dot, needed

__all__ = ["KfacState", "kfac"]


class KfacState(NamedTuple):
    """``steps``: how many are done. ``factors``: running means of those of `jaxnet.curvature.kfac` over the batches."""

    steps: Array
    factors: tuple[Factors, ...]


def kfac(damping: float = 0.01, decay: float = 0.95) -> optax.GradientTransformationExtraArgs:
    """Natural gradient descent with Kronecker factors, for mini-batches: no learning rate.

    Δˡ = −(Gˡ + √λ/π)⁻¹ ∂J/∂[Wˡ | bˡ] (Aˡ + π√λ)⁻¹,  λ = damping + l2        Martens & Grosse 2015

    with Aˡ, Gˡ the factors of `jaxnet.curvature.kfac`, averaged over the steps so far with weights that decay, and π²
    the ratio of their mean eigenvalues. The step is the multiple of Δ that minimises the batch's own quadratic
    model, −(∇J·Δ) / Δ·(G + damping)Δ, with G the exact Gauss-Newton matrix; to shorten it over time, chain it:
    ``optax.chain(kfac(), optax.scale_by_schedule(...))``.

    Its update needs more than a gradient: `jaxnet.make_step` and `jaxnet.train` pass it ``batch`` and ``net``. A step
    takes one backward pass for each output, and solves with matrices of the layers' sizes, (inputs + 1, inputs + 1) and
    (units, units).

    Parameters
    ----------
    damping
        λ without the penalty's part: more for smaller batches and steps.
    decay
        How much of the old mean is kept, at the most, in [0, 1): at step k it is min(1 − 1/k, decay).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; from the update, if it is not given ``batch`` and ``net``.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(1), (2, 4, 1), scheme="normal")
    >>> optimizer = jaxnet.optimizers.kfac()
    >>> result = jaxnet.train(jax.random.key(0), params, jaxnet.data.xor(), optimizer=optimizer, epochs=100)
    >>> bool(result.history["cost"][-1] < 1e-3)
    True
    """
    check_decay(decay)
    check_damping(damping)

    def init(params: Any) -> KfacState:
        zeros = [Factors(*(jnp.zeros((size, size), w.dtype) for size in w.T.shape)) for w in to_augmented(params)]
        return KfacState(jnp.asarray(0), tuple(zeros))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, KfacState]:
        (x, y, *weights), net = needed("kfac", extra, "batch", "net")
        steps = state.steps + 1
        keep = jnp.minimum(1 - 1 / steps.astype(x.dtype), decay)
        fresh = curvature.kfac(params, x, y, net, *weights)
        factors = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.factors, fresh)
        strength = damping + jnp.asarray(net.l2, x.dtype)
        solved = [_solve(pair, g, strength) for pair, g in zip(factors, to_augmented(updates), strict=True)]
        natural = in_structure_of(params, list(from_augmented(solved)))
        curved = dot(natural, curvature.ggn_vp(params, x, y, natural, net, *weights)) + damping * dot(natural, natural)
        length = dot(natural, updates) / jnp.where(curved == 0, 1, curved)
        return jax.tree.map(lambda d: -length * d, natural), KfacState(steps, factors)

    return optax.GradientTransformationExtraArgs(init, update)


def _solve(factors: Factors, gradient: Array, strength: Array) -> Array:
    """(G + √λ/π)⁻¹ gradient (A + π√λ)⁻¹, strength = λ; π = 1 where nothing bends or no example counts."""
    a, g, wider = *factors, gradient.astype(wide(gradient.dtype))  # half precision cannot be solved with
    a, g = a.astype(wider.dtype), g.astype(wider.dtype)
    ratio = (jnp.trace(a) / len(a)) / (jnp.trace(g) / len(g))
    pi = jnp.sqrt(jnp.where((ratio > 0) & jnp.isfinite(ratio), ratio, 1))
    root = jnp.sqrt(strength.astype(wider.dtype))
    left = cho_factor(g + root / pi * jnp.eye(len(g), dtype=g.dtype))
    right = cho_factor(a + pi * root * jnp.eye(len(a), dtype=a.dtype))
    return cho_solve(left, cho_solve(right, wider.T).T).astype(gradient.dtype)
