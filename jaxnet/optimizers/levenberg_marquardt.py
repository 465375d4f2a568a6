"""Levenberg-Marquardt: Gauss-Newton steps, damped until they keep what they promise."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.typing import DTypeLike

from jaxnet._validate import checked_count
from jaxnet.curvature.products import Operator, ggn_operator
from jaxnet.optimizers._common import check_damping, dot, needed

__all__ = ["LevenbergMarquardtState", "levenberg_marquardt"]


class LevenbergMarquardtState(NamedTuple):
    """``damping``: μ, for the next step."""

    damping: Array


def levenberg_marquardt(damping: float = 1.0, iterations: int | None = None) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt with conjugate gradients, for small networks trained on all examples at once.

    (G + μ J I) d = −∇J,  G the Gauss-Newton matrix of the cost J        Levenberg 1944, Marquardt 1963

    G is never formed: conjugate gradients multiply by it. The step is taken if the cost falls. The next μ is a fifth
    where it fell by more than a quarter of what the quadratic model promised, and four times as large where it did not
    fall. Damping in units of J vanishes with it, which near a fit without error keeps convergence quadratic
    (Yamashita & Fukushima 2001).

    Its update needs more than a gradient: `jaxnet.make_step` and `jaxnet.train` pass it ``batch``, ``net``, ``value``
    and ``value_fn``. The gradient function must give the cost's gradient, as `backprop` and `autodiff` do. Costs
    below the square of float32's precision, 1e-14, need 64-bit mode.

    Parameters
    ----------
    damping
        The first μ.
    iterations
        Conjugate gradient iterations in a step, at the most; twice the number of parameters if None. Fewer truncate
        the step, which remains one of descent.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; from the update, if it is not given what it needs.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(1), (2, 4, 1), scheme="normal")
    >>> optimizer = jaxnet.optimizers.levenberg_marquardt()
    >>> result = jaxnet.train(jax.random.key(0), params, jaxnet.data.xor(), optimizer=optimizer, epochs=30)
    >>> bool(result.history["cost"][-1] < 1e-9)
    True
    """
    check_damping(damping)
    if iterations is not None:
        iterations = checked_count("iterations", iterations, least=1)

    def init(params: Any) -> LevenbergMarquardtState:
        return LevenbergMarquardtState(jnp.asarray(damping, jax.tree.leaves(params)[0].dtype))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, LevenbergMarquardtState]:
        batch, net, value, value_fn = needed("levenberg_marquardt", extra, "batch", "net", "value", "value_fn")
        x, y, *weights = batch
        curvature = ggn_operator(params, x, y, net, *weights)
        strength = state.damping * value

        def damped(v: Any) -> Any:
            return jax.tree.map(lambda a, b: a + strength * b, curvature(v), v)

        limit = 2 * sum(leaf.size for leaf in jax.tree.leaves(params)) if iterations is None else iterations
        step = _conjugate_gradients(damped, jax.tree.map(jnp.negative, updates), limit)
        # What the model promises: −g·d − d·Gd/2, with (G + μJ) d = −g.
        promised = (strength * dot(step, step) - dot(updates, step)) / 2
        fall = value - value_fn(optax.apply_updates(params, step))
        taken = fall > 0
        factor = jnp.where(taken, jnp.where(fall > promised / 4, 1 / 5, 1.0), 4.0)
        # Where rounding is all that is left of the cost, no damping helps; it stays finite.
        next_damping = jnp.clip(state.damping * factor.astype(value.dtype), *_range(value.dtype))
        return jax.tree.map(lambda d: jnp.where(taken, d, 0), step), LevenbergMarquardtState(next_damping)

    return optax.GradientTransformationExtraArgs(init, update)


def _range(dtype: DTypeLike) -> tuple[Array, Array]:
    """The dampings that leave room for products: from the root of the smallest number to that of the largest."""
    return jnp.sqrt(jnp.finfo(dtype).tiny), jnp.sqrt(jnp.finfo(dtype).max)


class _Iterate(NamedTuple):
    i: Array
    solution: Any
    residual: Any
    direction: Any
    square: Array  # ‖residual‖²


def _conjugate_gradients(matrix: Operator, target: Any, iterations: int) -> Any:
    """Solve matrix · solution = target, positive definite, from zero, to rounding or ``iterations``.

    Hestenes & Stiefel 1952
    """
    square = dot(target, target)
    enough = (jnp.finfo(square.dtype).eps ** 2) * square

    def goes_on(it: _Iterate) -> Array:
        return (it.i < iterations) & (it.square > enough)

    def iterate(it: _Iterate) -> _Iterate:
        along = matrix(it.direction)
        length = it.square / dot(it.direction, along)
        solution = jax.tree.map(lambda s, d: s + length * d, it.solution, it.direction)
        residual = jax.tree.map(lambda r, a: r - length * a, it.residual, along)
        square = dot(residual, residual)
        direction = jax.tree.map(lambda r, d: r + square / it.square * d, residual, it.direction)
        return _Iterate(it.i + 1, solution, residual, direction, square)

    start = _Iterate(jnp.asarray(0), jax.tree.map(jnp.zeros_like, target), target, target, square)
    return lax.while_loop(goes_on, iterate, start).solution
