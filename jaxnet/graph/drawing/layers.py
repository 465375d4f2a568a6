"""Layers of spots: their order, with few crossings, and their places across, with straight lines."""

from __future__ import annotations

import itertools
from bisect import bisect_right, insort
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Size", "Spot", "order", "place_across"]

GAP = 10.0
SWEEPS, SETTLING, STILL = 24, 80, 0.2

Key = Hashable


class Size(NamedTuple):
    """Of a box or label."""

    length: float
    breadth: float


@dataclass(eq=False)
class Spot:
    """An item, a label, or a point on a long link.

    ``before`` and ``after`` are the neighbours, each with how far from its own middle, and from this one's, they meet.
    """

    size: Size
    rank: int
    key: Key = None
    before: list[tuple[Spot, float, float]] = field(default_factory=list)
    after: list[tuple[Spot, float, float]] = field(default_factory=list)
    across: float = 0.0
    along: float = 0.0
    start: float = 0.0
    span: float = 0.0

    @property
    def is_item(self) -> bool:
        """Whether it is an item, and not a label or a point on a link."""
        return self.key is not None

    @property
    def is_way(self) -> bool:
        """Whether it is a point on a link."""
        return self.key is None and not self.size.length


# ----------------------------------------------------------------------------------------------------------------------
# Order within the layers


def order(layers: list[list[Spot]]) -> None:
    """Sort each layer by the mean place of its neighbours, to and fro; keep the order with the fewest crossings."""
    places: dict[int, float] = {id(spot): i for layer in layers for i, spot in enumerate(layer)}
    best, fewest = [list(layer) for layer in layers], _crossings(layers, places)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for layer in layers[1:] if forward else layers[-2::-1]:
            layer.sort(key=lambda spot: _mean_place(spot, places, forward=forward))
            places |= {id(spot): i for i, spot in enumerate(layer)}
        for layer in layers:
            _exchange(layer, places)
        found = _crossings(layers, places)
        if found < fewest:
            best, fewest = [list(layer) for layer in layers], found
        if fewest == 0:
            break
    for layer, members in zip(layers, best, strict=True):
        layer[:] = members


def _ends(sides: list[tuple[Spot, float, float]], places: Mapping[int, float]) -> list[float]:
    """The places of neighbours; those on one item differ by where they meet it."""
    return [places[id(other)] + 1e-3 * offset for other, offset, _ in sides]


def _mean_place(spot: Spot, places: Mapping[int, float], *, forward: bool) -> float:
    ends = _ends(spot.before if forward else spot.after, places)
    return sum(ends) / len(ends) if ends else places[id(spot)]


def _exchange(layer: list[Spot], places: dict[int, float]) -> None:
    """Exchange neighbours in a layer where that has fewer crossings."""
    ends = [(_ends(spot.before, places), _ends(spot.after, places)) for spot in layer]
    for i in range(len(layer) - 1):
        if _crossings_of(ends[i + 1], ends[i]) < _crossings_of(ends[i], ends[i + 1]):
            layer[i], layer[i + 1] = layer[i + 1], layer[i]
            ends[i], ends[i + 1] = ends[i + 1], ends[i]
    places |= {id(spot): i for i, spot in enumerate(layer)}


def _crossings_of(a: tuple[list[float], list[float]], b: tuple[list[float], list[float]]) -> int:
    """Crossings of the links of a spot with those of the next one."""
    return sum(p > q for side, other in zip(a, b, strict=True) for p in side for q in other)


def _crossings(layers: list[list[Spot]], places: Mapping[int, float]) -> int:
    total = 0
    for layer in layers:
        passed: list[float] = []
        for spot in layer:
            ends = _ends(spot.after, places)
            total += sum(len(passed) - bisect_right(passed, end) for end in ends)
            for end in ends:
                insort(passed, end)
    return total


# ----------------------------------------------------------------------------------------------------------------------
# Coordinates


def place_across(layers: list[list[Spot]]) -> None:
    """Near to the neighbours, under the order and the gaps, layer by layer, to and fro, until that moves nothing.

    A long link keeps the place that it had in the layer before, so that it has few bends.
    """
    for layer in layers:
        _pack(layer, [0.0] * len(layer), [1.0] * len(layer))
    spots = [spot for layer in layers for spot in layer]
    pulls = [{id(spot): _pulls(spot, side) for spot in spots} for side in ("before", "after")]
    before: list[float] = []
    for sweep in range(SETTLING + 1):
        forward = sweep % 2 == 0
        one, other = pulls if forward else pulls[::-1]
        for layer in layers if forward else layers[::-1]:
            wanted, weights = [], []
            for spot in layer:
                found = one[id(spot)]
                if sweep >= 4 and not spot.is_way:
                    found = found + other[id(spot)]
                weight = sum(pull[0] for pull in found)
                middle = sum(w * (end.across + shift) for w, end, shift in found)
                wanted.append(middle / weight if weight else spot.across)
                weights.append(weight or 1e-3)
            _pack(layer, wanted, weights)
        if forward:
            now = [spot.across for spot in spots]
            if sweep > 4 and max((abs(a - b) for a, b in zip(before, now, strict=True)), default=0.0) < STILL:
                break
            before = now


def _pulls(spot: Spot, side: str) -> list[tuple[float, Spot, float]]:
    """Weights, neighbours, and how far from the middle of each this one wants to be. Long links are to be straight."""
    return [
        ((1.0, 2.0, 8.0)[spot.is_way + end.is_way], end, theirs - ours) for end, theirs, ours in getattr(spot, side)
    ]


def _pack(layer: list[Spot], wanted: list[float], weights: list[float]) -> None:
    """The places nearest to those wanted, in least squares, that keep order and gaps: by pooling adjacent violators."""
    shifts = [0.0]
    for a, b in itertools.pairwise(layer):
        gap = GAP if a.size.length or b.size.length else GAP / 2
        shifts.append(shifts[-1] + (a.size.breadth + b.size.breadth) / 2 + gap)
    pools: list[list[float]] = []
    for place, weight, shift in zip(wanted, weights, shifts, strict=False):
        pools.append([place - shift, weight, 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, v, n), (b, w, m) = pools[-2:]
            pools[-2:] = [[(a * v + b * w) / (v + w), v + w, n + m]]
    settled = [place for place, _, n in pools for _ in range(int(n))]
    for spot, place, shift in zip(layer, settled, shifts, strict=False):
        spot.across = place + shift
