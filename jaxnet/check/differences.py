"""Derivatives from values alone: steps, rounding noise, Richardson extrapolation, kinks, and the order of a remainder.

Everything here is arithmetic on the host in double precision; the function values come from elsewhere.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

__all__ = [
    "DIRECTION_STEPS", "ENTRY_LEVELS", "NOISE_POINTS", "Estimate", "bend_noise", "differentiate", "entry_steps",
    "noise_level", "noise_steps", "remainder_order", "scales",
]  # fmt: skip

ENTRY_LEVELS = 8
DIRECTION_STEPS = 2.0 ** -np.arange(2, 26)
"""Steps along a direction, coarsest first, relative to the size of the point."""
NOISE_POINTS = 9


class Estimate(NamedTuple):
    """Derivatives with their own error bounds, each (probes,).

    ``low`` and ``high`` are the one-sided derivatives where ``kink`` is true, and both ``value`` elsewhere.
    """

    value: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kink: np.ndarray

    def nearest(self, actual: np.ndarray) -> np.ndarray:
        """The derivative nearest to ``actual``: at a kink everything between the one-sided derivatives is right."""
        return np.where(self.kink, np.clip(actual, self.low, self.high), self.value)


def scales(x: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """A length for each entry: its magnitude, or that of its leaf where it is zero, or 1 where the leaf is zero."""
    return np.where(x != 0, np.abs(x), np.where(largest != 0, largest, 1.0))


def entry_steps(x: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Steps for each entry, coarsest first, (entries, levels), in a geometric sequence.

    From an eighth of the magnitude of the leaf down to 2⁻¹⁷ of it, or 2⁻¹⁰ of the entry where that is smaller: no
    single step suits the truncation error, the rounding error and the domain of an unknown function.
    """
    top = 2.0**-3 * scales(largest, largest)
    bottom = np.minimum(2.0**-14 * top, 2.0**-10 * scales(x, largest))
    fractions = np.arange(ENTRY_LEVELS) / (ENTRY_LEVELS - 1)
    return top[:, None] * (bottom / top)[:, None] ** fractions


def noise_steps(eps: float) -> np.ndarray:
    """Steps of the points that show the rounding noise: so close that a smooth function is a polynomial of degree 4."""
    return np.arange(NOISE_POINTS) * 2.0 ** round(0.4 * math.log2(eps))


def noise_level(samples: np.ndarray) -> np.ndarray:
    """The rounding noise of values at equidistant points, (points, ...) to (...).

    σ = max over k of √((k!)² / (2k)!) · max |Δᵏ|: high differences annihilate a smooth function, and leave its noise.
    Moré & Wild, Estimating computational noise, 2011.
    """
    level, table = np.zeros(samples.shape[1:]), samples
    for k in range(1, len(samples)):
        table = np.diff(table, axis=0)
        if k >= 5:
            level = np.maximum(level, math.factorial(k) / math.sqrt(math.factorial(2 * k)) * np.abs(table).max(axis=0))
    return level


def bend_noise(above: np.ndarray, below: np.ndarray, here: float) -> float:
    """The rounding noise of f(x + tv) + f(x − tv) − 2f(x) at the three smallest t; values are (directions, levels).

    Of a smooth function only t² times its curvature is left, which is known from a middle t and taken off. Points in
    one sequence may round alike, so the noise is looked for in this second place.
    """
    bends, middle = above + below - 2 * here, len(DIRECTION_STEPS) // 2
    curved = bends[:, middle, None] * (DIRECTION_STEPS / DIRECTION_STEPS[middle]) ** 2
    return float(np.abs(bends - curved)[:, -3:].max())


def differentiate(above: np.ndarray, below: np.ndarray, here: float, steps: np.ndarray, noise: np.ndarray) -> Estimate:
    """The derivative from f(x + h), f(x − h) and f(x); all (probes, levels), coarsest step first.

    The central differences (f(x+h) − f(x−h)) / 2h are extrapolated to h = 0 as a polynomial in h² (Richardson 1911),
    in every part of the sequence of steps; the result is the one with the smallest bound. The bound adds the rounding
    noise of the values, carried through the extrapolation, the change from one order to the next, and whatever finer
    steps say beyond their own noise: that keeps steps too coarse for the function from agreeing by chance.
    """
    with np.errstate(all="ignore"):
        quotients, noises = (above - below) / (2 * steps), noise / steps
        best, bound = np.full(len(steps), np.nan), np.full(len(steps), np.inf)
        table, rounding = quotients, noises
        for m in range(1, min(5, steps.shape[1])):
            gain = 1 / ((steps[:, :-m] / steps[:, m:]) ** 2 - 1)
            coarse, fine = table[:, :-1], table[:, 1:]
            table = fine + (fine - coarse) * gain
            rounding = rounding[:, 1:] * (1 + gain) + rounding[:, :-1] * gain
            error = rounding + np.maximum(abs(table - fine), abs(table - coarse))
            for k in range(1, table.shape[1]):
                beyond = abs(table[:, k:] - table[:, :-k]) - rounding[:, k:]
                error[:, :-k] = np.fmax(error[:, :-k], beyond)
            error = np.where(np.isfinite(error) & np.isfinite(table), error, np.inf)
            level = error.argmin(axis=1)[:, None]
            value, smallest = (np.take_along_axis(part, level, 1)[:, 0] for part in (table, error))
            best, bound = np.where(smallest < bound, value, best), np.minimum(bound, smallest)
        low, high, width, kink = _kinks(above, below, here, steps, noise)
    return Estimate(
        np.where(kink, (low + high) / 2, best), np.where(kink, width, bound),
        np.where(kink, low, best), np.where(kink, high, best), kink,
    )  # fmt: skip


def _kinks(
    above: np.ndarray, below: np.ndarray, here: float, steps: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The one-sided derivatives, lower first, their uncertainty, and whether they differ; each (probes,).

    Their difference J(h) = (f(x+h) + f(x−h) − 2f(x)) / h vanishes with h where f is smooth, and stays at a kink. It is
    a kink where J does not even fall as √h over the three finest steps at which it stands out of the noise.
    """
    jump = (above + below - 2 * here) / steps
    seen = np.isfinite(jump) & (abs(jump) > 100 * noise / steps)
    finest = steps.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
    levels = np.clip(finest[:, None] - np.arange(3), 0, None)
    jumps, widths = np.take_along_axis(jump, levels, 1), np.take_along_axis(steps, levels, 1)
    slopes = np.log(abs(jumps[:, 1:] / jumps[:, :-1])) / np.log(widths[:, 1:] / widths[:, :-1])
    kink = np.take_along_axis(seen, levels, 1).all(axis=1) & (finest >= 2) & (slopes < 0.5).all(axis=1)
    kink &= (slopes > -0.25).all(axis=1)
    pick = finest[:, None]
    right, left = (
        np.take_along_axis(sides, pick, 1)[:, 0] for sides in ((above - here) / steps, (here - below) / steps)
    )
    width = abs(jumps[:, 0] - jumps[:, 1]) + 10 * np.take_along_axis(noise / steps, pick, 1)[:, 0]
    return np.minimum(left, right), np.maximum(left, right), width, kink


def remainder_order(values: np.ndarray, here: float, slope: float, noise: np.ndarray) -> float:
    """The order p in |f(x + tv) − f(x) − t⟨g, v⟩| ~ tᵖ, fitted at the four smallest t above the noise; (levels,) each.

    2 or more for a right gradient of a smooth function and 1 for a wrong one; infinite where the remainder stays within
    the noise, NaN where g or f is.
    """
    if not math.isfinite(slope):
        return math.nan
    with np.errstate(all="ignore"):
        remainder = np.abs(values - here - DIRECTION_STEPS * slope)
        seen = remainder > 20 * noise
        for last in range(len(seen), 3, -1):
            if seen[last - 4 : last].all():
                return float(
                    np.polyfit(np.log(DIRECTION_STEPS[last - 4 : last]), np.log(remainder[last - 4 : last]), 1)[0]
                )
    return math.inf
