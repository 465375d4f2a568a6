"""Layers of spots: their order, with few crossings, and their places across, with straight lines."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Size", "Spot", "order", "place_across"]

GAP = 10.0
SWEEPS, SETTLING = 24, 80

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
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for layer in layers[1:] if forward else layers[-2::-1]:
            places = _places(layers)
            layer.sort(key=lambda spot: _mean_place(spot, places, forward=forward))
        _exchange(layers)
        found = _crossings(layers)
        if found < fewest:
            best, fewest = [list(layer) for layer in layers], found
    for layer, members in zip(layers, best, strict=True):
        layer[:] = members


def _places(layers: list[list[Spot]]) -> dict[int, float]:
    return {id(spot): i for layer in layers for i, spot in enumerate(layer)}


def _mean_place(spot: Spot, places: Mapping[int, float], *, forward: bool) -> float:
    neighbours = spot.before if forward else spot.after
    if not neighbours:
        return places[id(spot)]
    return sum(places[id(other)] + 1e-3 * offset for other, offset, _ in neighbours) / len(neighbours)


def _exchange(layers: list[list[Spot]]) -> None:
    """Exchange neighbours in a layer where that has fewer crossings."""
    for layer in layers:
        places = _places(layers)
        for i in range(len(layer) - 1):
            a, b = layer[i], layer[i + 1]
            if _crossings_of(b, a, places) < _crossings_of(a, b, places):
                layer[i], layer[i + 1] = b, a


def _crossings_of(a: Spot, b: Spot, places: Mapping[int, float]) -> int:
    """Crossings of the links of a with those of b, where a stands before b."""
    return sum(
        places[id(p)] + 1e-3 * s > places[id(q)] + 1e-3 * t
        for ps, qs in ((a.before, b.before), (a.after, b.after))
        for p, s, _ in ps
        for q, t, _ in qs
    )


def _crossings(layers: list[list[Spot]]) -> int:
    places, total = _places(layers), 0
    for layer in layers:
        ends: list[float] = []
        for spot in layer:
            found = [places[id(other)] + 1e-3 * offset for other, offset, _ in spot.after]
            total += sum(len(ends) - bisect_left(ends, end + 1e-9) for end in found)
            for end in found:
                insort(ends, end)
    return total


# ----------------------------------------------------------------------------------------------------------------------
# Coordinates


def place_across(layers: list[list[Spot]]) -> None:
    """Near to the neighbours, under the order and the gaps, layer by layer, to and fro.

    A long link keeps the place that it had in the layer before, so that it has few bends.
    """
    for layer in layers:
        _pack(layer, [0.0] * len(layer), [1.0] * len(layer))
    for sweep in range(SETTLING + 1):
        forward = sweep % 2 == 0
        for layer in layers if forward else layers[::-1]:
            wanted, weights = [], []
            for spot in layer:
                one_side = spot.before if forward else spot.after
                sides = one_side if sweep < 4 or spot.is_way else spot.before + spot.after
                pulls = [(_weight(spot, other), other.across + theirs - ours) for other, theirs, ours in sides]
                weight = sum(w for w, _ in pulls)
                wanted.append(sum(w * place for w, place in pulls) / weight if weight else spot.across)
                weights.append(weight or 1e-3)
            _pack(layer, wanted, weights)


def _weight(a: Spot, b: Spot) -> float:
    """Long links are to be straight before all."""
    return (1.0, 2.0, 8.0)[a.is_way + b.is_way]


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
