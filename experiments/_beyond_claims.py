"""The claims of `experiments.beyond_gradient`, each with its verdict from what a part found, repeat by repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from experiments.claims import Claim, above, every, interval, share, verdict


def mislabelled(areas: np.ndarray, named: np.ndarray) -> tuple[Claim, ...]:
    """Flipped labels are found (areas under the ROC curve), and their true class is named (shares)."""
    return (
        Claim(
            "A wrong label stands out by the norm of its example's gradient.",
            above(0.95, *interval(areas)),
            f"Area under the ROC curve {_mean(areas)}; asked for was more than 0.95, and chance is 0.5.",
        ),
        Claim(
            "The class that a mislabelled example works against most is its true one, more often than in three cases "
            "of four.",
            above(0.75, *interval(named)),
            f"In a share of {_mean(named)} of the flipped labels.",
        ),
    )


def noise_scale(
    growth: tuple[float, float, float], steps: int, taken: np.ndarray, plain: np.ndarray, adaptive: np.ndarray
) -> tuple[Claim, ...]:
    """The noise scale grows; a batch that follows it saves steps, which may cost accuracy."""
    ratio, low, high = growth
    saved, gain = 1 - taken / steps, 100 * (adaptive - plain)
    return (
        Claim(
            "The gradient noise scale more than doubles in training.",
            above(2, low, high),
            f"It grows by a factor of {ratio:.3g} (95 % interval {low:.3g} to {high:.3g}, by the jackknife).",
        ),
        Claim(
            "A batch that grows with the noise scale saves more than three steps of four.",
            above(0.75, *interval(saved)),
            f"{taken.mean():.0f} steps instead of {steps}, a share of {_mean(saved)} saved, in as many epochs.",
        ),
        Claim(
            "A batch that grows with the noise scale costs less than one point of accuracy.",
            above(-1, *interval(gain)),
            f"Accuracy {adaptive.mean():.1%} instead of {plain.mean():.1%}: a change of {_mean(gain)} points.",
        ),
    )


def spectrum(large: int, parameters: int, portion: float) -> tuple[Claim, ...]:
    """A few eigenvalues hold most of the trace."""
    return (
        Claim(
            f"After training, {large} of {parameters:,} eigenvalues of the Hessian hold more than half of its trace.",
            verdict(portion > 0.5),
            f"{portion:.1%} of it, in one network.",
        ),
    )


def tangent_kernel(start: np.ndarray, end: np.ndarray) -> tuple[Claim, ...]:
    """The kernel's alignment with the labels grows."""
    return (
        Claim(
            "The tangent kernel moves in training, and towards the labels.",
            above(0.0, *interval(end - start)),
            f"Its alignment with them goes from {start.mean():.3f} to {end.mean():.3f}, by {_mean(end - start)}.",
        ),
    )


def private(accuracies: Mapping[str, np.ndarray]) -> tuple[Claim, ...]:
    """Accuracy falls from each noise to the next."""
    losses = [interval(100 * (less - more)) for less, more in pairwise(accuracies.values())]
    return (
        Claim(
            "Private training gives up accuracy with every step of the noise.",
            every(*(above(0.0, low, high) for low, high in losses)),
            f"Accuracy at noise multiplier {'; '.join(f'{name}: {a.mean():.1%}' for name, a in accuracies.items())}. "
            f"Points lost from each to the next, 95 % intervals: "
            f"{'; '.join(f'{low:.1f} to {high:.1f}' for low, high in losses)}.",
        ),
    )


def second_order(solved: Mapping[str, Mapping[str, Sequence[bool]]]) -> tuple[Claim, ...]:
    """Levenberg-Marquardt arrives from most starts, gradient descent does not; by problem and optimizer."""
    by_curvature, plain = (
        {problem: share(sum(own[optimizer]), len(own[optimizer])) for problem, own in solved.items()}
        for optimizer in ("Levenberg-Marquardt", "gradient descent")
    )

    def told(shares: Mapping[str, Mapping[str, float]]) -> str:
        return "; ".join(
            f"{problem}: {found['share']:.0%} of {found['trials']} starts arrive "
            f"(95 % interval {found['low']:.0%} to {found['high']:.0%})"
            for problem, found in shares.items()
        )

    return (
        Claim(
            "Levenberg-Marquardt brings XOR and a small regression to a cost of 1e-12 from most starts.",
            every(*(above(0.5, found["low"], found["high"]) for found in by_curvature.values())),
            f"{told(by_curvature)}.",
        ),
        Claim(
            "Gradient descent does not get there from most starts, in a hundred times as many steps.",
            every(*(above(0.5, 1 - found["high"], 1 - found["low"]) for found in plain.values())),
            f"{told(plain)}.",
        ),
    )


def _mean(values: np.ndarray) -> str:
    low, high = interval(values)
    return f"{values.mean():.3g} (95 % interval {low:.3g} to {high:.3g})"
