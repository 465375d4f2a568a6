"""What a picture of a graph shows: its boxes, the links between them, and the frames around scopes.

Left out are numbers, which stand in the expressions that use them; what is another form of the same numbers
(a reshape, a change of dtype); and what has no gradient (the computation of indices and masks). A scope is a frame
around its boxes where it is open, and one box where it is folded.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from jaxnet.graph.drawing.labels import SAME_NUMBERS, Names, all_but_numbers, constants, is_opaque
from jaxnet.graph.drawing.scopes import Frame, down_to, scopes, shortened
from jaxnet.graph.nodes import Edge, Node
from jaxnet.graph.tracing import Graph

__all__ = ["Box", "Link", "Open", "Plan", "Use", "plan"]

MOST_BOXES = 40
MOST_ARGUMENTS = 12


@dataclass(frozen=True, eq=False)
class Use:
    """The use of one shown node in another, over the edges between them; no edges where no gradient comes back."""

    operand: Node
    result: Node
    edges: tuple[Edge, ...]

    @property
    def derivative(self) -> Any:
        """The local derivative where both ends are real numbers; else None."""
        values = [node.value for edge in self.edges for node in (edge.operand, edge.result)]
        if not values or any(value.shape != () or is_opaque(value) for value in values):
            return None
        return reduce(np.multiply, (np.asarray(edge.derivative) for edge in self.edges))

    @property
    def contribution(self) -> Any:
        """What the use adds to the gradient of the operand."""
        return self.edges[0].contribution if self.edges else None


@dataclass(frozen=True, eq=False)
class Box:
    """A node; or the several nodes of a scope that is folded, or of arguments that are drawn as one."""

    nodes: tuple[Node, ...]
    title: str = ""

    @property
    def node(self) -> Node | None:
        """The node, if there is one only, and None in a folded box."""
        return None if self.title else self.nodes[0]


@dataclass(frozen=True, eq=False)
class Open:
    """A frame that is drawn: its boxes and the frames in it."""

    title: str
    members: list[Box | Open]

    def boxes(self) -> Iterator[Box]:
        """All boxes in it."""
        for member in self.members:
            if isinstance(member, Open):
                yield from member.boxes()
            else:
                yield member


@dataclass(frozen=True, eq=False)
class Link:
    """The uses of the nodes of one box in those of another."""

    source: Box
    target: Box
    uses: tuple[Use, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is shown of a graph."""

    graph: Graph
    names: Names
    root: Open
    boxes: list[Box]
    links: list[Link]

    def result_in(self, box: Box) -> Node | None:
        """The result of the program, where a box holds one and no more."""
        results = [node for node in box.nodes if node in self.graph.outputs]
        return results[0] if len(results) == 1 else None


def plan(graph: Graph, *, depth: int | None = None, plumbing: bool = False) -> Plan:
    """Choose what is shown. Scopes are open down to ``depth``, or, with None, as far as about 40 boxes allow."""
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 0):
        raise ValueError(f"depth is {depth!r}, expected how many levels of scopes to open, 0 or more, or None")
    shown = _shown(graph, plumbing)
    nodes = [node for node in graph.nodes if node.index in shown]
    names = Names(graph, lambda node: node.index in shown)
    tree = scopes([node for node in nodes if node.equation is not None])
    if depth is None:
        tree = shortened(tree)
    uses = [use for node in nodes for use in _uses(node, shown)]
    sources = [node for node in nodes if node.equation is None]

    def drawn(opened: set[Frame]) -> Plan:
        root, links = _boxes(tree, opened, sources, uses)
        return Plan(graph, names, root, list(root.boxes()), links)

    return drawn(_as_far_as_fits(tree, drawn) if depth is None else down_to(tree, depth))


def _as_far_as_fits(root: Frame, drawn: Callable[[set[Frame]], Plan]) -> set[Frame]:
    """As many frames as leave about 40 boxes, the small ones first."""
    opened, waiting = {root}, [member for member in root.members if isinstance(member, Frame)]
    while waiting:
        waiting.sort(key=lambda frame: sum(1 for _ in frame.nodes()))
        frame = waiting.pop(0)
        if len(drawn(opened | {frame}).boxes) <= MOST_BOXES:
            opened.add(frame)
            waiting += [member for member in frame.members if isinstance(member, Frame)]
    return opened


# ----------------------------------------------------------------------------------------------------------------------
# Which nodes, and how they use each other


def _shown(graph: Graph, plumbing: bool) -> set[int]:
    """Positions of the nodes that are shown."""
    if plumbing:
        return all_but_numbers(graph)
    numbers = constants(graph)
    outputs = {node.index for node in graph.outputs}
    leading = set(outputs)
    for node in reversed(graph.nodes):
        if node.index in leading:
            leading.update(operand.index for operand in node.operands)
    used = Counter(edge.operand.index for edge in graph.edges if edge.result.gradient is not None)

    def is_shown(node: Node) -> bool:
        if node.equation is None:
            return node.index not in numbers
        varying = [operand for operand in node.operands if operand.index not in numbers]
        same = node.primitive in SAME_NUMBERS and len(varying) == 1 and used[node.index] == 1
        return node.gradient is not None and not same

    return {node.index for node in graph.nodes if node.index in leading and is_shown(node)} | outputs


def _uses(node: Node, shown: set[int]) -> Iterator[Use]:
    """How a node uses those that are shown, directly or through those that are not."""
    hidden: dict[int, Node] = {}
    used: set[int] = set()
    for edge in node.edges:
        edges = [edge]
        while edges[0].operand.index not in shown and edges[0].operand.gradient is not None:
            edges.insert(0, next(inner for inner in edges[0].operand.edges if inner.operand.gradient is not None))
        operand = edges[0].operand
        if operand.index in shown:
            used.add(operand.index)
            has_gradient = operand.gradient is not None and node.gradient is not None
            yield Use(operand, node, tuple(edges) if has_gradient else ())
        else:
            hidden[operand.index] = operand
    yield from (Use(operand, node, ()) for operand in _behind(hidden, shown) if operand.index not in used)


def _behind(hidden: dict[int, Node], shown: set[int]) -> list[Node]:
    """The shown nodes that some hidden ones are computed from."""
    found, waiting, seen = {}, list(hidden.values()), set(hidden)
    while waiting:
        for operand in waiting.pop().operands:
            if operand.index in shown:
                found[operand.index] = operand
            elif operand.index not in seen:
                seen.add(operand.index)
                waiting.append(operand)
    return [found[i] for i in sorted(found)]


# ----------------------------------------------------------------------------------------------------------------------
# Boxes and links

Path = tuple[Open, ...]


def _boxes(tree: Frame, opened: set[Frame], sources: list[Node], uses: list[Use]) -> tuple[Open, list[Link]]:
    """The boxes in their frames, where ``opened`` frames are drawn and the others folded, and the links."""
    root = Open("", [])
    boxes: dict[int, Box] = {}
    paths: dict[int, Path] = {}

    def put(box: Box, path: Path, place: int) -> None:
        path[-1].members.insert(place, box)
        for node in box.nodes:
            boxes[node.index], paths[node.index] = box, path

    def fill(frame: Frame, path: Path) -> None:
        for member in frame.members:
            if not isinstance(member, Frame):
                put(Box((member,)), path, len(path[-1].members))
            elif member in opened:
                inner = Open(member.title, [])
                path[-1].members.append(inner)
                fill(member, (*path, inner))
            else:
                put(Box(tuple(member.nodes()), member.title), path, len(path[-1].members))

    fill(tree, (root,))
    for group, users in reversed(_together(sources, boxes, uses)):
        title = f"{len(group)} arguments" if len(group) > 1 else ""
        put(Box(tuple(group), title), _common([paths[user] for user in users] or [(root,)]), 0)
    return root, _links(boxes, uses)


def _together(sources: list[Node], boxes: dict[int, Box], uses: list[Use]) -> list[tuple[list[Node], list[int]]]:
    """The arguments with the positions of their users; where there are many, those of the same folded boxes as one."""
    users: dict[int, list[int]] = {node.index: [] for node in sources}
    for use in uses:
        if use.operand.index in users:
            users[use.operand.index].append(use.result.index)
    groups: dict[Any, list[Node]] = {}
    for node in sources:
        using = {boxes[i] for i in users[node.index]}
        alike = len(sources) > MOST_ARGUMENTS and using and all(box.node is None for box in using)
        groups.setdefault(frozenset(using) if alike else node, []).append(node)
    return [(group, [i for node in group for i in users[node.index]]) for group in groups.values()]


def _common(paths: Sequence[Path]) -> Path:
    """The innermost frame that all are in, with those around it."""
    ranks = zip(*paths, strict=False)
    return tuple(rank[0] for rank in itertools.takewhile(lambda rank: all(one is rank[0] for one in rank), ranks))


def _links(boxes: dict[int, Box], uses: list[Use]) -> list[Link]:
    """One for each use between single nodes, and one for all uses between any other two boxes."""
    groups: dict[Any, list[Use]] = {}
    for use in uses:
        source, target = boxes[use.operand.index], boxes[use.result.index]
        if source is not target:
            single = source.node is not None and target.node is not None
            groups.setdefault((source, target, use if single else None), []).append(use)
    return [Link(source, target, tuple(found)) for (source, target, _), found in groups.items()]
