"""The witnesses: each compares the gradient under test with evidence of another kind."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np

from jaxnet.check.comparison import worst_entry
from jaxnet.check.evidence import DIRECTIONS, Case
from jaxnet.check.programs import first_line
from jaxnet.check.reports import Leaf, Witness, worst_of_each

__all__ = [
    "WITNESSES", "automatic", "central_differences", "complex_leaves", "complex_step", "dot_product", "lower_precision",
    "modes", "nearby_points", "same_bits", "taylor_remainder",
]  # fmt: skip

# Names of the witnesses, as the diagnosis refers to them.
AUTOMATIC, CENTRAL, COMPLEX, TAYLOR = "automatic", "central differences", "complex step", "Taylor remainder"
DOT, MODES, BITS, PRECISION, NEARBY = "dot product", "jit, vmap, eager", "same bits", "lower precision", "nearby points"

_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _weigh(name: str, leaves: tuple[Leaf, ...], note: str = "") -> Witness:
    return Witness(name, all(leaf.holds for leaf in leaves), leaves, note)


def automatic(case: Case) -> Witness:
    """Reverse-mode automatic differentiation of f."""
    if case.automatic is None:
        return Witness(AUTOMATIC, None, note=case.why_not_automatic)
    return _weigh(AUTOMATIC, case.leaves(case.manual, case.automatic, case.allowed(case.automatic)))


def central_differences(case: Case) -> Witness:
    """Central differences with Richardson extrapolation, of entries and along directions."""
    entries, n = case.survey.entries, case.x.size
    looked = "all entries" if len(case.chosen) == n else f"{len(case.chosen)} of {n} entries, sampled"
    note = f"{looked}, and {DIRECTIONS} directions"
    if not np.isfinite(np.r_[entries.error, case.survey.along.error]).any():
        return Witness(CENTRAL, None, note="f is not finite, or not smooth, around the point")
    if entries.kink.any():
        note += f"; a kink at {int(entries.kink.sum())} entries, where anything between both slopes is right"
    return _weigh(CENTRAL, case.judge(case.manual), note)


def complex_step(case: Case) -> Witness:
    """The complex step, Im f(x + ih) / h."""
    found = case.complex_step
    if isinstance(found, str):
        return Witness(COMPLEX, None, note=found)
    if not np.isfinite(found).all():
        return Witness(COMPLEX, None, note="f is not finite on complex numbers")
    return _weigh(COMPLEX, complex_leaves(case, case.manual))


def complex_leaves(case: Case, vector: np.ndarray) -> tuple[Leaf, ...]:
    """A vector against the complex step; at kinks it says nothing."""
    chosen, found = case.chosen, np.asarray(case.complex_step)
    allowed = np.where(case.survey.entries.kink, np.inf, 100 * case.allowed(case.largest(vector))[chosen])
    return case.leaves(vector[chosen], found, allowed, chosen)


def taylor_remainder(case: Case) -> Witness:
    """The order at which |f(x + tv) − f(x) − t⟨g, v⟩| vanishes with t: 2 for a right gradient, 1 for a wrong one."""
    orders, kink = case.survey.orders, case.survey.along.kink
    if kink.any():
        return Witness(TAYLOR, None, note="f has a kink at the point, where the order is 1 for any gradient")
    if np.isnan(orders).any():
        return Witness(TAYLOR, False, note="the gradient or f is not finite")
    order = float(np.median(orders))
    if np.isinf(order):
        return Witness(TAYLOR, True, note="the remainder vanishes: f is linear here, within its noise")
    note = f"order {order:.2f}, expected 2"
    if order < 0.7:
        return Witness(TAYLOR, None, note=f"{note}: f is not continuous, or noisy")
    return Witness(TAYLOR, order >= 1.5, note=note)


def dot_product(case: Case) -> Witness:
    """⟨Jv, u⟩ = ⟨v, Jᵀu⟩ for random v: forward differentiation, or central differences, against the gradient."""
    directions, gradient = case.directions, case.manual
    allowed = np.abs(directions) @ (case.allowed(gradient) + case.tolerance * abs(gradient))
    note = "Jv by forward differentiation"
    try:
        expected = case.f.tangents(directions)
    except Exception as error:  # f has a custom_vjp, or cannot be traced
        along = case.survey.along
        note = f"Jv by central differences, as forward differentiation says {first_line(error)[:60]}..."
        expected, allowed = along.nearest(directions @ gradient), allowed + 8 * along.error
    leaf = worst_entry("along a direction", [()] * DIRECTIONS, directions @ gradient, expected, allowed, case.eps)
    if np.isfinite(gradient).all() and not np.isfinite(allowed).any():
        return Witness(DOT, None, note=note)
    return _weigh(DOT, (leaf,), note)


def modes(case: Case) -> Witness:
    """The gradient run operation by operation, compiled, and mapped over several points."""
    bound, leaves = case.gradient, []
    points = np.stack([case.x, *(other.x for other in case.neighbours)])
    try:
        expected = np.stack([case.manual, *(bound.eager(x) for x in points[1:])])
        for mode, found in (("jit", bound.compiled(case.x)[None]), ("vmap", bound.mapped(points))):
            for actual, eager in zip(found, expected, strict=False):
                found_leaves = case.leaves(actual, eager, case.allowed(eager))
                leaves += [replace(leaf, path=f"{mode} {leaf.path}".rstrip()) for leaf in found_leaves]
    except _UNTRACEABLE as error:
        return Witness(MODES, None, note=f"the gradient cannot be traced: {first_line(error)}")
    except Exception as error:  # a gradient that runs eagerly should run compiled and mapped
        return Witness(MODES, False, note=f"the gradient fails under jit or vmap: {first_line(error)}")
    changed = " and ".join(sorted({leaf.path.split()[0] for leaf in leaves if not leaf.holds}))
    note = f"{changed} changes its values: it depends on more than the numbers it is given" if changed else ""
    return _weigh(MODES, worst_of_each(leaves), note)


def same_bits(case: Case) -> Witness:
    """Three runs of f and of the gradient, bit for bit."""
    for name, bound in (("the gradient", case.gradient), ("f", case.f)):
        first, *others = (bound.eager(case.x) for _ in range(3))
        for other in others:
            if first.tobytes() != other.tobytes():
                changed = int((first != other).sum())
                return Witness(
                    BITS, False, note=f"{name} changes from run to run, in {changed} of {first.size} numbers"
                )
    return Witness(BITS, True, note="three runs of f and of the gradient")


def lower_precision(case: Case) -> Witness:
    """The gradient in a coarser dtype against itself in this one, at the same point."""
    low = case.low
    if low is None:
        return Witness(PRECISION, None, note=f"f and its gradient run in one dtype only: {case.why_alone}")
    exact = case.moved(low.x)
    note = f"{np.dtype(low.f.dtype).name} against {np.dtype(case.f.dtype).name}"
    allowed = low.allowed(exact.manual)
    if low.automatic is not None and exact.automatic is not None:
        if not np.isfinite(low.automatic).all():
            return Witness(PRECISION, None, note=f"{note}: automatic differentiation overflows")
        allowed = allowed + 100 * low.largest(low.automatic - exact.automatic)
    return _weigh(PRECISION, low.leaves(low.manual, exact.manual, allowed), note)


def nearby_points(case: Case) -> Witness:
    """Automatic differentiation at two random points nearby: a gradient should be right at more than one point."""
    if case.automatic is None:
        return Witness(NEARBY, None, note="needs automatic differentiation")
    leaves: list[Leaf] = []
    for other in case.neighbours:
        if other.automatic is not None and np.isfinite(other.automatic).all():
            leaves += other.leaves(other.manual, other.automatic, other.allowed(other.automatic))
    if not leaves:
        return Witness(NEARBY, None, note="f is not finite nearby")
    return _weigh(NEARBY, worst_of_each(leaves))


WITNESSES = (
    automatic, central_differences, complex_step, taylor_remainder, dot_product, modes, same_bits, lower_precision,
    nearby_points,
)  # fmt: skip
