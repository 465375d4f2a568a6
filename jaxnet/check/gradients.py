"""`check_gradient` and `check_vjp`: arguments checked, the case set up, the witnesses heard."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.check.arguments import (
    Paired,
    Shaped,
    check_scalar,
    checked_args,
    differentiated,
    positions_of,
    random_cotangent,
    seed_of,
)
from jaxnet.check.diagnosis import diagnose
from jaxnet.check.evidence import Case
from jaxnet.check.programs import Bound, bind, cast, first_line
from jaxnet.check.reports import Report, Witness
from jaxnet.check.witnesses import WITNESSES

__all__ = ["check_gradient", "check_vjp"]


def check_gradient(
    f: Callable[..., Any],
    gradient: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    argnums: int | tuple[int, ...] = 0,
    key: jax.Array | None = None,
) -> Report:
    """Hear nine witnesses on whether ``gradient`` is the gradient of the scalar function ``f`` at ``args``.

    With x the numbers of all arrays in ``args[argnums]``, g the gradient under test, and v random directions:

    ==================== ===============================================================================================
    automatic            g = ``jax.grad(f)``
    central differences  gⱼ = lim (f(x + h eⱼ) − f(x − h eⱼ)) / 2h, by Richardson extrapolation over eight steps h that
                         fit the size of the entry, and ⟨g, v⟩ along four directions
    complex step         gⱼ = Im f(x + ih eⱼ) / h with h = 1e-30, if f runs on complex numbers and is analytic
    Taylor remainder     |f(x + tv) − f(x) − t⟨g, v⟩| = O(t²): the fitted order is 2, and 1 for a wrong gradient
    dot product          ⟨Jv, 1⟩ = ⟨v, g⟩ with Jv by forward differentiation
    jit, vmap, eager     g is the same in the three modes
    same bits            three runs of f and of g are equal bit for bit
    lower precision      g in float32 (or the coarser dtype of ``args``) equals g in float64
    nearby points        g = ``jax.grad(f)`` at two other points
    ==================== ===============================================================================================

    All but the last but one run in float64, whatever the dtype of ``args``, if f and its gradient can: then ``args``
    are converted, and 64-bit mode is on for the time of the check. Values of f are taken at no more than 968 points:
    of a gradient with more than 48 entries, 48 are looked at one by one, chosen at random from every leaf in turn.

    An entry may differ from its reference by c · m + 100 σ, plus 8 times its own error bound if that is numeric. Here
    m is the largest magnitude of its leaf, c is 1e-12 in float64 and 1e-5 in float32 (as in `compare`; 100 times that
    for the complex step, whose elementary functions are less exact), and σ the measured rounding noise of the
    gradient in this leaf, which stands for its condition: cancelling terms show in how much the gradient scatters at
    points some 1e-6 apart, and in what float32 loses of it. The bound of a central difference is made of the noise of
    f over h and of the change from one extrapolation to the next. At a kink all between the one-sided derivatives is
    right to the numeric witnesses; the automatic one wants its own branch.

    Parameters
    ----------
    f
        A scalar function of pytrees. Better if it can be traced by JAX, but plain NumPy will do.
    gradient
        Called as ``gradient(*args)``; returns the gradient in the structure of ``args[argnums]``. If it returns
        ``(value, gradient)``, pass ``lambda *args: gradient(*args)[1]``.
    args
        All arguments of ``f``, as a tuple.
    argnums
        Position of the argument to differentiate, or a tuple of them, as in ``jax.grad``.
    key
        A typed PRNG key for directions and samples; ``jax.random.key(0)`` if None.

    Returns
    -------
    Report
        True if no witness disagrees; ``report.diagnosis`` says which side is likely wrong, and how.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit: ``args`` is no tuple, an array to differentiate is not of floats, f is not
        scalar, or the gradient does not have the structure and shapes of ``args[argnums]``.

    >>> f = lambda w: jnp.sum(jnp.sin(w) ** 2)
    >>> report = check_gradient(f, lambda w: jnp.sin(w) * jnp.cos(w), (jnp.array([0.5, 1.0]),))
    >>> bool(report), report["automatic"].holds, report["complex step"].holds
    (False, False, False)
    >>> report.diagnosis
    'the gradient under test is wrong: it is off by a factor of 1/2'
    >>> bool(check_gradient(f, lambda w: jnp.sin(2 * w), (jnp.array([0.5, 1.0]),)))
    True
    """
    args = checked_args(args, argnums)
    check_scalar(f(*args))
    return _hear(f, Shaped.like(args, argnums, gradient, "gradient"), args, argnums, key)


def check_vjp(
    f: Callable[..., Any],
    f_vjp: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    argnums: int | tuple[int, ...] | None = None,
    key: jax.Array | None = None,
) -> Report:
    """Hear the witnesses on whether ``f_vjp`` is the vector-Jacobian product of the function ``f`` at ``args``.

    Draws a random cotangent u in the structure of f(*args), and checks ``f_vjp(*args, u)`` as the gradient of the
    scalar function ⟨f(*args), u⟩: its dot product is ⟨Jv, u⟩ = ⟨v, Jᵀu⟩. Since Jᵀu is linear in u, one random u speaks
    for all of them if f_vjp is linear, which a last witness sees to: ``f_vjp(*args, u + 2w)`` against the sum.

    Parameters
    ----------
    f
        A function from pytrees to a pytree of arrays of floats.
    f_vjp
        Called as ``f_vjp(*args, u)``; returns the cotangents in the structure of ``args[argnums]``: by default a tuple
        with one for each argument, as the function that ``jax.vjp`` returns does. A backward pass of a
        ``jax.custom_vjp`` fits as ``lambda *args: backward(forward(*args[:-1])[1], args[-1])``.
    args, key
        As for `check_gradient`.
    argnums
        As for `check_gradient`; every argument if None.

    Returns
    -------
    Report
        As for `check_gradient`, with one more witness, ``linearity``.

    Raises
    ------
    TypeError, ValueError
        As for `check_gradient`.

    >>> a, b = jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])
    >>> bool(check_vjp(jnp.matmul, lambda a, b, u: (u @ b.T, a.T @ u), (a, b)))
    True
    >>> check_vjp(jnp.matmul, lambda a, b, u: (u @ b.T, -a.T @ u), (a, b)).diagnosis
    'the gradient under test is wrong: it has the wrong sign, a factor of -1, in [1]'
    """
    argnums = tuple(range(len(args))) if argnums is None and isinstance(args, tuple) else argnums
    args = checked_args(args, argnums)
    random = np.random.default_rng(seed_of(key))
    u, w = (random_cotangent(f(*args), random) for _ in range(2))
    both = jax.tree.map(lambda u, w: u + 2 * w, u, w)
    vjp = Shaped.like(args, argnums, f_vjp, "f_vjp")
    report = _hear(Paired(f), vjp, (*args, u), argnums, key)
    cases = [_case(Paired(f), vjp, (*args, cotangent), argnums, seed_of(key)) for cotangent in (u, w, both)]
    return _with_linearity(report, cases)


# ----------------------------------------------------------------------------------------------------------------------
# The hearing


def _hear(f: Callable[..., Any], gradient: Callable[..., Any], args: Any, argnums: Any, key: Any) -> Report:
    gradient(*args)
    case = _case(f, gradient, args, argnums, seed_of(key))
    with _mode(case):
        witnesses = tuple(witness(case) for witness in WITNESSES)
        return Report(witnesses, diagnose(case, witnesses))


def _mode(case: Case) -> Any:
    """64-bit mode where the case needs it."""
    return jax.enable_x64(True) if case.f.dtype == jnp.float64 else nullcontext()


def _case(f: Callable[..., Any], gradient: Callable[..., Any], args: Any, argnums: Any, seed: int) -> Case:
    """The case in float64 if f and its gradient run in it, with a coarser one beside it; else as it came."""
    given = max((leaf.dtype for leaf in jax.tree.leaves(differentiated(args, argnums))),
                key=lambda dtype: float(jnp.finfo(dtype).eps))  # fmt: skip
    coarse = jnp.dtype(jnp.float32) if given == jnp.float64 else given
    fine = _try(f, gradient, args, argnums, seed, jnp.dtype(jnp.float64))
    if isinstance(fine, str):
        return Case(*_bound(f, gradient, args, argnums), seed, why_alone=fine)
    low = _try(f, gradient, args, argnums, seed, coarse)
    return replace(fine, why_alone=low) if isinstance(low, str) else replace(fine, low=low)


def _try(
    f: Callable[..., Any], gradient: Callable[..., Any], args: Any, argnums: Any, seed: int, dtype: Any
) -> Case | str:
    """The case in another dtype, with all measured that is asked of it; or why it does not run."""
    with jax.enable_x64(True):
        args = cast(args, dtype)
    with jax.enable_x64(dtype == jnp.float64):
        try:
            case = Case(*_bound(f, gradient, args, argnums), seed)
            _ = case.eps, case.manual
            if dtype != jnp.float64:
                _ = case.noise  # while the mode is on that belongs to this dtype
        except Exception as error:  # f or its gradient insists on its own dtype, which is no error of theirs
            return f"{dtype} raises {first_line(error)}"
    return case


def _bound(f: Callable[..., Any], gradient: Callable[..., Any], args: Any, argnums: Any) -> tuple[Bound, Bound]:
    positions, single = positions_of(argnums), isinstance(argnums, int)
    return bind(f, args, positions, single), bind(gradient, args, positions, single)


def _with_linearity(report: Report, cases: list[Case]) -> Report:
    """The report with one more witness: f_vjp(u + 2w) = f_vjp(u) + 2 f_vjp(w)."""
    u, w, both = cases
    with _mode(both):
        allowed = both.allowed(both.manual) + u.allowed(u.manual) + 2 * w.allowed(w.manual)
        leaves = both.leaves(both.manual, u.manual + 2 * w.manual, allowed)
    linear = all(leaf.holds for leaf in leaves)
    diagnosis = report.diagnosis
    if not linear:
        why = "f_vjp is not linear in the cotangent: it ignores it, or uses it more than once"
        diagnosis = f"{diagnosis}; {why}" if diagnosis else f"the gradient under test is wrong: {why}"
    return Report((*report.witnesses, Witness("linearity", linear, leaves)), diagnosis)
