"""The scopes of a graph as a tree: functions, iterations and named scopes, with the nodes in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxnet.graph.drawing.labels import clipped
from jaxnet.graph.nodes import Node

__all__ = ["Frame", "down_to", "scopes", "shortened"]

MOST_MEMBERS = 24


@dataclass(frozen=True, eq=False)
class Frame:
    """A scope: a title and what stands in it, in the order of the program."""

    title: str
    members: list[Node | Frame] = field(default_factory=list)

    def nodes(self) -> Iterator[Node]:
        """All nodes in it."""
        for member in self.members:
            if isinstance(member, Frame):
                yield from member.nodes()
            else:
                yield member


def scopes(nodes: Sequence[Node]) -> Frame:
    """The tree of scopes. One with a single node or frame in it, or with all there is, adds nothing and is left out."""
    root = Frame("")
    path: list[tuple[Any, Frame]] = []
    for node in nodes:
        assert node.equation is not None
        around = node.equation.scope
        common = 0
        while common < min(len(path), len(around)) and path[common][0] is around[common]:
            common += 1
        del path[common:]
        for scope in around[common:]:
            frame = Frame(clipped(scope.name))
            (path[-1][1] if path else root).members.append(frame)
            path.append((scope, frame))
        (path[-1][1] if path else root).members.append(node)
    root = _simplified(root)
    return root.members[0] if len(root.members) == 1 and isinstance(root.members[0], Frame) else root


def _simplified(frame: Frame) -> Frame:
    members: list[Node | Frame] = []
    for member in frame.members:
        inner = _simplified(member) if isinstance(member, Frame) else member
        members.append(inner.members[0] if isinstance(inner, Frame) and len(inner.members) == 1 else inner)
    return Frame(frame.title, members)


def shortened(frame: Frame) -> Frame:
    """The first and the last members, with those between in one frame where there are too many."""
    members = [shortened(member) if isinstance(member, Frame) else member for member in frame.members]
    if len(members) <= MOST_MEMBERS:
        return Frame(frame.title, members)
    places = [i for i, member in enumerate(members) if isinstance(member, Frame)]
    head = tail = MOST_MEMBERS // 3
    if len(places) > len(members) // 2:
        head, tail = places[0] + 1, len(members) - places[-1]
    middle = members[head:-tail]
    return Frame(frame.title, [*members[:head], Frame(_title_of_all(middle), middle), *members[-tail:]])


def _title_of_all(members: Sequence[Node | Frame]) -> str:
    first, last = (m.title if isinstance(m, Frame) else "" for m in (members[0], members[-1]))
    if first.startswith("iteration ") and last.startswith("iteration "):
        return f"iterations {first.split()[1]} to {last.split()[1]}"
    return f"{first} … {last}" if first != last else first or "…"


def down_to(root: Frame, depth: int) -> set[Frame]:
    """The root and so many levels of frames in it."""
    opened, level = {root}, [root]
    for _ in range(depth):
        level = [member for frame in level for member in frame.members if isinstance(member, Frame)]
        opened.update(level)
    return opened
