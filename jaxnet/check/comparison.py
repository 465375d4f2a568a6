"""Compares two trees of arrays, leaf by leaf, and holds the tolerances by dtype."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.check.reports import Leaf, Report, Witness

__all__ = ["TOLERANCE", "compare", "worst_entry"]

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 3e-3, "bfloat16": 3e-2}
"""Largest relative error by dtype, finest first. Sums of some thousand terms, in any order, stay within."""


def compare(actual: Any, expected: Any, *, tolerance: float | None = None) -> Report:
    """Compare two trees of arrays, leaf by leaf.

    The error of a leaf is max |actual − expected| / max |expected|: relative to the array, not to each entry, because
    an entry that is a sum of cancelling terms has no digits of its own to compare. Where all expected entries are zero
    it is 0 if the actual ones are too, and infinite otherwise; where any entry is NaN it is NaN, which never holds.

    Parameters
    ----------
    actual, expected
        Trees of arrays of one structure, such as gradients.
    tolerance
        Largest relative error; if None, by the coarser dtype of the two: 1e-12 for float64, 1e-5 for float32.

    Raises
    ------
    TypeError
        If an array holds no real numbers.
    ValueError
        If the structures or shapes differ, or there is nothing to compare.

    >>> report = compare({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([1.0, 2.5])})
    >>> print(report)
    FAIL ['w']  relative error 2.00e-01 (at most 1e-05), largest at [1]: 2, expected 2.5 (2.1e+06 ulps)
    """
    actual_leaves, actual_structure = jax.tree.flatten(actual)
    expected_leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
    if actual_structure != structure:
        raise ValueError(f"actual has the structure {actual_structure}, expected {structure}")
    if not expected_leaves:
        raise ValueError("expected has no arrays, so there is nothing to compare")
    leaves = tuple(
        _compare_leaf(jax.tree_util.keystr(path), a, b, tolerance)
        for a, (path, b) in zip(actual_leaves, expected_leaves, strict=True)
    )
    return Report((Witness("", all(leaf.holds for leaf in leaves), leaves),))


def _compare_leaf(path: str, actual: Any, expected: Any, tolerance: float | None) -> Leaf:
    actual, expected = np.asarray(actual), np.asarray(expected)
    for name, array in (("actual", actual), ("expected", expected)):
        if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            raise TypeError(f"{name}{path} has dtype {array.dtype}, expected real numbers")
    if actual.shape != expected.shape:
        raise ValueError(f"actual{path} has shape {actual.shape}, expected {expected.shape}")
    if not expected.size:
        raise ValueError(f"expected{path} is empty, so there is nothing to compare")
    if tolerance is None:
        tolerance = max(TOLERANCE.get(array.dtype.name, 0.0) for array in (actual, expected))
    eps = max((float(jnp.finfo(x.dtype).eps) for x in (actual, expected) if jnp.issubdtype(x.dtype, jnp.floating)),
              default=float(np.finfo(np.float64).eps))  # fmt: skip
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    error = _error(a, b)
    worst = np.unravel_index(np.argmax(error), error.shape)  # argmax finds NaN first
    largest = _largest(b)
    relative = error[worst] / largest if largest else (np.inf if error[worst] > 0 else error[worst])
    return Leaf(
        path, tuple(map(int, worst)), float(a[worst]), float(b[worst]), float(relative), tolerance,
        _ulps(float(error[worst]), float(b[worst]), eps),
    )  # fmt: skip


def worst_entry(
    path: str,
    indices: list[tuple[int, ...]],
    actual: np.ndarray,
    expected: np.ndarray,
    allowed: np.ndarray,
    eps: float,
    scale: float = 0.0,
) -> Leaf:
    """The entry whose error is the largest multiple of what is allowed there; arrays of shape (entries,).

    The errors are reported relative to ``scale``, the largest magnitude of the array, or of the entries given.
    """
    error = _error(actual, expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(error == 0, 0.0, error / allowed)
    worst = int(np.argmax(excess))
    scale = max(scale, _largest(actual), _largest(expected)) or 1.0
    return Leaf(
        path, indices[worst], float(actual[worst]), float(expected[worst]), float(error[worst] / scale),
        float(allowed[worst] / scale), _ulps(float(error[worst]), float(expected[worst]), eps),
    )  # fmt: skip


def _error(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The magnitudes |actual − expected|; equal infinities agree, though their difference is NaN."""
    same = actual == expected
    return np.abs(np.subtract(actual, expected, where=~same, out=np.zeros_like(actual)))


def _largest(values: np.ndarray) -> float:
    """The largest finite magnitude, or 0."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


def _ulps(error: float, expected: float, eps: float) -> float:
    """The error in units of the last place of ``expected``, eps · 2^⌊log₂ |expected|⌋."""
    if not np.isfinite(expected) or np.isnan(error):
        return error if error == 0 else np.nan
    exponent = np.frexp(max(abs(expected), np.finfo(np.float64).tiny))[1] - 1
    with np.errstate(over="ignore"):
        return float(np.float64(error) / max(float(np.ldexp(eps, exponent)), 5e-324))
