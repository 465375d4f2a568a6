"""Says in words which side is likely wrong, and how."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from jaxnet.check.evidence import Case
from jaxnet.check.reports import Witness
from jaxnet.check.witnesses import (
    AUTOMATIC,
    BITS,
    CENTRAL,
    COMPLEX,
    DOT,
    MODES,
    NEARBY,
    PRECISION,
    TAYLOR,
    complex_leaves,
)

__all__ = ["diagnose"]

_NUMERIC = (CENTRAL, COMPLEX, TAYLOR)


def diagnose(case: Case, witnesses: tuple[Witness, ...]) -> str:
    """Which side the disagreeing witnesses point at, and what the error looks like; empty where none disagrees."""
    disagree = {witness.name for witness in witnesses if witness.holds is False}
    notes = {witness.name: witness.note for witness in witnesses}
    if not disagree:
        return ""
    if not np.isfinite(case.survey.entries.value).any():
        return "f itself is not finite around here, so there is nothing to hold a gradient against"
    if BITS in disagree:
        return f"not deterministic: {notes[BITS]}, so the other witnesses mean little until that is mended"
    if disagree & {AUTOMATIC, DOT, *_NUMERIC}:
        return _which_side(case, disagree)
    if NEARBY in disagree:
        return (
            "the gradient under test is wrong: right at this point only, and wrong at points nearby, so it misses how "
            f"the gradient depends on its arguments; there it {_nearby(case)[0]}"
        )
    if MODES in disagree:
        return f"the gradient under test is wrong: {notes[MODES]}"
    return (
        f"the gradient under test loses precision ({notes[PRECISION]}): right in the finer dtype, and farther off in "
        "the coarser one than automatic differentiation is; look for overflow or cancellation"
    )


def _which_side(case: Case, disagree: set[str]) -> str:
    """Manual against automatic against numeric: two of them that agree outvote the third."""
    auto = case.automatic
    if auto is not None and _numeric_disagree(case, auto):
        return _automatic_contradicted(case, auto, disagree)
    if auto is not None and AUTOMATIC not in disagree:
        return (
            f"undecided: {' and '.join(sorted(disagree))} disagree with the gradient, which automatic differentiation "
            "and the slopes of f confirm: f may be noisy or not smooth here, or its forward and reverse rules differ"
        )
    kink = _kink(case)
    if kink:
        return kink
    truth = _numeric(case) if auto is None else _believe(case, auto)
    text = f"the gradient under test is wrong: it {_how(case, case.manual, truth)}"
    if not disagree & {*_NUMERIC}:
        text += "; the difference is too small for the values of f to show, so only automatic differentiation says so"
    if auto is not None and not _nearby(case):
        text += "; at points nearby it is right, so look for a special case at this point"
    return text


def _automatic_contradicted(case: Case, auto: np.ndarray, disagree: set[str]) -> str:
    """Values of f contradict automatic differentiation: the gradient sides with it, with them, or with neither."""
    if AUTOMATIC not in disagree:
        return (
            "the gradient under test and automatic differentiation agree with each other, but not with the values of "
            "f: likely a wrong custom derivative rule, or a stop_gradient, inside f that both go through; "
            f"the gradient {_how(case, case.manual, _numeric(case))}"
        )
    if not disagree & {*_NUMERIC}:
        return (
            "automatic differentiation is wrong, and so likely a custom derivative rule inside f: the gradient under "
            "test agrees with the values of f; automatic differentiation "
            f"{_how(case, auto, _believe(case, case.manual))}"
        )
    return (
        "the gradient under test and automatic differentiation are both wrong, in different ways: neither agrees with "
        f"the values of f; the gradient {_how(case, case.manual, _numeric(case))}; automatic differentiation "
        f"{_how(case, auto, _numeric(case))}"
    )


def _nearby(case: Case) -> list[str]:
    """How the gradient is wrong at each of the points nearby where it is."""
    found = [(c, _believe(c, c.automatic)) for c in case.neighbours if c.automatic is not None]
    return [_how(c, c.manual, truth) for c, truth in found if _wrong_leaves(c, c.manual, truth)]


def _numeric_disagree(case: Case, vector: np.ndarray) -> bool:
    """Whether values of f contradict a gradient."""
    leaves = case.judge(vector)
    if not isinstance(case.complex_step, str) and np.isfinite(case.complex_step).all():
        leaves += complex_leaves(case, vector)
    return not all(leaf.holds for leaf in leaves)


def _kink(case: Case) -> str:
    """Where the gradient takes the other side of a kink than automatic differentiation, if that is all."""
    entries, chosen = case.survey.entries, case.chosen
    if case.automatic is None or not entries.kink.any():
        return ""
    wrong = abs(case.manual - case.automatic) > case.allowed(case.automatic)
    at = [i for i, entry in enumerate(chosen) if wrong[entry] and entries.kink[i]]
    if not at or wrong.sum() > len(at):
        return ""
    i = at[0]
    actual, expected, low, high = case.manual[chosen[i]], case.automatic[chosen[i]], entries.low[i], entries.high[i]
    between = low - 8 * entries.error[i] <= actual <= high + 8 * entries.error[i]
    which = "another branch than f's own rule" if between else "neither side"
    return (
        f"the gradient under test is wrong at a kink: at {_entry(case, int(chosen[i]))} the slopes of f are {low:.6g} "
        f"and {high:.6g} on its two sides; the gradient takes {which}, {actual:.6g} where automatic "
        f"differentiation has {expected:.6g}"
    )


# ----------------------------------------------------------------------------------------------------------------------
# How


class _Truth(NamedTuple):
    """The side that is believed, (n,), NaN where it is not known, and what another side may differ from it."""

    value: np.ndarray
    slack: np.ndarray


def _believe(case: Case, vector: np.ndarray) -> _Truth:
    return _Truth(vector, case.allowed(vector))


def _numeric(case: Case) -> _Truth:
    """The central differences, where they were taken."""
    value, slack, entries = np.full(case.x.size, np.nan), np.full(case.x.size, np.nan), case.survey.entries
    value[case.chosen] = np.where(np.isfinite(entries.error), entries.value, np.nan)
    slack[case.chosen] = 8 * entries.error
    return _Truth(value, slack + case.allowed(value))


def _how(case: Case, actual: np.ndarray, truth: _Truth) -> str:
    """What the error looks like, leaf by leaf; where all leaves show the same, once."""
    wrong = _wrong_leaves(case, actual, truth)
    if not wrong:
        return "differs from it by little more than rounding"
    texts = {path: _describe(case, path, actual, truth) for path in wrong}
    if len(set(texts.values())) == 1 and len(texts) > 1:
        where = "every leaf" if len(texts) == len(case.f.layout.leaves) else ", ".join(texts)
        return f"{texts[wrong[0]].rstrip(',')}, in {where}"
    shown = [f"{text} in {path}" if path else text.rstrip(",") for path, text in texts.items()]
    return "; ".join(shown[:4]) + (f"; and in {len(shown) - 4} more leaves" if len(shown) > 4 else "")


def _wrong_leaves(case: Case, actual: np.ndarray, truth: _Truth) -> list[str]:
    """Paths of the leaves that differ where the truth is known."""
    wrong = ~(abs(actual - truth.value) <= truth.slack) & ~np.isnan(truth.value)
    return [path for path, _, part in case.f.layout.leaves if wrong[part].any()]


def _describe(case: Case, path: str, actual: np.ndarray, truth: _Truth) -> str:
    """The error of one leaf in words."""
    shape, part = next((shape, part) for p, shape, part in case.f.layout.leaves if p == path)
    known = ~np.isnan(truth.value[part])
    a, b, x, slack = (vector[part][known] for vector in (actual, truth.value, case.x, truth.slack))
    if not np.isfinite(a).all():
        return f"is not finite in {int((~np.isfinite(a)).sum())} of {a.size} entries"
    if not a.any():
        return "is zero, as if forgotten,"
    factor = _factor(a, b, slack)
    if factor is not None:
        return _factor_in_words(factor)
    if known.all() and len(shape) >= 2:
        for i in range(len(shape)):
            for j in range(i):
                swapped = np.swapaxes(b.reshape(shape), i, j)
                if np.all(abs(a - swapped.ravel()) <= 2 * slack.max()):
                    return "is transposed"
    for other, _, where in case.f.layout.leaves:
        fits = other != path and known.all() and where.stop - where.start == a.size
        if fits and np.all(abs(a - truth.value[where]) <= 2 * slack.max()):
            return f"is that of {other or 'another leaf'}"
    wrong = abs(a - b) > slack
    count = f"{int(wrong.sum())} of {a.size} entries"
    if np.all(abs(abs(a) - abs(b)) <= slack):
        return f"has the wrong sign in {count}"
    if not a[wrong].any():
        return f"is zero in {count} where it should not be"
    offset, regular = _factor(a - b, np.ones_like(b), slack), _factor(a - b, x, slack)
    if a.size > 1 and offset is not None:
        return f"is off by a constant, {offset:.6g},"
    if a.size > 1 and regular is not None:
        return f"is off by {regular:.6g} times the argument (a penalty term?)"
    worst = np.argmax(abs(a - b))
    return f"differs in {count}, by up to {abs(a - b)[worst]:.3g} ({a[worst]:.6g}, expected {b[worst]:.6g})"


def _factor(a: np.ndarray, b: np.ndarray, slack: np.ndarray) -> float | None:
    """The factor c of a = c b, if there is one that explains all but a thousandth of the difference."""
    size = np.abs(b).max()
    if size == 0:
        return None
    c = float((a / size) @ (b / size) / ((b / size) @ (b / size)))
    return c if np.all(abs(a - c * b) <= slack + 1e-3 * abs(c - 1) * size * min(1, abs(c))) else None


def _factor_in_words(c: float) -> str:
    if abs(c + 1) < 1e-6:
        return "has the wrong sign, a factor of -1,"
    if abs(c - 1) < 1e-2:
        return f"is off by a factor of 1 {'+' if c > 1 else '-'} {abs(c - 1):.2g}"
    simple = Fraction(c).limit_denominator(1000)
    exact = simple != 0 and abs(float(simple) / c - 1) < 1e-5
    return f"is off by a factor of {simple if exact else f'{c:.6g}'}"


def _entry(case: Case, entry: int) -> str:
    """The path and index of an entry."""
    for path, shape, part in case.f.layout.leaves:
        if part.start <= entry < part.stop:
            return path + str([int(i) for i in np.unravel_index(entry - part.start, shape)] if shape else "")
    raise IndexError(entry)
