"""What is measured once and that every witness draws on: values around the point, derivatives, and their noise."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.check.comparison import TOLERANCE, worst_entry
from jaxnet.check.differences import (
    DIRECTION_STEPS,
    ENTRY_LEVELS,
    NOISE_POINTS,
    Estimate,
    bend_noise,
    differentiate,
    entry_steps,
    noise_level,
    noise_steps,
    remainder_order,
    scales,
)
from jaxnet.check.holomorphic import not_holomorphic
from jaxnet.check.programs import Bound, Probes, first_line, flatten
from jaxnet.check.reports import Leaf

__all__ = ["DIRECTIONS", "ENTRIES", "Case", "Survey"]

ENTRIES, DIRECTIONS = 48, 4
"""Most entries and directions looked at: (48 · 8 + 4 · 24) · 2 + 8 values, at most 968, however large the gradient."""


@dataclass(frozen=True)
class Survey:
    """Derivatives from values of f: of the chosen entries, along the directions, and the order of the remainder."""

    entries: Estimate
    along: Estimate
    orders: np.ndarray


@dataclass(frozen=True, eq=False)
class Case:
    """A function and a gradient at one point, in one dtype; ``low`` is the same case in a coarser dtype, if it runs.

    ``why_alone`` says why there is none, and ``floor`` is the least noise of the gradient, known from elsewhere.
    Vectors are (n,): the numbers of all leaves, one leaf after another.
    """

    f: Bound
    gradient: Bound
    seed: int
    low: Case | None = None
    why_alone: str = ""
    floor: np.ndarray | None = None

    @property
    def x(self) -> np.ndarray:
        """The point."""
        return self.f.x

    @cached_property
    def eps(self) -> float:
        """Spacing of the coarser of the numbers that f takes and returns."""
        value = jnp.asarray(self.f.program(jnp.asarray(self.x, self.f.dtype), self.f.arrays))
        return max(float(jnp.finfo(dtype).eps) for dtype in (self.f.dtype, value.dtype))

    @cached_property
    def _manual(self) -> Any:
        return self.gradient.program(jnp.asarray(self.x, self.f.dtype), self.f.arrays)

    @cached_property
    def manual(self) -> np.ndarray:
        """The gradient under test."""
        return np.asarray(flatten(self._manual), np.float64)

    @cached_property
    def tolerance(self) -> float:
        """The relative error that rounding explains in a sum without cancellation, by the coarsest dtype at work."""
        dtypes = [jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(self._manual)]
        eps = max(self.eps, *(float(jnp.finfo(dtype).eps) for dtype in dtypes))
        return next((TOLERANCE[name] for name in TOLERANCE if float(jnp.finfo(name).eps) >= eps), 1.0)

    @cached_property
    def directions(self) -> np.ndarray:
        """Random directions (DIRECTIONS, n), each entry between a half and one of its scale, of random sign."""
        random = np.random.default_rng(self.seed)
        shape = (DIRECTIONS, self.x.size)
        unit = random.uniform(0.5, 1.0, shape) * random.choice([-1.0, 1.0], shape)
        return np.asarray(jnp.asarray(unit * scales(self.x, self.largest(self.x)), self.f.dtype), np.float64)

    @cached_property
    def chosen(self) -> np.ndarray:
        """The entries looked at one by one: all where they are few, else a random sample that visits every leaf."""
        if self.x.size <= ENTRIES:
            return np.arange(self.x.size)
        random = np.random.default_rng(self.seed)
        parts = [random.permutation(np.arange(part.start, part.stop)) for _, _, part in self.f.layout.leaves]
        parts = [parts[i] for i in random.permutation(len(parts))]
        rounds = [part[i] for i in range(ENTRIES) for part in parts if i < len(part)]
        return np.sort(np.asarray(rounds[:ENTRIES]))

    def largest(self, vector: np.ndarray) -> np.ndarray:
        """The largest finite magnitude of the leaf that each entry belongs to."""
        finite = np.where(np.isfinite(vector), np.abs(vector), 0.0)
        return self.f.layout.spread(lambda part: part.max(initial=0.0), finite)

    # ------------------------------------------------------------------------------------------------------------------
    # The automatic gradient, and the noise of gradients

    @cached_property
    def _sampled(self) -> np.ndarray | str:
        try:
            return self.f.gradients(self.directions[0], noise_steps(self.eps))
        except Exception as error:  # whatever f does that JAX cannot differentiate
            return first_line(error)

    @property
    def automatic(self) -> np.ndarray | None:
        """The gradient by automatic differentiation, or None."""
        return None if isinstance(self._sampled, str) else self._sampled[0]

    @property
    def why_not_automatic(self) -> str:
        """The reason for there being no automatic gradient."""
        return self._sampled if isinstance(self._sampled, str) else ""

    @cached_property
    def noise(self) -> np.ndarray:
        """Rounding noise of the gradient, the largest of each leaf.

        Seen twice: in the gradient at points so close that it should be a polynomial, and in what the coarser dtype
        loses, scaled to this one.
        """
        samples = self._sampled
        if isinstance(samples, str):
            samples = np.stack([self.gradient.eager(self.x + t * self.directions[0]) for t in noise_steps(self.eps)])
        noise = noise_level(samples[1:])  # without the point itself, which may lie on a kink
        if self.low is not None and self.automatic is not None and self.low.automatic is not None:
            noise = np.fmax(noise, abs(self.low.automatic - self.moved(self.low.x).automatic) * self.eps / self.low.eps)
        return self.largest(noise if self.floor is None else np.fmax(noise, self.floor))

    def allowed(self, expected: np.ndarray) -> np.ndarray:
        """The error that rounding explains: by dtype and size of the leaf, and by the measured noise."""
        tiny = float(jnp.finfo(self.f.dtype).tiny)
        return self.tolerance * self.largest(expected) + 100 * (self.noise + tiny)

    def moved(self, x: np.ndarray) -> Case:
        """The same case at another point, its noise measured there."""
        if np.array_equal(x, self.x):
            return self
        return Case(self.f._replace(x=x), self.gradient._replace(x=x), self.seed)

    @cached_property
    def neighbours(self) -> tuple[Case, ...]:
        """The case at two random points nearby, each entry moved by up to a quarter of its scale."""
        return tuple(replace(self.moved(self.x + v / 4), floor=self.noise) for v in self.directions[1:3])

    # ------------------------------------------------------------------------------------------------------------------
    # Derivatives from values

    @cached_property
    def survey(self) -> Survey:
        """Values of f around the point, in one call, and the derivatives they give."""
        raised, lowered = self._moved_entries()
        values = self.f.values(self.directions, self._probes(raised, lowered))
        near, along, entries = np.split(values, [NOISE_POINTS, len(values) - raised.size - lowered.size])
        along = along.reshape(DIRECTIONS, 2, len(DIRECTION_STEPS))
        above, below = entries.reshape(2, *raised.shape)
        here, every = near[0], slice(None, None, 3)
        with np.errstate(all="ignore"):
            level = max(3 * noise_level(near), bend_noise(along[:, 0], along[:, 1], here))
            noise = level + self.eps * np.abs(near).max() + float(jnp.finfo(self.f.dtype).tiny)
            entry_noise = noise + self.eps * np.maximum(abs(above), abs(below))
            along_noise = noise + self.eps * np.abs(along).max(axis=1)
        along_steps = np.tile(DIRECTION_STEPS[every], (DIRECTIONS, 1))
        slopes = self.directions @ self.manual
        return Survey(
            differentiate(above, below, here, (raised - lowered) / 2, entry_noise),
            differentiate(along[:, 0, every], along[:, 1, every], here, along_steps, along_noise[:, every]),
            np.array([remainder_order(along[d, 0], here, slopes[d], along_noise[d]) for d in range(DIRECTIONS)]),
        )

    def _moved_entries(self) -> tuple[np.ndarray, np.ndarray]:
        """The chosen entries plus and minus each step, (entries, levels) each, as they are in the dtype."""
        steps = entry_steps(self.x, self.largest(self.x))[self.chosen]
        moved = self.x[self.chosen, None] + np.stack([steps, -steps])
        raised, lowered = np.asarray(jnp.asarray(moved, self.f.dtype), np.float64)
        return raised, lowered

    def _probes(self, raised: np.ndarray, lowered: np.ndarray) -> Probes:
        """The points that show the noise, then those along the directions, then those with an entry moved."""
        n, moved = self.x.size, np.concatenate([raised.ravel(), lowered.ravel()])
        both_ways = np.concatenate([DIRECTION_STEPS, -DIRECTION_STEPS])
        t = np.concatenate([noise_steps(self.eps), np.tile(both_ways, DIRECTIONS)])
        which = np.concatenate([np.zeros(NOISE_POINTS, int), np.repeat(np.arange(DIRECTIONS), len(both_ways))])
        zeros = np.zeros(len(moved), int)
        return Probes(
            which=np.concatenate([which, zeros]),
            t=np.concatenate([t, zeros]),
            j=np.concatenate([np.full(len(t), n), np.tile(np.repeat(self.chosen, ENTRY_LEVELS), 2)]),
            value=np.concatenate([np.zeros(len(t)), moved]),
        )

    def judge(self, vector: np.ndarray) -> tuple[Leaf, ...]:
        """The vector against central differences: each leaf's worst chosen entry, and the worst direction."""
        entries, along, chosen = self.survey.entries, self.survey.along, self.chosen
        with np.errstate(all="ignore"):
            sums = np.abs(self.directions) @ (self.tolerance * abs(vector) + 100 * self.noise)
            slopes = self.directions @ vector
        leaves = self.leaves(vector[chosen], entries.nearest(vector[chosen]),
                             8 * entries.error + self.allowed(vector)[chosen], chosen)  # fmt: skip
        along_leaf = worst_entry("along a direction", [()] * DIRECTIONS, slopes, along.nearest(slopes),
                                 8 * along.error + sums, self.eps)  # fmt: skip
        return (*leaves, along_leaf)

    def leaves(
        self, actual: np.ndarray, expected: np.ndarray, allowed: np.ndarray, entries: np.ndarray | None = None
    ) -> tuple[Leaf, ...]:
        """The worst entry of each leaf, of those given."""
        entries = np.arange(self.x.size) if entries is None else entries
        found = []
        for path, shape, part in self.f.layout.leaves:
            inside = (entries >= part.start) & (entries < part.stop)
            if inside.any():
                at = np.stack(np.unravel_index(entries[inside] - part.start, shape), 1) if shape else [()]
                indices = [tuple(map(int, index)) for index in at]
                found.append(worst_entry(path, indices, actual[inside], expected[inside], allowed[inside], self.eps))
        return tuple(found)

    # ------------------------------------------------------------------------------------------------------------------
    # The complex step

    @cached_property
    def complex_step(self) -> np.ndarray | str:
        """∂f/∂x_j = Im f(x + ih e_j) / h for the chosen entries, or the reason why not.

        The error is h² f‴/6, below any rounding for h = 1e-30, and nothing is subtracted.
        Squire & Trapp, Using complex variables to estimate derivatives of real functions, 1998.
        """
        double = self.f.dtype == jnp.float64
        dtype, h = (jnp.complex128, 1e-30) if double else (jnp.complex64, 1e-10)
        steps = (h * scales(self.x, self.largest(self.x)))[self.chosen]
        entries = np.append(self.chosen, self.chosen[:1])  # the last without a step
        zeros = np.zeros(len(entries))
        probes = Probes(zeros.astype(int), zeros, entries, self.x[entries] + 1j * np.append(steps, 0))
        with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"):
            warnings.simplefilter("ignore")
            try:
                shapes = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in self.f.arrays)
                reason = not_holomorphic(self.f.program, self.x.size, shapes, dtype)
                if reason:
                    return reason
                *found, at_x = np.imag(self.f.values(np.zeros((1, self.x.size)), probes, dtype))
                if np.isfinite(at_x) and at_x != 0:
                    return "f leaves the real numbers, as a real power of a negative number does in complex arithmetic"
                return np.array(found) / steps
            except Exception as error:  # whatever f does that is not defined for complex numbers
                return f"f does not run on complex numbers: {first_line(error)}"
