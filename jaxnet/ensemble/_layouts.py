"""How members lie in memory while they train, and which layout is taken when."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax

from jaxnet._validate import checked_count

STACKED, MEMBERS_LAST, ONE_KERNEL, ONE_BY_ONE = _NAMES = ("stacked", "members last", "one kernel", "one by one")


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
        ``"members last"`` keeps the members on the last axis and writes the sums over units out, and on a CPU its steps
        are compiled as one function: for networks of up to 100 units in a layer, whose products are small. ``"one by
        one"`` trains one member after another in each thread; on a CPU, few examples as `jaxnet.train` does, with sums
        in the place of products, in one function. ``"one kernel"`` lets each thread or warp of a GPU carry a network
        through all steps of an epoch, or of many where a batch is all examples: for networks of up to some 2,500
        parameters, and optimizers that treat each number by itself, such as ``optax.sgd`` and ``optax.adam``. It and
        ``"members last"`` have the gradient of `jaxnet.backprop` built in.
    chunk
        So many members run all their epochs together, in the cache; or, one by one, through the same batches.
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
        return -1 if self.name == MEMBERS_LAST else 0


# Nanoseconds for a step of a member on two cores of a Xeon with AVX-512, float32, fitted by hand to networks from 2-2-1
# to 100-100-10, batches from 1 to 64, and batches of their own or shared: within a factor of two of most.
_PRODUCT = 200  # a batched product of small matrices
_FLOP_STACKED, _PARAMETER_STACKED = 1 / 150, 1.3
_LOOP, _LOOPED = 10, 0.25  # where a batch is one example, products become loops: in all, for each parameter and layer
_FLOP_MEMBERS_LAST, _PARAMETER_MEMBERS_LAST = 1 / 70, 0.2
_UNIT = 0.3  # the activation of a unit, with the members last
_OWN, _OWN_LAST = 2, 4  # batches of members' own: a number, stacked, and of every example but one with the members last
_OWN_BATCH = 15  # and such a batch in all, with the members last
_STEP_ALONE, _FLOP_ALONE, _PARAMETER_ALONE, _UNIT_ALONE = 1300, 1 / 100, 0.05, 4  # one by one, few examples as sums

_MOST_TERMS = 100
"""Terms that are written out for one layer at the most: with 128, the code that XLA makes takes six times as long."""

_FEW_PARAMETERS = 256
"""Networks of more take less time in chunks of 32 members than of 64."""

_WIDE = 8
"""Units of a layer whose deltas are carried back: networks with so many take least in chunks of 16 members."""

_BESIDE = 2
"""A chunk with the members last takes as long as so many members more."""

_CACHE = 2**16
"""Numbers that a chunk should touch at the most, to stay in the cache of a core through all its steps."""


class Work(NamedTuple):
    """What a layout is chosen for."""

    members: int
    sizes: tuple[int, ...]
    batch_size: int
    drawn: bool  # batches are drawn from more examples
    own_batches: bool  # each member draws its own, or from data of its own


def choose(
    name: str | None, work: Work, by_hand: bool, kernel_pays: Callable[[], bool], as_sums: bool = False
) -> Layout:
    """The layout for such work; the cheapest one by the costs here, if no name is given.

    ``kernel_pays()`` says whether one kernel takes such networks and optimizers, and less time than stacked products;
    ``as_sums``, whether members can be trained one by one with sums in the place of products.
    """
    if name is not None:
        check_name(name)
    if jax.default_backend() != "cpu" or name == ONE_KERNEL:
        if name is None:
            one = jax.default_backend() == "gpu" and by_hand and kernel_pays()
            name = ONE_KERNEL if one else STACKED
        return Layout(name, work.members, 1)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = -(-work.members // threads)
    n = work.batch_size

    last = Layout(MEMBERS_LAST, _in_registers(share, work), threads)
    most = max(4, 2 * _CACHE // (_parameters(work.sizes) + n * sum(work.sizes[1:])))
    stacked = Layout(STACKED, -(-share // -(-share // most)), threads)
    one_by_one = Layout(ONE_BY_ONE, share if work.drawn and not work.own_batches else 1, threads)
    if name is not None:
        return {MEMBERS_LAST: last, ONE_BY_ONE: one_by_one, STACKED: stacked}[name]
    other, cost = stacked, cost_stacked(work)
    if as_sums and one_by_one_pays(work):
        other, cost = one_by_one, cost_one_by_one(work)
    written_out = max(n, *work.sizes) <= _MOST_TERMS
    filled = -(-share // last.chunk) * last.chunk / share
    return last if by_hand and written_out and filled * cost_members_last(work) < cost else other


def _in_registers(share: int, work: Work) -> int:
    """The chunk by which so many members take least, with those that only fill the last one.

    Whole registers of 16 numbers: what is left over takes as long as the whole. A single one only for wide layers: of
    a loop over 16 members whose body is short, XLA makes scalars. Drawing batches pays with more.
    """
    if max(work.sizes[2:], default=1) >= _WIDE and work.batch_size > 1:
        return 16
    if _parameters(work.sizes) > _FEW_PARAMETERS:
        return 32
    chunks = (128, 96, 64, 48, 32) if work.drawn else (64, 48, 32)
    return min(chunks, key=lambda chunk: -(-share // chunk) * (chunk + _BESIDE))


def cost_members_last(work: Work) -> float:
    """Nanoseconds for a step of a member with the members last."""
    sizes, n = work.sizes, work.batch_size
    return (
        (_FLOP_MEMBERS_LAST * 6 * n + _PARAMETER_MEMBERS_LAST) * _parameters(sizes)
        + _UNIT * n * sum(sizes[1:])
        + (_OWN_BATCH + _OWN_LAST * (n - 1) * (sizes[0] + sizes[-1])) * work.own_batches
    )


def cost_stacked(work: Work) -> float:
    """Nanoseconds for a step of a member with the members stacked."""
    sizes, n, layers = work.sizes, work.batch_size, len(work.sizes) - 1
    gathered = _OWN * work.own_batches * n * (sizes[0] + sizes[-1])
    if n == 1:
        return _LOOP + _LOOPED * layers * _parameters(sizes) + gathered
    numbers = (_FLOP_STACKED * 6 * n + _PARAMETER_STACKED) * _parameters(sizes)
    return _PRODUCT * (3 * layers - 1) + numbers + gathered


def cost_one_by_one(work: Work) -> float:
    """Nanoseconds for a step of a member, one member after another, as sums."""
    sizes, n = work.sizes, work.batch_size
    numbers = (_FLOP_ALONE * 6 * n + _PARAMETER_ALONE) * _parameters(sizes)
    return _STEP_ALONE + numbers + _UNIT_ALONE * n * sum(sizes[1:])


def one_by_one_pays(work: Work) -> bool:
    """Whether members one by one, as sums, take less time than stacked products.

    Measured by itself, because the costs of stacked products were fitted to small networks, and are too high for wide
    ones: one by one takes 0.4 to 0.9 of their time.
    """
    n, parameters = work.batch_size, _parameters(work.sizes)
    return parameters >= 1000 and (n <= 4 or (n <= 10 and parameters <= 80_000))


# Microseconds for a step of all members on an H100, float32, fitted by hand to networks from 2-2-1 to 64-32-10, batches
# from 4 to 100 and 16 to 65,536 members: within a factor of two of most. Not fitted anew to stacked products since they
# take up to a fifth less.
_LAUNCH = 8  # stacked, to start the kernels of a layer
_STACKED_NUMBER = 1e-5  # a parameter or an activation
_IN_THREADS, _IN_THREADS_MEMBER = 9e-3, 3.5e-7  # a parameter and example: of one member; of one among many
_STEP_IN_WARPS = 5
_IN_WARPS, _IN_WARPS_MEMBER = 3e-4, 6.5e-7  # likewise, with units, inputs and examples padded

_MOST_EXAMPLES, _MOST_LAYERS = 100, 3
"""Of what was measured."""

_MOST_IN_THREAD, _MOST_IN_WARP = 256, 6400
"""Numbers that the registers of a thread and of a warp hold, or nearly so: parameters, gradients, optimizer states."""


def power_of_two(number: int) -> int:
    """The number, or the next power of two."""
    return 1 << (number - 1).bit_length()


def _padded_weights(sizes: tuple[int, ...]) -> int:
    return sum(power_of_two(inputs) * power_of_two(units) for inputs, units in pairwise(sizes))


def _thread_holds(sizes: tuple[int, ...], per_parameter: float) -> bool:
    return _parameters(sizes) * per_parameter <= _MOST_IN_THREAD


def _warp_holds(sizes: tuple[int, ...], per_parameter: float) -> bool:
    return (_padded_weights(sizes) + sum(map(power_of_two, sizes[1:]))) * per_parameter <= _MOST_IN_WARP


def kernel_holds(sizes: tuple[int, ...], per_parameter: float) -> bool:
    """Whether a thread or a warp holds a network of these sizes, with so many numbers for each parameter."""
    return _thread_holds(sizes, per_parameter) or _warp_holds(sizes, per_parameter)


def in_threads(members: int, sizes: tuple[int, ...], n: int, per_parameter: float) -> bool:
    """Whether, in one kernel, each thread carries a network, and not each warp; one of them holds it."""
    if not _thread_holds(sizes, per_parameter) or not _warp_holds(sizes, per_parameter):
        return _thread_holds(sizes, per_parameter)
    return _cost_in_threads(members, sizes, n) < _cost_in_warps(members, sizes, n)


def _cost_in_threads(members: int, sizes: tuple[int, ...], n: int) -> float:
    return n * _parameters(sizes) * max(_IN_THREADS, _IN_THREADS_MEMBER * members)


def _cost_in_warps(members: int, sizes: tuple[int, ...], n: int) -> float:
    return _STEP_IN_WARPS + power_of_two(n) * _padded_weights(sizes) * max(_IN_WARPS, _IN_WARPS_MEMBER * members)


def kernel_pays(work: Work, per_parameter: float) -> bool:
    """Whether, on a GPU, one kernel that holds such networks is known to take less time than stacked products."""
    members, sizes, n = work.members, work.sizes, work.batch_size
    gathered = work.own_batches and n > 1  # before the kernel starts: it took longer than the usual loop
    if n > _MOST_EXAMPLES or len(sizes) > _MOST_LAYERS + 1 or gathered:
        return False
    stacked = _LAUNCH * (len(sizes) - 1) + _STACKED_NUMBER * members * (_parameters(sizes) + n * sum(sizes[1:]))
    cost = _cost_in_threads if in_threads(members, sizes, n, per_parameter) else _cost_in_warps
    return cost(members, sizes, n) < stacked


def _parameters(sizes: tuple[int, ...]) -> int:
    return sum((inputs + 1) * units for inputs, units in pairwise(sizes))


def cut_into_groups(layout: Layout, members: int) -> tuple[int, range]:
    """The members of a group, and where each group starts: groups of equal size, some chunks each."""
    chunks = -(-members // layout.chunk)
    groups = -(-chunks // max(1, _GROUP // layout.chunk))
    groups = min(chunks, -(-groups // layout.threads) * layout.threads)
    size = -(-chunks // groups) * layout.chunk
    return size, range(0, members, size)


_GROUP = 2**15
"""Members of a group at the most."""
