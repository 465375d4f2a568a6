"""Compares a gradient with one from elsewhere, and says where they differ most. Knows nothing of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Leaf", "Report", "compare"]

_TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 3e-2, "float16": 3e-3}
"""Largest relative error by dtype. Sums of up to some thousand terms, taken in another order, stay within it."""


@dataclass(frozen=True)
class Leaf:
    """One array of the comparison, and its entry with the largest error.

    ``relative_error`` is the largest error of the array over its largest expected magnitude.
    """

    path: str
    index: tuple[int, ...]
    actual: float
    expected: float
    relative_error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the relative error is within the tolerance; NaN is not."""
        return self.relative_error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The comparison of two trees of arrays; true where every array agrees, and printed as a table."""

    leaves: tuple[Leaf, ...]

    def __bool__(self) -> bool:
        return all(leaf.holds for leaf in self.leaves)

    @property
    def relative_error(self) -> float:
        """The largest of all arrays; NaN if any is."""
        return float(np.max([leaf.relative_error for leaf in self.leaves]))

    def raise_if_failed(self) -> None:
        """Raise AssertionError, with the table, unless every array agrees."""
        if not self:
            raise AssertionError(f"the arrays differ\n{self}")

    def __str__(self) -> str:
        width = max(len(leaf.path) for leaf in self.leaves)
        return "\n".join(
            f"{'ok  ' if leaf.holds else 'FAIL'} {leaf.path:{width}}  relative error {leaf.relative_error:8.2e} "
            f"(at most {leaf.tolerance:.0e}), largest at {list(leaf.index)}: {leaf.actual:.9g}, "
            f"expected {leaf.expected:.9g}"
            for leaf in self.leaves
        )


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
    ValueError
        If the structures or shapes differ, or there is nothing to compare.

    >>> report = compare({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([1.0, 2.5])})
    >>> print(report)
    FAIL ['w']  relative error 2.00e-01 (at most 1e-05), largest at [1]: 2, expected 2.5
    """
    actual_leaves, actual_structure = jax.tree.flatten(actual)
    expected_leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
    if actual_structure != structure:
        raise ValueError(f"actual has the structure {actual_structure}, expected {structure}")
    if not expected_leaves:
        raise ValueError("expected has no arrays, so there is nothing to compare")
    return Report(
        tuple(
            _compare_leaf(jax.tree_util.keystr(path), a, b, tolerance)
            for a, (path, b) in zip(actual_leaves, expected_leaves, strict=True)
        )
    )


def _compare_leaf(path: str, actual: Any, expected: Any, tolerance: float | None) -> Leaf:
    actual, expected = jnp.asarray(actual), jnp.asarray(expected)
    if actual.shape != expected.shape:
        raise ValueError(f"actual{path} has shape {actual.shape}, expected {expected.shape}")
    if not expected.size:
        raise ValueError(f"expected{path} is empty, so there is nothing to compare")
    if tolerance is None:
        tolerance = max(_TOLERANCE.get(array.dtype.name, 0.0) for array in (actual, expected))
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    same = a == b  # equal infinities agree, though their difference is NaN
    error = np.abs(np.subtract(a, b, where=~same, out=np.zeros_like(a)))
    worst = np.unravel_index(np.argmax(error), error.shape)  # argmax finds NaN first
    finite = np.abs(b[np.isfinite(b)])
    largest = finite.max() if finite.size else 0.0
    relative = error[worst] / largest if largest else (np.inf if error[worst] > 0 else error[worst])
    return Leaf(path, tuple(map(int, worst)), float(a[worst]), float(b[worst]), float(relative), tolerance)
