"""How members lie in memory while they train, and which layout is taken when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


STACKED, MEMBERS_LAST = _NAMES = ("stacked", "members last")


@dataclass(frozen=True)
class Layout:
    """How members are trained together.

    ``name``: "stacked" maps the step of one network over the leading axis of members.
    ``chunk``: so many members run all their epochs together.
    ``threads``: so many groups of chunks run at once.
    """

    name: str
    chunk: int
    threads: int

    @property
    def axis(self) -> int:
        """Where the axis of members lies inside the loop."""
        return -1 if self.name == MEMBERS_LAST else 0


def choose(name: str | None, members: int, member: Any) -> Layout:
    """The layout for so many members of these shapes."""
    if name not in (None, *_NAMES):
        raise ValueError(f"layout is {name!r}, expected one of {', '.join(_NAMES)}, or a Layout")
    return Layout(name or STACKED, members, 1)


_GROUP = 2**16


def cut_into_groups(layout: Layout, members: int) -> tuple[int, range]:
    """The members of a group, and where each group starts: groups of equal size, some chunks each."""
    chunks = -(-members // layout.chunk)
    groups = -(-chunks // max(1, _GROUP // layout.chunk))
    groups = min(chunks, -(-groups // layout.threads) * layout.threads)
    size = -(-chunks // groups) * layout.chunk
    return size, range(0, members, size)
