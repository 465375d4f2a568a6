"""What a check found: entries, witnesses, and the report that prints them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Leaf", "Report", "Witness", "worst_of_each"]


@dataclass(frozen=True)
class Leaf:
    """One array of a comparison, and its worst entry.

    ``relative_error`` is that entry's error over the array's largest magnitude, so that ``tolerance`` is relative to
    the array as well; ``ulps`` is the error in units of the last place of ``expected``. ``index`` is empty for scalars
    and for derivatives along a direction.
    """

    path: str
    index: tuple[int, ...]
    actual: float
    expected: float
    relative_error: float
    tolerance: float
    ulps: float = math.nan

    @property
    def holds(self) -> bool:
        """Whether the relative error is within the tolerance; NaN is not."""
        return self.relative_error <= self.tolerance

    def __str__(self) -> str:
        return (
            f"relative error {self.relative_error:8.2e} (at most {self.tolerance:.0e}), largest at {list(self.index)}: "
            f"{self.actual:.9g}, expected {self.expected:.9g} ({self.ulps:.3g} ulps)"
        )


@dataclass(frozen=True)
class Witness:
    """One independent piece of evidence: the gradient under test against a derivative found in another way.

    ``holds`` is None where the witness could not be heard, and ``note`` says why; otherwise ``note`` says what was
    looked at. ``leaves`` holds the worst entry of every array.
    """

    name: str
    holds: bool | None
    leaves: tuple[Leaf, ...] = ()
    note: str = ""

    @property
    def worst(self) -> Leaf | None:
        """The entry farthest outside its tolerance, or nearest to it; NaN counts as farthest."""
        return max(self.leaves, key=_excess, default=None)


def _excess(leaf: Leaf) -> float:
    if math.isnan(leaf.relative_error):
        return math.inf
    if leaf.tolerance == 0:
        return math.inf if leaf.relative_error > 0 else 0.0
    return leaf.relative_error / leaf.tolerance


def worst_of_each(leaves: Iterable[Leaf]) -> tuple[Leaf, ...]:
    """Of the leaves of one path, the one farthest outside its tolerance."""
    worst: dict[str, Leaf] = {}
    for leaf in leaves:
        worst[leaf.path] = max(worst.get(leaf.path, leaf), leaf, key=_excess)
    return tuple(worst.values())


@dataclass(frozen=True)
class Report:
    """What the witnesses say; true where none disagrees, and printed as a table.

    ``diagnosis`` says in words which side is likely wrong and how; it is empty where all agree.
    """

    witnesses: tuple[Witness, ...]
    diagnosis: str = ""

    def __bool__(self) -> bool:
        return all(witness.holds is not False for witness in self.witnesses)

    def __getitem__(self, name: str) -> Witness:
        """The witness of that name."""
        for witness in self.witnesses:
            if witness.name == name:
                return witness
        raise KeyError(f"{name!r} is no witness of this report: {', '.join(w.name for w in self.witnesses)}")

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The arrays of every witness, one after another."""
        return tuple(leaf for witness in self.witnesses for leaf in witness.leaves)

    @property
    def relative_error(self) -> float:
        """The largest of all arrays; NaN if any is."""
        errors = [leaf.relative_error for leaf in self.leaves]
        return math.nan if any(map(math.isnan, errors)) else max(errors, default=0.0)

    @property
    def disagreeing(self) -> tuple[str, ...]:
        """Names of the witnesses that disagree."""
        return tuple(witness.name for witness in self.witnesses if witness.holds is False)

    def raise_if_failed(self) -> None:
        """Raise AssertionError, with the table and the diagnosis, unless every witness agrees."""
        if not self:
            raise AssertionError(f"{'the witnesses disagree' if self.diagnosis else 'the arrays differ'}\n{self}")

    def __str__(self) -> str:
        rows = [row for witness in self.witnesses for row in _rows(witness)]
        width = max(len(label) for _, label, _ in rows)
        lines = [f"{status:4} {label:{width}}  {text}".rstrip() for status, label, text in rows]
        return "\n".join([*lines, *filter(None, [self.diagnosis])])


def _rows(witness: Witness) -> list[tuple[str, str, str]]:
    """Status, label and text of each line: every array of a plain comparison, else the worst, or all that differ."""
    if not witness.name:
        return [("ok" if leaf.holds else "FAIL", leaf.path, str(leaf)) for leaf in witness.leaves]
    status = {True: "ok", False: "FAIL", None: "skip"}[witness.holds]
    shown = [leaf for leaf in witness.leaves if not leaf.holds] if witness.holds is False else []
    shown = shown or [leaf for leaf in [witness.worst] if leaf is not None]
    texts = [f"{leaf.path} {leaf}".lstrip() for leaf in shown] or [witness.note]
    if shown and witness.note:
        texts[-1] += f"; {witness.note}"
    return [(status, witness.name if i == 0 else "", text) for i, text in enumerate(texts)]
