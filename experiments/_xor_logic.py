"""What can be said of XOR without training: separating planes, proofs that there is none, and the names of gates."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linprog

GATES = {
    (0, 0, 0, 0): "FALSE",
    (0, 0, 0, 1): "a AND b",
    (0, 0, 1, 0): "a AND NOT b",
    (0, 0, 1, 1): "a",
    (0, 1, 0, 0): "NOT a AND b",
    (0, 1, 0, 1): "b",
    (0, 1, 1, 0): "a XOR b",
    (0, 1, 1, 1): "a OR b",
    (1, 0, 0, 0): "a NOR b",
    (1, 0, 0, 1): "a XNOR b",
    (1, 0, 1, 0): "NOT b",
    (1, 0, 1, 1): "a OR NOT b",
    (1, 1, 0, 0): "NOT a",
    (1, 1, 0, 1): "NOT a OR b",
    (1, 1, 1, 0): "a NAND b",
    (1, 1, 1, 1): "TRUE",
}
"""The sixteen functions of two bits, by their values at (0, 0), (0, 1), (1, 0) and (1, 1)."""


def gate(outputs: np.ndarray, a: str = "x₁", b: str = "x₂") -> str:
    """The function of two bits that the outputs at the four points round to."""
    words = {"a": a, "b": b}
    bits: Any = tuple(int(output > 0.5) for output in outputs)
    name = GATES[bits]
    return " ".join(words.get(word, word) for word in name.split())


def separator(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Weights and bias of a plane with y = 1 on one side and y = 0 on the other; None if the program is infeasible.

    Minimise Σ |wⱼ| subject to sᵢ (w · xᵢ + b) ≥ 1, where s is 1 or −1.
    """
    n, features = x.shape
    augmented = _signs(y) * np.column_stack([x, np.ones(n)])
    # |w| ≤ u, as variables of their own: w, b, u.
    identity = np.eye(features)
    no_bias = np.zeros((features, 1))
    bounds = [
        np.hstack([-augmented, np.zeros((n, features))]),
        np.hstack([identity, no_bias, -identity]),
        np.hstack([-identity, no_bias, -identity]),
    ]
    found = linprog(
        np.concatenate([np.zeros(features + 1), np.ones(features)]),
        A_ub=np.vstack(bounds),
        b_ub=np.concatenate([-np.ones(n), np.zeros(2 * features)]),
        bounds=(None, None),
    )
    return found.x[: features + 1] if found.success else None


def impossibility(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Multipliers that prove that no plane separates: λ ≥ 0, Σ λᵢ = 1 and Σ λᵢ sᵢ (xᵢ, 1) = 0; None if there are none.

    Of a plane with sᵢ (w · xᵢ + b) > 0 for all i, the sum with weights λ were positive, and it is 0 (Gordan 1873).
    """
    n = len(x)
    augmented = _signs(y) * np.column_stack([x, np.ones(n)])
    equations = np.vstack([augmented.T, np.ones(n)])
    found = linprog(np.zeros(n), A_eq=equations, b_eq=np.append(np.zeros(len(equations) - 1), 1), bounds=(0, None))
    return found.x if found.success else None


def residual(x: np.ndarray, y: np.ndarray, multipliers: np.ndarray) -> float:
    """How far the multipliers are from the proof: the largest entry of |Σ λᵢ sᵢ (xᵢ, 1)|."""
    return float(np.abs(multipliers @ (_signs(y) * np.column_stack([x, np.ones(len(x))]))).max())


def _signs(y: np.ndarray) -> np.ndarray:
    return np.where(y > 0.5, 1.0, -1.0)[:, None]
