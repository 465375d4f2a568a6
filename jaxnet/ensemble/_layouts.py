"""How members lie in memory while they train, and which layout is taken when."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax

from jaxnet._validate import checked_count

STACKED, MEMBERS_LAST, ONE_KERNEL = _NAMES = ("stacked", "members last", "one kernel")


def check_name(name: Any) -> None:
    """Raise unless it is the name of a layout."""
    if name not in _NAMES:
        raise ValueError(f"layout is {name!r}, expected one of {', '.join(_NAMES)}, or a Layout")


@dataclass(frozen=True)
class Layout:
    """How members are trained together.

    Parameters
    ----------
    name
        ``"stacked"`` maps the step of one network over the leading axis of members: batched matrix products.
        ``"members last"`` keeps the members on the last axis and writes the sums over units out: for tiny networks,
        whose products fill no register. ``"one kernel"`` lets each thread of a GPU carry a network through all its
        steps, for networks of at most 128 parameters, batches of all examples, and optimizers that treat each number by
        itself, such as ``optax.sgd`` and ``optax.adam``; never chosen by itself, because nobody has measured it yet.
        These two have the gradient of `jaxnet.backprop` built in.
    chunk
        So many members run all their epochs together, in the cache.
    threads
        So many groups of chunks run at once.
    """

    name: str
    chunk: int
    threads: int

    def __post_init__(self) -> None:
        check_name(self.name)
        checked_count("chunk", self.chunk, least=1)
        checked_count("threads", self.threads, least=1)

    @property
    def axis(self) -> int:
        """Where the axis of members lies inside the loop."""
        return 0 if self.name == STACKED else -1


# Nanoseconds on one core of a Xeon with AVX-512, float32: by benchmarks/ensembles.py.
_KERNEL = 60  # to start one kernel, for all members of a chunk
_PRODUCT = 400  # a batched product of small matrices, for each member
_FLOP_STACKED = 1 / 65
_FLOP_MEMBERS_LAST = 1 / 18

_MOST_TERMS = 200
"""Terms that are written out for one layer at the most: compiling takes longer with each."""

_ONE_CORE = 3600
"""Numbers that a kernel may touch before XLA splits it between cores, which takes longer than such a kernel does."""

_CACHE = 2**16
"""Numbers that a chunk should touch at the most, to stay in the cache of a core through all its steps."""


def choose(name: str | None, members: int, sizes: tuple[int, ...], batch_size: int, by_hand: bool) -> Layout:
    """The layout for so many members of these sizes; the cheaper one by the costs above, if no name is given."""
    if name is not None:
        check_name(name)
    if jax.default_backend() != "cpu" or name == ONE_KERNEL:
        return Layout(name or STACKED, members, 1)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = -(-members // threads)
    layers = list(pairwise(sizes))
    parameters = sum((inputs + 1) * units for inputs, units in layers)
    flops = 6 * batch_size * parameters

    touched = max(2 * units * inputs + batch_size * units for inputs, units in layers) + 2 * batch_size
    chunk = _ONE_CORE // touched // 16 * 16
    chunk = min(share, chunk if chunk >= 48 else max(16, min(128, _CACHE // touched // 16 * 16)))
    last = Layout(MEMBERS_LAST, chunk, threads)
    chunk = max(4, 2 * _CACHE // (parameters + batch_size * sum(sizes[1:])))
    stacked = Layout(STACKED, min(share, chunk), threads)
    if name is not None:
        return last if name == MEMBERS_LAST else stacked

    cost_last = _KERNEL * (4 * len(layers) + 1) / last.chunk + _FLOP_MEMBERS_LAST * flops
    cost_stacked = _PRODUCT * (3 * len(layers) - 1) + _FLOP_STACKED * flops
    terms = max(batch_size, *sizes)
    return last if by_hand and terms <= _MOST_TERMS and cost_last < cost_stacked else stacked


def cut_into_groups(layout: Layout, members: int) -> tuple[int, range]:
    """The members of a group, and where each group starts: groups of equal size, some chunks each."""
    chunks = -(-members // layout.chunk)
    groups = -(-chunks // max(1, _GROUP // layout.chunk))
    groups = min(chunks, -(-groups // layout.threads) * layout.threads)
    size = -(-chunks // groups) * layout.chunk
    return size, range(0, members, size)


_GROUP = 2**15
"""Members of a group at the most."""
