"""Training many members: groups of chunks, driven from Python with checks, progress and warnings."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from threading import Event, Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnet import _loop as solo
from jaxnet._arguments import (
    check_concrete,
    check_functions,
    check_hashable,
    check_values,
    checked_metrics,
    checked_options,
)
from jaxnet._one_function import COMPILER_OPTIONS, QUICKLY, NotOneFunctionError, in_transformation, may_be_one_function
from jaxnet._progress import progress_bar
from jaxnet._sharding import with_automatic_axes
from jaxnet._validate import checked_count
from jaxnet.backprop import backprop, backprop_as_sums
from jaxnet.ensemble._arguments import (
    check_finite,
    check_weights_of_subset,
    checked_data,
    checked_hyperparams,
    checked_key,
    checked_l2,
    checked_subset,
    first,
    not_finite_parts,
    optimizer_of,
)
from jaxnet.ensemble._layouts import (
    MEMBERS_LAST,
    ONE_BY_ONE,
    ONE_KERNEL,
    Layout,
    Work,
    choose,
    cut_into_groups,
    kernel_pays,
    power_of_two,
)
from jaxnet.ensemble._loop import Given, Loop, Plan, begin, finish, replay, run, split
from jaxnet.ensemble._one_kernel import checked_numbers
from jaxnet.ensemble.members import check_kind, checked_members
from jaxnet.network import Network, Params
from jaxnet.steps import Gradient, Metric, State

__all__ = ["EnsembleResult", "Failures", "train"]


class Failures(NamedTuple):
    """Members that met a cost, or made parameters, that are not finite; one entry for each, by rising member.

    ``member``, ``epoch``, ``step``: integers (failures,), all counted from 0. ``cost``: the cost of that step.
    """

    member: np.ndarray
    epoch: np.ndarray
    step: np.ndarray
    cost: np.ndarray


class EnsembleResult(NamedTuple):
    """What `train` returns; arrays have a leading axis of members.

    ``params``, ``opt_state``: of each member as `jaxnet.train` returns them for it alone.
    ``history``: named arrays (members, records) as in `jaxnet.TrainResult`, one record for each ``record_every``
    epochs, nan after a member has stopped.
    ``epochs``: how many epochs each member has finished, (members,).
    ``best_epoch``: the epoch of each member's lowest validation cost, counted from 0; −1 where it has none, as for
    members that failed; None without ``patience``.
    ``failures``: which members stopped because a cost was not finite, and where; empty where none did.
    ``layout``: how members were trained together.
    """

    params: Any
    opt_state: Any
    history: dict[str, np.ndarray]
    epochs: np.ndarray
    best_epoch: np.ndarray | None
    failures: Failures
    layout: Layout


@with_automatic_axes
def train(
    key: Array,
    params: Params,
    data: Any,
    *,
    net: Network = Network(),
    optimizer: optax.GradientTransformation | Callable[..., optax.GradientTransformation],
    epochs: int,
    batch_size: int | None = None,
    gradient: Gradient = backprop,
    hyperparams: Mapping[str, Any] | None = None,
    subset: Any = None,
    validation: Any = None,
    metrics: Mapping[str, Metric] | None = None,
    patience: int | None = None,
    record_every: int = 1,
    progress: bool = False,
    layout: str | Layout | None = None,
) -> EnsembleResult:
    """Train many networks side by side, each as `jaxnet.train` would train it alone.

    Member k's result is that of ``jaxnet.train`` with its key, parameters, data, l2 and optimizer, but for rounding.
    Members stop by themselves, by early stopping or where a cost is not finite, and never touch each other.

    Parameters
    ----------
    key
        For the order of the examples: one typed key, and all members see the same batches; or keys (members,), such as
        ``jax.random.split(key, members)``, and each has its own order.
    params
        Layers with a leading axis of members, as from `init`.
    data
        ``(x, y)`` or ``(x, y, weights)``. Each array is shared, (n, inputs), (n, outputs), (n,), or has a leading axis
        of members: then it is each member's own.
    net
        As for `jaxnet.train`; ``l2`` may be one for each member, (members,).
    optimizer
        Any optax optimizer; with ``hyperparams``, a function that makes one from them, such as ``optax.sgd``.
    epochs, batch_size, gradient, metrics, patience
        As for `jaxnet.train`; metrics that count, or are true or false, are recorded as floats.
    hyperparams
        Arguments of ``optimizer`` by name, each one number or one for each member, (members,):
        ``{"learning_rate": jnp.geomspace(0.1, 10.0, members), "momentum": 0.9}``.
    subset
        Rows of the data that a member trains on, integers (members, n′); all if None.
    validation
        Like ``data``, and finite.
    record_every
        Measure, and record in the history, every so-manieth epoch. A history of every epoch takes more memory than the
        members themselves, where those are small.
    progress
        Show a progress bar (needs ``rich``), counting epochs of members.
    layout
        How members are trained together; measured costs choose if None. The name of a layout, or a whole `Layout`.

    Returns
    -------
    `EnsembleResult`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Warns
    -----
    RuntimeWarning
        If a member's cost, or the parameters that its step makes, are not finite. That member stops there, with its
        last finite parameters; ``failures`` says where. The others go on.

    >>> import jax, jaxnet, optax
    >>> from jaxnet import ensemble
    >>> params = ensemble.init(jax.random.key(1), 100, (2, 3, 1), scheme="normal")
    >>> rates = {"learning_rate": jnp.geomspace(0.1, 10.0, 100)}
    >>> result = ensemble.train(
    ...     jax.random.key(0), params, jaxnet.data.xor(), optimizer=optax.sgd, hyperparams=rates, epochs=1000
    ... )
    >>> result.history["cost"].shape
    (100, 1000)
    """
    made_here = jnp.zeros(())  # traced within jit, as all is
    check_concrete("ensemble.train", key, params, data, validation, net, hyperparams, subset, made_here)
    members, member = checked_members(params)
    dtype = member[0].weight.dtype
    check_kind(net)
    data = checked_data("data", members, member, data)
    subset = checked_subset(subset, members, data[1].shape[-2])
    check_weights_of_subset(data, subset)
    if validation is not None:
        validation = checked_data("validation", members, member, validation)
        check_finite("validation", validation)
    check_values(params)
    n = data[1].shape[-2] if subset is None else subset.shape[1]
    epochs, batch_size, patience = checked_options(n, epochs, batch_size, patience, validation)
    named_metrics = checked_metrics(metrics)
    names, values = checked_hyperparams(hyperparams, members, dtype, optimizer)
    make: Any = optimizer
    one = make if names is None else optimizer_of(make, names, first(values))
    check_functions(one, gradient)
    check_hashable("optimizer", make)
    if in_transformation():  # a traced number may hide in the optimizer's state
        check_concrete("ensemble.train", jax.make_jaxpr(one.init)(member).consts)
    given = Given(checked_key(key, members), data, validation, subset, checked_l2(net, members, dtype), values)
    sizes = (member[0].weight.shape[1], *(layer.bias.shape[0] for layer in member))
    own = _own(given)
    drawn = batch_size < n
    own_batches = drawn and (own.key or own.subset is not None or any(own.data))
    work = Work(members, sizes, batch_size, drawn, own_batches)
    record_every = min(checked_count("record_every", record_every, least=1), 2**30)  # within int32
    by_hand, may_be = gradient is backprop, may_be_one_function((params, given))

    def planned(as_sums: bool) -> Plan:
        chosen = _checked_layout(layout, work, by_hand, net, one, params, member, as_sums)
        as_sums &= chosen.name == ONE_BY_ONE
        one_function = as_sums or (may_be and chosen.name == MEMBERS_LAST)
        by = backprop_as_sums if as_sums else gradient
        alone = solo.Plan(make, replace(net, l2=0.0), by, named_metrics, batch_size, one_function)
        return Plan(alone, names, own, chosen, record_every)

    plan = planned(may_be and by_hand and solo.as_sums(member, batch_size, 1))
    kind = solo.kind_of(plan, params, given)
    plan = planned(False) if kind in solo.refused else plan
    arguments = (params, given, members, n, epochs, patience, progress)
    try:
        groups = _train_groups(plan, *arguments)
    except NotOneFunctionError:  # an optimizer that takes norms, for one
        solo.refused.add(kind)
        plan = planned(False)
        groups = _train_groups(plan, *arguments)
    everyone = _joined(groups, members)
    state, failures = everyone.state, Failures(*np.empty((4, 0), int))
    if np.any(everyone.failed):
        state, failures = _replayed(plan, everyone, given)
        _warn(failures, members, data)
    return EnsembleResult(
        state.params, state.opt_state, everyone.history, everyone.done, everyone.best_epoch, failures, plan.layout
    )


def _checked_layout(
    layout: str | Layout | None,
    work: Work,
    by_hand: bool,
    net: Network,
    optimizer: optax.GradientTransformation,
    params: Params,
    member: Params,
    as_sums: bool,
) -> Layout:
    """The layout that was asked for, or is chosen; ``member`` holds the shapes of one, and the optimizer is its own."""

    def kernel_takes_less() -> bool:
        if params[0].weight.dtype != jnp.float32 or not _on_hopper(params):
            return False
        leaves, tree = jax.tree.flatten(member)
        numbers = _numbers_in_kernel(work.sizes, replace(net, l2=0.0), optimizer, tree, tuple(leaves))
        return numbers is not None and kernel_pays(work, numbers)

    chosen = layout if isinstance(layout, Layout) else choose(layout, work, by_hand, kernel_takes_less, as_sums)
    if chosen.name in (MEMBERS_LAST, ONE_KERNEL) and not by_hand:
        raise ValueError(f"layout is {chosen.name!r}, which needs gradient=jaxnet.backprop; leave layout out")
    if chosen.name == ONE_KERNEL and layout is not None:
        checked_numbers(work.sizes, net, optimizer, member)
    return chosen


@lru_cache(maxsize=64)
def _numbers_in_kernel(
    sizes: tuple[int, ...], net: Network, optimizer: optax.GradientTransformation, tree: Any, shapes: tuple[Any, ...]
) -> float | None:
    """How many numbers one kernel holds for each parameter; None where a training does not fit into it."""
    try:
        return checked_numbers(sizes, net, optimizer, jax.tree.unflatten(tree, shapes))
    except ValueError:
        return None


def _on_hopper(params: Params) -> bool:
    """Whether they lie on one GPU of the kind that one kernel was measured on, or a later one."""
    weight = params[0].weight
    devices = weight.devices() if isinstance(weight, Array) else jax.devices()[:1]
    return len(devices) == 1 and all(float(getattr(device, "compute_capability", 0)) >= 9 for device in devices)


def _own(given: Given) -> Given:
    """Which arrays have a leading axis of members."""
    batch = (3, 3, 2)
    return Given(
        key=given.key.ndim == 1,
        data=tuple(array.ndim == ndim for array, ndim in zip(given.data, batch, strict=False)),
        validation=given.validation
        and tuple(array.ndim == ndim for array, ndim in zip(given.validation, batch, strict=False)),
        subset=None if given.subset is None else True,
        l2=None if given.l2 is None else given.l2.ndim == 1,
        hyperparams=tuple(value.ndim == 1 for value in given.hyperparams),
    )


# ----------------------------------------------------------------------------------------------------------------------
# Groups of chunks


class _Group(NamedTuple):
    """The members of some chunks, after their last epoch."""

    state: State
    done: np.ndarray
    failed: np.ndarray
    best_epoch: np.ndarray | None
    history: dict[str, np.ndarray]


def _train_groups(
    plan: Plan, params: Any, given: Given, members: int, n: int, epochs: int, patience: int | None, progress: bool
) -> list[_Group]:
    """Train the members in groups of equal size, some at once, each in a thread of its own."""
    size, starts = cut_into_groups(plan.layout, members)
    records = power_of_two(max(1, -(-epochs // plan.every)))  # so that runs of similar length share a program
    plan = replace(plan, capacity=max(1, min(solo.CAPACITY, records, 2**22 // size)))
    own, common = split(plan.own, given)
    wait = None if patience is None else np.int32(patience)
    stop, lock, shown = Event(), Lock(), [0]
    stride = _first_call(plan, params, n, given.validation, size)
    groups: list[_Group] = []
    running: deque[Future[Any]] = deque()

    with (
        progress_bar(epochs * members, "epochs of members") if progress else nullcontext() as show,
        ThreadPoolExecutor(plan.layout.threads) as pool,
    ):

        def report(epochs: int, costs: np.ndarray, start: int) -> None:
            with lock:
                shown[0] += epochs * min(size, members - start)
                if show is not None:
                    show(shown[0], {"cost": np.nanmean(costs)} if np.isfinite(costs).any() else {})

        def collect() -> None:
            loops, history = running.popleft().result()
            state, *rest = finish(plan, loops)
            done, failed, best_epoch = jax.tree.map(np.array, solo.fetched(rest))  # the caller's, to write to
            groups.append(_Group(state, done, failed, best_epoch, history))

        try:
            for start in starts:
                if len(running) > plan.layout.threads:  # a group waits, so that no thread does
                    collect()
                loops, chunks = begin(plan, params, own, common, wait, start, size)
                program = _compiled(plan, loops, chunks, common, wait)
                tell = partial(report, start=start)
                running.append(
                    pool.submit(_drive, program, plan, loops, chunks, common, wait, epochs, stride, stop, tell)
                )
            while running:
                collect()
        finally:
            stop.set()
    return groups


def _first_call(plan: Plan, params: Any, n: int, validation: Any, size: int) -> int:
    """Epochs of the first call of a group of ``size`` members with n examples each."""
    examples = n + (0 if validation is None else validation[1].shape[-2])
    numbers = size * sum(leaf.size // len(leaf) for leaf in jax.tree.leaves(params))
    steps = -(-n // plan.solo.batch_size) * (size // plan.layout.chunk)
    return solo.first_call(steps, numbers * examples)


def _drive(
    program: Any,
    plan: Plan,
    loops: Loop,
    own: Given,
    common: Given,
    patience: np.int32 | None,
    epochs: int,
    stride: int,
    stop: Event,
    report: Callable[[int, np.ndarray], None],
) -> tuple[Loop, dict[str, np.ndarray]]:
    """Train a group to its end, the first call over ``stride`` epochs; its last loops, and its history."""
    histories: list[dict[str, np.ndarray]] = []
    done = 0
    while True:
        start, end = done, min(epochs, done + min(stride, plan.capacity * plan.every))
        began = time.perf_counter()
        with jax.debug_nans(False):  # the history of a member that stops before others is filled with nan
            loops, history = program(loops, own, common, patience, np.int32(start), np.int32(end))
        epoch, history = solo.fetched((loops.epoch, history))
        records = end // plan.every - start // plan.every
        histories.append({name: _by_member(values, records) for name, values in history.items()})
        seconds = time.perf_counter() - began
        ended = bool(np.all(epoch < end))
        report((epochs if ended else end) - start, histories[-1]["cost"][:, -1:])
        done = end
        if ended or done == epochs or stop.is_set():
            break
        stride = solo.next_call(end - start, seconds)
    missing = epochs // plan.every - done // plan.every
    history = {name: np.concatenate([part[name] for part in histories], axis=1) for name in histories[0]}
    return loops, {
        name: np.pad(values, ((0, 0), (0, missing)), constant_values=np.nan) for name, values in history.items()
    }


def _by_member(values: np.ndarray, records: int) -> np.ndarray:
    """A history (chunks, records, members of a chunk) as (members, records), the records that were made."""
    chunks, _, members = values.shape
    return np.moveaxis(values[:, :records], 1, -1).reshape(chunks * members, records)


def _sharding(leaf: Any) -> Any:
    """Where an array lies, if it may lie nowhere else."""
    return leaf.sharding if isinstance(leaf, Array) and leaf.committed else None


@lru_cache(maxsize=64)
def _compiled_for(plan: Plan, tree: Any, shapes: tuple[Any, ...], _config: tuple[Any, ...]) -> Any:
    options: Any = None
    if jax.default_backend() == "cpu":
        # XLA's default is 256 bits; processors without wider registers take two instructions then.
        options = {"xla_cpu_prefer_vector_width": 512}
        if plan.solo.one_function:
            options |= COMPILER_OPTIONS
    arguments = jax.tree.unflatten(tree, shapes)
    if in_transformation():  # a traced number may hide in the optimizer's update, or a metric
        check_concrete("ensemble.train", jax.make_jaxpr(partial(run, plan))(*arguments).consts)
    return run.lower(plan, *arguments).compile(options)


def _compiled(plan: Plan, loops: Loop, own: Given, common: Given, patience: np.int32 | None) -> Any:
    """The compiled loop; compiled here, because JAX's settings belong to threads."""
    zero = np.int32(0)
    leaves, tree = jax.tree.flatten((loops, own, common, patience, zero, zero))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(leaf)) for leaf in leaves)
    config: Any = jax.config
    return _compiled_for(plan, tree, shapes, (config.jax_enable_x64, config.jax_default_matmul_precision))


@jax.jit
def _rows(tree: Any, rows: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


@jax.jit
def _with_rows(tree: Any, rows: Array, new: Any) -> Any:
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), tree, new)


def _joined(groups: list[_Group], members: int) -> _Group:
    """All members, without those that only filled the last group."""
    if len(groups) == 1 and len(groups[0].done) == members:
        return groups[0]
    states = _concatenated(tuple(group.state for group in groups), members)
    hosts = (group._replace(state=None) for group in groups)
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:members], *hosts)._replace(state=states)


@partial(jax.jit, static_argnames="members", compiler_options=QUICKLY)
def _concatenated(states: tuple[State, ...], members: int) -> State:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:members], *states)


# ----------------------------------------------------------------------------------------------------------------------
# Members that failed


def _replayed(plan: Plan, group: _Group, given: Given) -> tuple[State, Failures]:
    """The states of all members, those that failed taken up to the step that fails; and where that was."""
    failed = np.flatnonzero(group.failed)
    own, common = split(plan.own, given)
    state, steps, costs = group.state, [], []
    for start in range(0, len(failed), _REPLAYED_AT_ONCE):
        some = failed[start : start + _REPLAYED_AT_ONCE]
        padded = np.pad(some, (0, 2 ** (len(some) - 1).bit_length() - len(some)), mode="edge")
        after, step, cost = replay(plan, *_rows((state, group.done, own), padded), common)
        state = _with_rows(state, padded, after)
        steps.append(np.asarray(step)[: len(some)])
        costs.append(np.asarray(cost)[: len(some)])
    return state, Failures(failed, group.done[failed], np.concatenate(steps), np.concatenate(costs))


_REPLAYED_AT_ONCE = 256


def _warn(failures: Failures, members: int, data: Any) -> None:
    member, epoch, step, value = (column[0] for column in failures)
    what = "made parameters that are not finite" if np.isfinite(value) else f"met a cost of {value}"
    bad = not_finite_parts(data)
    hint = "try a smaller learning rate, or smaller initial weights"
    if bad:
        hint = f"{' and '.join(bad)} hold values that are not finite"
    warnings.warn(
        f"{len(failures.member)} of {members} members stopped, the first of them member {member}: epoch {epoch}, step "
        f"{step} (counted from 0) {what}; the parameters returned for them are the last finite ones, and the result's "
        f"failures list them; {hint}",
        RuntimeWarning,
        stacklevel=4,  # the caller of train, which is wrapped
    )
