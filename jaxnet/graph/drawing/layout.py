"""A layered layout: boxes in layers along the flow, few crossings, straight lines, and a place for every label.

The method is that of Sugiyama, Tagawa & Toda 1981: (1) layers by longest paths; (2) what stands in the way of a long
link, and its label, is a point of its own in each layer between; (3) the order in each layer by medians of
neighbours, swept to and fro, the order with the fewest crossings kept; (4) coordinates by least squares under the
order. A frame is laid out by itself, with a port for each link through its border, and is then one box of the layout
around it: so frames never overlap.

All is in abstract directions: *along* the flow and *across* it. Lengths are along, breadths across.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Link", "Placed", "Point", "Size", "layered"]

GAP_ALONG, GAP_ACROSS = 13.0, 10.0
SWEEPS = 24

Key = Hashable


class Size(NamedTuple):
    """Of a box or label."""

    length: float
    breadth: float


class Point(NamedTuple):
    """Along and across."""

    along: float
    across: float


class Link(NamedTuple):
    """From one item to another, with the size of its label; links of one source and no label may share their way.

    ``leaves`` and ``enters`` are where, from the middle across, it leaves the source and enters the target.
    """

    source: Key
    target: Key
    label: Size | None = None
    leaves: float | None = None
    enters: float | None = None


@dataclass(frozen=True)
class Placed:
    """The middles of items and of labels (by the position of their link), the ways of links, and the whole size.

    A way is a list of stretches: each goes straight from its first to its second point, and a curve joins it with the
    next one.
    """

    size: Size
    items: Mapping[Key, Point]
    labels: Mapping[int, Point]
    ways: Mapping[int, list[tuple[Point, Point]]]


@dataclass(eq=False)
class _Spot:
    """An item, a label, or a point on a long link."""

    size: Size
    rank: int
    key: Key = None
    before: list[tuple[_Spot, float, float]] = field(default_factory=list)
    after: list[tuple[_Spot, float, float]] = field(default_factory=list)
    across: float = 0.0
    along: float = 0.0
    span: float = 0.0

    @property
    def is_item(self) -> bool:
        return self.key is not None


def layered(
    sizes: Mapping[Key, Size], links: Sequence[Link], first: Sequence[Key] = (), last: Sequence[Key] = ()
) -> Placed:
    """Lay items out. Those of ``first`` and ``last`` stand in layers of their own at the two ends."""
    ranks = _ranks(sizes, links, set(first), set(last))
    spots = {key: _Spot(size, ranks[key], key) for key, size in sizes.items()}
    chains = _chains(spots, links)
    layers = _layers([*spots.values(), *{id(s): s for chain in chains for s in chain if not s.is_item}.values()])
    _order(layers)
    _place_across(layers)
    length = _place_along(layers)
    low = min((s.across - s.size.breadth / 2 for layer in layers for s in layer), default=0.0)
    high = max((s.across + s.size.breadth / 2 for layer in layers for s in layer), default=0.0)
    for layer in layers:
        for spot in layer:
            spot.across -= low
    ends = _ends(spots, links, chains)
    return Placed(
        Size(length, high - low),
        {key: Point(spot.along, spot.across) for key, spot in spots.items()},
        {
            i: Point(chain[-2].along, chain[-2].across)
            for i, (link, chain) in enumerate(zip(links, chains, strict=True))
            if link.label is not None
        },
        {i: _way(chain, *ends[i]) for i, chain in enumerate(chains)},
    )


# ----------------------------------------------------------------------------------------------------------------------
# Layers


def _ranks(sizes: Mapping[Key, Size], links: Sequence[Link], first: set[Key], last: set[Key]) -> dict[Key, int]:
    """Even layers for items, by the longest path from a source; odd ones, between, for labels.

    A source stands just before the first item that uses it.
    """
    after: dict[Key, list[Key]] = {key: [] for key in sizes}
    missing = dict.fromkeys(sizes, 0)
    for link in links:
        after[link.source].append(link.target)
        missing[link.target] += 1
    sources = [key for key in sizes if missing[key] == 0]
    ranks = {key: 0 if key in first or not first else 2 for key in sizes}
    ready = list(sources)
    while ready:
        key = ready.pop()
        for target in after[key]:
            ranks[target] = max(ranks[target], ranks[key] + 2)
            missing[target] -= 1
            if missing[target] == 0:
                ready.append(target)
    end = max((ranks[key] for key in sizes if key not in last), default=0) + 2
    ranks |= dict.fromkeys(last, end)
    for key in sources:
        if key not in first and after[key]:
            ranks[key] = min(ranks[target] for target in after[key]) - 2
    return ranks


def _chains(spots: Mapping[Key, _Spot], links: Sequence[Link]) -> list[list[_Spot]]:
    """The spots of each link, from source to target. Links of one source share points, but for their labels."""
    trunks: dict[tuple[Key, float | None, int], _Spot] = {}
    joined: set[tuple[int, int]] = set()
    chains = []
    for link in links:
        source, target = spots[link.source], spots[link.target]
        chain = [source]
        for rank in range(source.rank + 1, target.rank):
            if rank == target.rank - 1 and link.label is not None:
                spot = _Spot(link.label, rank)
            else:
                spot = trunks.setdefault((link.source, link.leaves, rank), _Spot(Size(0.0, 2.0), rank))
            chain.append(spot)
        chain.append(target)
        for a, b in itertools.pairwise(chain):
            if (id(a), id(b)) not in joined:
                joined.add((id(a), id(b)))
                leaves = link.leaves or 0.0 if a is source else 0.0
                enters = link.enters or 0.0 if b is target else 0.0
                a.after.append((b, enters, leaves))
                b.before.append((a, leaves, enters))
        chains.append(chain)
    return chains


def _layers(spots: Sequence[_Spot]) -> list[list[_Spot]]:
    layers: list[list[_Spot]] = [[] for _ in range(max((s.rank for s in spots), default=-1) + 1)]
    seen: set[int] = set()

    def visit(spot: _Spot) -> None:
        stack = [spot]
        while stack:
            spot = stack.pop()
            if id(spot) not in seen:
                seen.add(id(spot))
                layers[spot.rank].append(spot)
                stack += [other for other, *_ in reversed(spot.before)]

    for spot in sorted(spots, key=lambda spot: -spot.rank):
        visit(spot)
    return layers


# ----------------------------------------------------------------------------------------------------------------------
# Order within the layers


def _order(layers: list[list[_Spot]]) -> None:
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
    for layer, order in zip(layers, best, strict=True):
        layer[:] = order


def _places(layers: list[list[_Spot]]) -> dict[int, float]:
    return {id(spot): i for layer in layers for i, spot in enumerate(layer)}


def _mean_place(spot: _Spot, places: Mapping[int, float], *, forward: bool) -> float:
    neighbours = spot.before if forward else spot.after
    if not neighbours:
        return places[id(spot)]
    return sum(places[id(other)] + 1e-3 * offset for other, offset, _ in neighbours) / len(neighbours)


def _exchange(layers: list[list[_Spot]]) -> None:
    """Exchange neighbours in a layer where that has fewer crossings."""
    for layer in layers:
        places = _places(layers)
        for i in range(len(layer) - 1):
            a, b = layer[i], layer[i + 1]
            if _crossings_of(b, a, places) < _crossings_of(a, b, places):
                layer[i], layer[i + 1] = b, a


def _crossings_of(a: _Spot, b: _Spot, places: Mapping[int, float]) -> int:
    """Crossings of the links of a with those of b, where a stands before b."""
    return sum(
        places[id(p)] + 1e-3 * s > places[id(q)] + 1e-3 * t
        for ps, qs in ((a.before, b.before), (a.after, b.after))
        for p, s, _ in ps
        for q, t, _ in qs
    )


def _crossings(layers: list[list[_Spot]]) -> int:
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


def _place_across(layers: list[list[_Spot]]) -> None:
    """Minimise Σ weight (distance across)² over the links, layer by layer, under the order and the gaps."""
    for layer in layers:
        _pack(layer, [0.0] * len(layer), [1.0] * len(layer))
    for sweep in range(SWEEPS):
        both = sweep > 3
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wanted, weights = [], []
            for spot in layer:
                sides = spot.before + spot.after if both else (spot.before if sweep % 2 == 0 else spot.after)
                pulls = [(_weight(spot, other), other.across + theirs - ours) for other, theirs, ours in sides]
                weight = sum(w for w, _ in pulls)
                wanted.append(sum(w * place for w, place in pulls) / weight if weight else spot.across)
                weights.append(weight or 1e-3)
            _pack(layer, wanted, weights)


def _weight(a: _Spot, b: _Spot) -> float:
    """Long links are to be straight before all."""
    return (1.0, 2.0, 8.0)[(not a.is_item) + (not b.is_item)]


def _pack(layer: list[_Spot], wanted: list[float], weights: list[float]) -> None:
    """The places nearest to those wanted, in least squares, that keep order and gaps: by pooling adjacent violators."""
    shifts = [0.0]
    for a, b in itertools.pairwise(layer):
        gap = GAP_ACROSS if a.size.length or b.size.length else GAP_ACROSS / 2
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


def _place_along(layers: list[list[_Spot]]) -> float:
    """Layer after layer; the gap is wider where links go far across. The whole length."""
    along = 0.0
    for i, layer in enumerate(layers):
        length = max((spot.size.length for spot in layer), default=0.0)
        for spot in layer:
            spot.along, spot.span = along + length / 2, length
        along += length
        if i + 1 < len(layers):
            far = max((abs(b.across - a.across) for a in layer for b, *_ in a.after), default=0.0)
            along += GAP_ALONG + min(far / 8, 30.0)
    return along


def _ends(
    spots: Mapping[Key, _Spot], links: Sequence[Link], chains: Sequence[list[_Spot]]
) -> list[tuple[float, float]]:
    """Where each link leaves its source and enters its target: spread over the side, in the order of where they go."""
    ends = [[link.leaves or 0.0, link.enters or 0.0] for link in links]
    for side, toward in ((0, 1), (1, -2)):
        groups: dict[Key, list[int]] = {}
        for i, link in enumerate(links):
            if link[3 + side] is None:
                groups.setdefault(link[side], []).append(i)
        for key, members in groups.items():
            towards = {id(chains[i][toward]): chains[i][toward].across for i in members}
            order = sorted(towards, key=lambda name: towards[name])
            room = 0.6 * spots[key].size.breadth
            step = min(room / max(len(order) - 1, 1), 16.0)
            for i in members:
                place = order.index(id(chains[i][toward]))
                ends[i][side] = (place - (len(order) - 1) / 2) * step
    return [(leaves, enters) for leaves, enters in ends]


def _way(chain: list[_Spot], leaves: float, enters: float) -> list[tuple[Point, Point]]:
    """Straight through each layer; all bends are in the gaps between."""
    source, target = chain[0], chain[-1]
    stretches = [
        (Point(spot.along - spot.span / 2, spot.across), Point(spot.along + spot.span / 2, spot.across))
        for spot in chain[1:-1]
    ]
    out, into = source.across + leaves, target.across + enters
    return [
        (Point(source.along + source.size.length / 2, out), Point(source.along + source.span / 2, out)),
        *stretches,
        (Point(target.along - target.span / 2, into), Point(target.along - target.size.length / 2, into)),
    ]
