"""A layered layout: boxes in layers along the flow, few crossings, straight lines, and a place for every label.

The method is that of Sugiyama, Tagawa & Toda 1981: (1) layers by longest paths; (2) what stands in the way of a long
link, and its label, is a point of its own in each layer between; (3) the order in each layer by means of
neighbours, swept to and fro, the order with the fewest crossings kept; (4) coordinates by least squares under the
order. A frame is laid out by itself, with a port for each link through its border, and is then one box of the layout
around it: so frames never overlap.

All is in abstract directions: *along* the flow and *across* it. Lengths are along, breadths across.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxnet.graph.drawing.layers import Size, Spot, order, place_across

__all__ = ["Link", "Placed", "Point", "layered"]

GAP = 13.0

Key = Hashable


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


def layered(
    sizes: Mapping[Key, Size], links: Sequence[Link], first: Sequence[Key] = (), last: Sequence[Key] = ()
) -> Placed:
    """Lay items out. Those of ``first`` and ``last`` stand in layers of their own at the two ends."""
    ranks = _ranks(sizes, links, set(first), set(last))
    spots = {key: Spot(size, ranks[key], key) for key, size in sizes.items()}
    chains = _chains(spots, links, _label_ranks(ranks, links))
    layers = _layers([*spots.values(), *{id(s): s for chain in chains for s in chain if not s.is_item}.values()])
    order(layers)
    place_across(layers)
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


def _label_ranks(ranks: Mapping[Key, int], links: Sequence[Link]) -> set[int]:
    """The layers with labels; the other odd ones are left out."""
    return {ranks[link.target] - 1 for link in links if link.label is not None}


def _chains(spots: Mapping[Key, Spot], links: Sequence[Link], label_ranks: set[int]) -> list[list[Spot]]:
    """The spots of each link, from source to target. Links of one source share points, but for their labels."""
    trunks: dict[tuple[Key, float | None, int], Spot] = {}
    joined: set[tuple[int, int]] = set()
    chains = []
    for link in links:
        source, target = spots[link.source], spots[link.target]
        chain = [source]
        for rank in range(source.rank + 1, target.rank):
            if rank % 2 and rank not in label_ranks:
                continue
            if rank == target.rank - 1 and link.label is not None:
                spot = Spot(link.label, rank)
            else:
                spot = trunks.setdefault((link.source, link.leaves, rank), Spot(Size(0.0, 2.0), rank))
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


def _layers(spots: Sequence[Spot]) -> list[list[Spot]]:
    used = {rank: i for i, rank in enumerate(sorted({spot.rank for spot in spots}))}
    layers: list[list[Spot]] = [[] for _ in used]
    seen: set[int] = set()

    def visit(spot: Spot) -> None:
        stack = [spot]
        while stack:
            spot = stack.pop()
            if id(spot) not in seen:
                seen.add(id(spot))
                layers[used[spot.rank]].append(spot)
                stack += [other for other, *_ in reversed(spot.before)]

    for spot in sorted(spots, key=lambda spot: -spot.rank):
        visit(spot)
    return layers


def _place_along(layers: list[list[Spot]]) -> float:
    """Layer after layer; the gap is wider where links go far across. The whole length."""
    along = 0.0
    for i, layer in enumerate(layers):
        length = max((spot.size.length for spot in layer), default=0.0)
        for spot in layer:
            spot.start, spot.span = along, length
            spot.along = along + (length - spot.size.length / 2 if spot.is_item and not spot.before else length / 2)
        along += length
        if i + 1 < len(layers):
            far = max((abs(b.across - a.across) for a in layer for b, *_ in a.after), default=0.0)
            along += GAP + min(far / 8, 30.0)
    return along


def _ends(spots: Mapping[Key, Spot], links: Sequence[Link], chains: Sequence[list[Spot]]) -> list[tuple[float, float]]:
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


def _way(chain: list[Spot], leaves: float, enters: float) -> list[tuple[Point, Point]]:
    """Straight through each layer; all bends are in the gaps between."""
    source, target = chain[0], chain[-1]
    stretches = [(Point(spot.start, spot.across), Point(spot.start + spot.span, spot.across)) for spot in chain[1:-1]]
    out, into = source.across + leaves, target.across + enters
    return [
        (Point(source.along + source.size.length / 2, out), Point(source.start + source.span, out)),
        *stretches,
        (Point(target.start, into), Point(target.along - target.size.length / 2, into)),
    ]
