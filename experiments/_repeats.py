"""What repeats of a run tell about a mean: its confidence interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy.stats import t


class Interval(NamedTuple):
    """A mean, and the bounds of its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """The mean and its bounds, each in the format of a number, such as ``.3f``."""
        return f"{self.mean:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def interval(values: ArrayLike) -> Interval:
    """The mean of independent repeats, (repeats,), with Student's interval; a single one says nothing of its error."""
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)
