"""Claims, and the verdicts that are computed from numbers: with confidence intervals of 95 % where there is chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import binomtest, t


class Verdict(StrEnum):
    """What the numbers say of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not enough evidence"


class Claim(NamedTuple):
    """A claim in a sentence, the verdict that was computed from the numbers, and the numbers in words."""

    text: str
    verdict: Verdict
    evidence: str


def verdict(holds: bool | np.bool_ | None) -> Verdict:
    """The verdict of what is true, false, or (None) not settled by the numbers."""
    return Verdict.OPEN if holds is None else Verdict.HOLDS if holds else Verdict.FAILS


def above(bound: float, low: float, high: float) -> Verdict:
    """Whether a number that lies between ``low`` and ``high``, its confidence interval, is above ``bound``."""
    return verdict(True if low > bound else False if high <= bound else None)


def every(*verdicts: Verdict) -> Verdict:
    """The verdict of a claim that holds if all its parts do; of none, nothing is known."""
    if not verdicts:
        return Verdict.OPEN
    return next((found for found in (Verdict.FAILS, Verdict.OPEN) if found in verdicts), Verdict.HOLDS)


def share(successes: int, trials: int) -> dict[str, Any]:
    """A share of trials with its 95 % interval, by Wilson's score."""
    interval = binomtest(int(successes), int(trials)).proportion_ci(method="wilson")
    return {"share": successes / trials, "low": float(interval.low), "high": float(interval.high), "trials": trials}


def estimate(values: Sequence[Any] | np.ndarray | jax.Array) -> dict[str, Any]:
    """The mean of repeats and its standard error (None for a single one), with the values."""
    values = np.asarray(values, float)
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error, "values": values}


class Mean(NamedTuple):
    """A mean of repeats, and the bounds of its `interval`."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """The mean and its bounds, each in the format of a number, such as ``.3f``."""
        return f"{self.mean:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def mean_of(values: Sequence[Any] | np.ndarray | jax.Array) -> Mean:
    """The mean of repeats with its 95 % interval."""
    return Mean(float(np.mean(values)), *interval(values))


def interval(values: Sequence[Any] | np.ndarray | jax.Array) -> tuple[float, float]:
    """The 95 % interval of the mean of repeats, by Student's t: all numbers for a single one."""
    found = estimate(values)
    if found["standard_error"] is None:
        return -math.inf, math.inf
    margin = float(t.ppf(0.975, len(found["values"]) - 1)) * found["standard_error"]
    return found["mean"] - margin, found["mean"] + margin
