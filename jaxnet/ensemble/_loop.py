"""The compiled loop over the epochs of a chunk of members: each is as if alone, and stops by itself.

A chunk keeps its members on one axis, the first or the last, as its layout says; what differs between members is
mapped over that axis, and what they share stays single. A member that has stopped keeps its state while others go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from jaxnet import _loop as solo
from jaxnet._loop import Best, all_finite, cut, rows_of, shuffled
from jaxnet._numeric import portions, wide
from jaxnet._one_function import QUICKLY, in_one_function
from jaxnet._sharding import take
from jaxnet.backprop import backprop, backprop_as_sums
from jaxnet.ensemble._arguments import optimizer_of
from jaxnet.ensemble._gradients import gradients
from jaxnet.ensemble._layouts import ONE_BY_ONE, ONE_KERNEL, Layout, power_of_two
from jaxnet.ensemble._one_kernel import optimizer_step, run_epochs
from jaxnet.steps import State, make_step


class Given(NamedTuple):
    """What members train with; each array is either shared, or has a leading axis of members."""

    key: Any
    data: Any  # (x, y) or (x, y, weights)
    validation: Any
    subset: Any  # the rows of data that a member trains on
    l2: Any
    hyperparams: Any  # in the order of the plan's names


@dataclass(frozen=True)
class Plan:
    """What the compiled loop is specialised to."""

    solo: solo.Plan  # its optimizer is a function of the hyperparameters, where names are given
    names: tuple[str, ...] | None
    own: Given  # of bool: which arrays have a leading axis of members
    layout: Layout
    every: int  # epochs between two records of the history
    capacity: int = 1  # records in one compiled call, at the most


class Loop(NamedTuple):
    """What a chunk of m members carries from epoch to epoch; (m,) where nothing else is said."""

    epoch: Array  # (): epochs that the members who go on have done
    state: State  # of a member that failed: from before the epoch in which it failed
    done: Array  # the number of epochs done
    failed: Array  # whether a cost or parameters were not finite
    best: Best | None


def member_plan(plan: Plan, hyperparams: tuple[Array, ...]) -> solo.Plan:
    """The plan of one member, whose optimizer is made from its hyperparameters."""
    if plan.names is None:
        return plan.solo
    return replace(plan.solo, optimizer=optimizer_of(plan.solo.optimizer, plan.names, hyperparams))


def split(own: Any, given: Any) -> tuple[Any, Any]:
    """What is members' own, and what they share, each with None in the place of the other."""
    return (
        jax.tree.map(lambda own, array: array if own else None, own, given),
        jax.tree.map(lambda own, array: None if own else array, own, given),
    )


def merge(own: Any, owned: Any, common: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(lambda own, array, shared: array if own else shared, own, owned, common)


def axes(own: Any, axis: int) -> Any:
    """The axes to map over, for arrays that are members' own or shared."""
    return jax.tree.map(lambda own: axis if own else None, own)


# ----------------------------------------------------------------------------------------------------------------------
# One epoch


class _Chunk(NamedTuple):
    """The members of a chunk, laid out for the loop."""

    plan: Plan
    members: int
    given: Given  # without subset: each member's data are its own then
    own: Given

    @property
    def axis(self) -> int:
        return self.plan.layout.axis

    def examples_axis(self, own: bool) -> int:
        """Where the axis of examples lies in data, or a batch, that is members' own or shared."""
        return 1 if own and self.axis == 0 else 0

    def loop(self, f: Callable[..., Any], state: State, *args: Any, required: bool = False) -> Any:
        """``f(state, *args)``, for a loop of many small operations, or one of its iterations."""
        if not self.plan.solo.one_function:
            return f(state, *args)
        as_sums = self.plan.solo.gradient is backprop_as_sums
        # The loss may be a product.
        return in_one_function(f, state, *args, products=int(as_sums), required=required and as_sums)

    @property
    def examples(self) -> int:
        """How many examples each member has."""
        return self.given.data[1].shape[self.examples_axis(self.own.data[1])]

    @property
    def own_order(self) -> bool:
        return self.own.key and self.plan.solo.batch_size < self.examples

    @property
    def own_batch(self) -> tuple[bool, ...]:
        """Which arrays of a batch have the axis of members."""
        return tuple(own or self.own_order for own in self.own.data)


def _chunk(plan: Plan, members: int, given: Given) -> _Chunk:
    own = plan.own
    if given.subset is not None:
        data = jax.vmap(rows_of, in_axes=(axes(own.data, 0), 0 if own.subset else None))(given.data, given.subset)
        given, own = given._replace(data=data, subset=None), own._replace(data=(True,) * len(data), subset=None)

    def laid_out(arrays: Any, own: Any) -> Any:
        axis = plan.layout.axis
        return jax.tree.map(lambda own, array: jnp.moveaxis(array, 0, axis) if own else array, own, arrays)

    given = given._replace(data=laid_out(given.data, own.data), validation=laid_out(given.validation, own.validation))
    return _Chunk(plan, members, given, own)


Step = Callable[[State, tuple[Array, ...]], tuple[State, Array]]


def _step(chunk: _Chunk) -> Step:
    """A step of each member, in the chunk's layout: ``(states, batch) -> (states, costs)``, costs of a wide dtype."""
    plan, given, own, axis = chunk.plan, chunk.given, chunk.own, chunk.axis

    def member(state: State, batch: Any, l2: Any, hyperparams: Any, found: Any) -> tuple[State, Array]:
        one = member_plan(plan, hyperparams)

        def found_first(params: Any, *arguments: Any) -> tuple[Array, Any]:
            # What was found for all members at once; optimizers with a line search ask at other parameters, too.
            return found if params is state.params else one.gradient(params, *arguments)

        gradient = one.gradient if found is None else found_first
        state, metrics = make_step(one.optimizer, solo.with_l2(one, l2), gradient)(state, batch)
        return state, metrics["cost"]

    in_axes = (axis, axes(chunk.own_batch, axis), axes(own.l2, 0), axes(own.hyperparams, 0), (0, axis))

    def step(state: State, batch: tuple[Array, ...]) -> tuple[State, Array]:
        found = None
        if plan.solo.gradient is backprop and (axis == -1 or jax.default_backend() == "cpu"):
            found = gradients(axis == -1, state.params, batch, chunk.own_batch, plan.solo.net, given.l2)
        mapped = jax.vmap(member, in_axes if found else (*in_axes[:-1], None), out_axes=(axis, 0))
        state, costs = mapped(state, batch, given.l2, given.hyperparams, found)
        return state, costs.astype(wide(costs.dtype))

    return step


def _one_by_one(chunk: _Chunk, state: State, batches: tuple[Array, ...]) -> tuple[State, Array]:
    """All steps of one member, and then of the next; and the costs of each step, (steps, m)."""
    own = (chunk.own_batch, chunk.own.l2, chunk.own.hyperparams)
    batches = jax.tree.map(lambda own, array: jnp.moveaxis(array, 1, 0) if own else array, chunk.own_batch, batches)
    owned, common = split(own, (batches, chunk.given.l2, chunk.given.hyperparams))

    def member(arguments: tuple[State, Any]) -> tuple[State, Array]:
        # With an axis of one member, for which XLA's loops over sums are faster than without.
        state, owned = jax.tree.map(lambda leaf: leaf[None], arguments)
        batches, l2, hyperparams = merge(own, owned, common)
        batches = jax.tree.map(lambda own, a: jnp.moveaxis(a, 0, 1) if own else a, chunk.own_batch, batches)
        one = chunk._replace(members=1, given=chunk.given._replace(l2=l2, hyperparams=hyperparams))
        state, costs = one.loop(partial(lax.scan, _step(one)), state, batches, required=True)
        return jax.tree.map(lambda leaf: leaf[0], state), costs[:, 0]

    state, costs = lax.map(member, (state, owned))
    return state, costs.T


def _in_one_kernel(
    chunk: _Chunk, state: State, batches: tuple[Array, ...], own: tuple[bool, ...], epochs: ArrayLike, records: int
) -> tuple[State, Array]:
    """So many epochs of all members through the same batches, and the costs of each, or of the last, (records, m)."""
    plan, given = chunk.plan, chunk.given

    def step(state: State, cost: Array, grads: Any, hyperparams: tuple[Array, ...]) -> State:
        return optimizer_step(member_plan(plan, hyperparams).optimizer, state, cost, grads)

    net = plan.solo.net
    state, costs = run_epochs(step, state, batches, own, net, given.l2, given.hyperparams, epochs, records)
    return state, costs.astype(wide(costs.dtype))


def _on_all_examples(chunk: _Chunk, state: State, epochs: ArrayLike, records: int) -> tuple[State, Array]:
    """The same, where a batch is all examples."""
    return _in_one_kernel(chunk, state, tuple(a[None] for a in chunk.given.data), chunk.own.data, epochs, records)


def _steps(chunk: _Chunk, state: State, batches: tuple[Array, ...]) -> tuple[State, Array]:
    """A step through each batch, and the costs of each, (steps, m); one kernel has a cost for all of them, (1, m)."""
    if chunk.plan.layout.name == ONE_KERNEL:
        return _in_one_kernel(chunk, state, batches, chunk.own_batch, 1, 1)
    if chunk.plan.layout.name == ONE_BY_ONE:
        return _one_by_one(chunk, state, batches)
    return chunk.loop(partial(lax.scan, _step(chunk)), state, batches)


def _epoch(chunk: _Chunk, state: State, number: Array) -> tuple[State, Array]:
    """One epoch of each member: ``(states, mean costs over the examples)``, finite where all costs of steps are."""
    plan, data, m = chunk.plan, chunk.given.data, chunk.members

    def block(state: State, rows: Array) -> tuple[State, tuple[Array, Array | None]]:
        batches = _batches(chunk, rows)
        state, costs = _steps(chunk, state, batches)
        return state, (costs, _shares(chunk, batches, costs.dtype))

    if plan.solo.batch_size == chunk.examples:
        if plan.layout.name in (ONE_KERNEL, ONE_BY_ONE):
            state, (costs,) = _steps(chunk, state, tuple(array[None] for array in data))
            return state, costs
        return chunk.loop(_step(chunk), state, data)

    order = _order(chunk, number)
    parts = []
    features = data[0].size // chunk.examples * (m if chunk.own_order and not chunk.own.data[0] else 1)
    for blocks, steps, size in cut(chunk.examples, plan.solo.batch_size, features):
        rows, order = jnp.split(order, [blocks * steps * size], axis=-1)
        rows = rows.reshape(*rows.shape[:-1], blocks, steps, size)
        state, (costs, shares) = lax.scan(block, state, jnp.moveaxis(rows, -3, 0))
        costs = costs.reshape(-1, m)
        if shares is None:  # the same in all steps, and not carried out of the loop: that is a kernel more on a GPU
            shares = jnp.full((blocks * steps, m), size, costs.dtype)
        # One kernel has a cost for each block, and not for each step.
        parts.append((costs, jnp.sum(shares.reshape(len(costs), -1, m), axis=1)))
    costs, shares = (jnp.concatenate(part) for part in zip(*parts, strict=True))
    return state, jnp.sum(costs * portions(shares, axis=0), axis=0)


def _order(chunk: _Chunk, number: Array) -> Array:
    """The order of the examples in an epoch: (n,), or (m, n) where each member has its own."""

    def order(key: Array) -> Array:
        return shuffled(jax.random.fold_in(key, number), chunk.examples)

    return jax.vmap(order)(chunk.given.key) if chunk.own_order else order(chunk.given.key)


def _batches(chunk: _Chunk, rows: Array) -> tuple[Array, ...]:
    """The batches of some steps, steps first: of rows (steps, size), or (m, steps, size)."""

    def of(array: Array, own: bool) -> Array:
        if not own and not chunk.own_order:
            return take(array, rows)
        in_axes = (chunk.axis if own else None, 0 if chunk.own_order else None)
        out_axes = 1 if chunk.axis == 0 else -1
        return jax.vmap(take, in_axes, out_axes)(array, rows)

    return tuple(map(of, chunk.given.data, chunk.own.data))


def _shares(chunk: _Chunk, batches: tuple[Array, ...], dtype: DTypeLike) -> Array | None:
    """What the examples of each step count together, (steps, m); None where each counts as one."""
    if len(batches) < 3:
        return None
    weights, own = batches[2], chunk.own_batch[2]
    shares = jnp.sum(weights, axis=1 + chunk.examples_axis(own), dtype=dtype)
    return jnp.broadcast_to(shares if own else shares[:, None], (len(weights), chunk.members))


def _measure(chunk: _Chunk, params: Any) -> dict[str, Array]:
    """The validation cost and the metrics of each member."""
    plan, given, own, axis = chunk.plan, chunk.given, chunk.own, chunk.axis

    def member(params: Any, data: Any, validation: Any, l2: Any) -> dict[str, Array]:
        values = solo.measure(plan.solo, solo.with_l2(plan.solo, l2), params, data, validation)
        return {name: _as_float(value) for name, value in values.items()}

    return jax.vmap(member, in_axes=(axis, axes(own.data, axis), axes(own.validation, axis), axes(own.l2, 0)))(
        params, given.data, given.validation, given.l2
    )


def _as_float(value: Array) -> Array:
    """A count or a truth as a float: the history of a member that stops before others is filled with nan."""
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)


# ----------------------------------------------------------------------------------------------------------------------
# Many epochs


def _moved(tree: Any, source: int, destination: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, source, destination), tree)


def _select(axis: int, mask: Array, new: Any, old: Any) -> Any:
    """The new values of the members in ``mask``, and the old ones of the others."""

    def select(new: Array, old: Array) -> Array:
        others = tuple(range(1, new.ndim)) if axis == 0 else tuple(range(new.ndim - 1))
        return jnp.where(jnp.broadcast_to(jnp.expand_dims(mask, others), new.shape), new, old)

    return jax.tree.map(select, new, old)


def _active(loop: Loop, patience: ArrayLike | None) -> Array:
    """Who goes on."""
    go = ~loop.failed
    if loop.best is not None:
        go &= loop.epoch - 1 - loop.best.epoch < jnp.asarray(patience)
    return go


def _names(chunk: _Chunk, params: Any) -> dict[str, Any]:
    """What an epoch is recorded by: shapes and dtypes."""
    costs = {"cost": jax.ShapeDtypeStruct((chunk.members,), wide(chunk.given.data[0].dtype))}
    return costs | jax.eval_shape(lambda params: _measure(chunk, params), params)


_BLOCK = 32
"""Epochs in a block at the most."""


def _repeated(
    chunk: _Chunk,
    times: Array,
    most: int,
    epoch: Callable[[Array, tuple[State, Any]], tuple[State, Any]],
    carry: tuple[State, Any],
) -> tuple[State, Any]:
    """So many epochs; on a GPU in rounds of a known number, because a loop of unknown length asks the host each time.

    The epoch is compiled twice there, for the rounds and for what is left. Rounds are longer, 16 to 64 epochs, where
    there may be more, ``most`` of them.
    """
    zero = jnp.zeros_like(times)
    if jax.default_backend() == "cpu":
        # Another function each time that this is traced, or JAX would not trace the epoch again.
        return chunk.loop(lambda *carry: lax.fori_loop(zero, times, lambda i, c: epoch(i, c), carry), *carry)

    length = min(64, max(16, power_of_two(math.isqrt(most))))

    def round_of_epochs(i: Array, carry: tuple[State, Any]) -> tuple[State, Any]:
        return lax.fori_loop(0, length, lambda j, carry: epoch(i * length + j.astype(i.dtype), carry), carry)

    rounds = times // length
    return lax.fori_loop(rounds * length, times, epoch, lax.fori_loop(zero, rounds, round_of_epochs, carry))


_FEW_STEPS = 4
"""In stacked epochs of more steps, asking after each whether members are finite costs little."""


def _in_blocks(chunk: _Chunk, loop: Loop) -> bool:
    """Whether members are asked only after many epochs whether they are finite."""
    few_steps = chunk.axis == -1 or chunk.examples <= _FEW_STEPS * chunk.plan.solo.batch_size
    return loop.best is None and few_steps


def _epochs(chunk: _Chunk, state: State, number: Array, stride: Array) -> tuple[State, dict[str, Array]]:
    """``stride`` epochs from epoch ``number`` on, and their records: (_BLOCK, m), or (1, m) where not each is recorded.

    What is not finite stays so: the last cost is not finite from where one was not.
    """
    every = chunk.plan.every == 1
    rows = {
        name: jnp.zeros((_BLOCK if every else 1, chunk.members), value.dtype)
        for name, value in _names(chunk, state.params).items()
    }

    def record(rows: dict[str, Array], i: ArrayLike, values: dict[str, Array]) -> dict[str, Array]:
        row = i if every else 0
        written = {name: lax.dynamic_update_index_in_dim(rows[name], value, row, 0) for name, value in values.items()}
        return rows | written

    def epoch(i: Array, carry: tuple[State, Any]) -> tuple[State, Any]:
        state, rows = carry
        state, costs = _epoch(chunk, state, number + i)
        if every:
            return state, record(rows, i, {"cost": costs} | _measure(chunk, state.params))
        return state, rows | {"cost": costs[None] + 0 * rows["cost"]}

    whole = chunk.plan.layout.name == ONE_KERNEL and chunk.plan.solo.batch_size == chunk.examples
    if whole and not (every and len(rows) > 1):
        state, costs = _on_all_examples(chunk, state, stride, len(rows["cost"]))
        rows |= {"cost": costs}
    else:
        state, rows = _repeated(chunk, stride, _BLOCK if every else chunk.plan.every, epoch, (state, rows))
    return state, rows if every else record(rows, 0, _measure(chunk, state.params))


def _advance(chunk: _Chunk, loop: Loop, stride: Array, patience: ArrayLike | None) -> tuple[Loop, dict[str, Array]]:
    """``stride`` epochs of the members who go on, and their records, first the rows that were made: nan for the others.

    Whether members are finite is asked once, after the last epoch: this keeps the loop over short epochs to a few
    kernels. Where one is not, after more than one epoch, the loop is left as it was.
    """
    go = _active(loop, patience)
    if _in_blocks(chunk, loop):
        state, values = _epochs(chunk, loop.state, loop.epoch, stride)
    else:
        state, costs = _epoch(chunk, loop.state, loop.epoch)
        values = {name: value[None] for name, value in ({"cost": costs} | _measure(chunk, state.params)).items()}
    # A short block leaves rows that no one has written.
    made = lax.broadcasted_iota(stride.dtype, values["cost"].shape, 0) < stride
    finite = jnp.all(jnp.isfinite(values["cost"]) | ~made, axis=0)
    finite &= jax.vmap(all_finite, in_axes=chunk.axis)(state.params)
    taken = (stride == 1) | jnp.all(finite | ~go)
    failed = loop.failed | (go & ~finite & taken)
    go &= finite & taken
    state = _select(chunk.axis, go, state, loop.state)
    best = loop.best
    if best is not None:
        (cost,) = values["validation_cost"]
        better = go & (cost < best.cost)
        best = Best(
            jnp.where(better, cost, best.cost),
            jnp.where(better, loop.epoch, best.epoch),
            _select(chunk.axis, better, state, best.state),
        )
    values = {name: jnp.where(made & go[None], value, jnp.nan) for name, value in values.items()}
    epoch = jnp.where(taken, loop.epoch + stride, loop.epoch)
    return Loop(epoch, state, jnp.where(go, loop.done + stride, loop.done), failed, best), values


def _run_chunk(
    plan: Plan, loop: Loop, given: Given, patience: ArrayLike | None, begin: ArrayLike, end: ArrayLike
) -> tuple[Loop, dict[str, Array]]:
    """Epochs until ``end``, or the end of the last member; with their history, (capacity, m)."""
    chunk = _chunk(plan, len(loop.done), given)
    in_blocks = _in_blocks(chunk, loop)
    length = _BLOCK if in_blocks and plan.every == 1 else 1

    def goes_on(carry: tuple[Loop, dict[str, Array], Array]) -> Array:
        return (carry[0].epoch < end) & jnp.any(_active(carry[0], patience))

    def some_epochs(carry: tuple[Loop, dict[str, Array], Array]) -> tuple[Loop, dict[str, Array], Array]:
        before, history, single = carry
        most = length if plan.every == 1 or not in_blocks else plan.every - before.epoch % plan.every
        stride = jnp.minimum(jnp.where(before.epoch < single, 1, most), jnp.asarray(end) - before.epoch)
        loop, values = _advance(chunk, before, stride, patience)
        # Out of bounds, and so dropped, where no record is due.
        first = before.epoch // plan.every - jnp.asarray(begin) // plan.every
        due = (loop.epoch % plan.every == 0) | (length > 1)
        first = jnp.where(due, first, jnp.asarray(plan.capacity + length, first.dtype))
        history = {name: lax.dynamic_update_slice_in_dim(history[name], row, first, 0) for name, row in values.items()}
        return loop, history, jnp.where(loop.epoch == before.epoch, before.epoch + stride, single)

    # The rows of a last, short block, and records that are not due, go behind those that count.
    history = {
        name: jnp.full((plan.capacity + length, len(loop.done)), jnp.nan, value.dtype)
        for name, value in _names(chunk, loop.state.params).items()
    }
    loop, history, _ = lax.while_loop(goes_on, some_epochs, (loop, history, loop.epoch))
    return loop, history


@partial(jax.jit, static_argnames=("plan", "size"), compiler_options=QUICKLY)
def begin(
    plan: Plan, params: Any, own: Given, common: Given, patience: ArrayLike | None, first: ArrayLike, size: int
) -> tuple[Loop, Given]:
    """The loops before the first epoch, and what is members' own, of so many members from ``first`` on, chunks first.

    Past the end there is the last member again.
    """

    def chunks_first(leaf: Array) -> Array:
        return leaf.reshape(-1, plan.layout.chunk, *leaf.shape[1:])

    def member(params: Any, key: Array, hyperparams: Any) -> State:
        return solo.first_state(member_plan(plan, hyperparams), params, key)

    rows = jnp.minimum(first + jnp.arange(size), len(params[0].bias) - 1)
    params, own = jax.tree.map(lambda leaf: leaf[rows], (params, own))
    given = merge(plan.own, own, common)
    in_axes = (0, axes(plan.own.key, 0), axes(plan.own.hyperparams, 0))
    state = jax.tree.map(chunks_first, jax.vmap(member, in_axes)(params, given.key, given.hyperparams))
    if plan.layout.axis:
        state = _moved(state, 1, -1)
    members = (size // plan.layout.chunk, plan.layout.chunk)
    best = None
    if patience is not None:
        dtype = params[0].weight.dtype
        best = Best(jnp.full(members, jnp.inf, dtype), jnp.full(members, -1, jnp.int32), state)
    loops = Loop(jnp.zeros(members[0], jnp.int32), state, jnp.zeros(members, jnp.int32), jnp.zeros(members, bool), best)
    return loops, jax.tree.map(chunks_first, own)


@partial(jax.jit, static_argnames="plan", donate_argnames="loops")
def run(
    plan: Plan,
    loops: Loop,
    own: Given,
    common: Given,
    patience: ArrayLike | None,
    begin: ArrayLike,
    end: ArrayLike,
) -> tuple[Loop, dict[str, Array]]:
    """Run chunks from epoch ``begin`` to ``end``, or as long as a member of theirs goes on; with their history."""

    def chunk(arguments: tuple[Loop, Given]) -> tuple[Loop, dict[str, Array]]:
        loop, own = arguments
        given = merge(plan.own, own, common)
        return _run_chunk(plan, loop, given, patience, begin, end)

    return lax.map(chunk, (loops, own))


@partial(jax.jit, static_argnames="plan", compiler_options=QUICKLY)
def finish(plan: Plan, loops: Loop) -> tuple[State, Array, Array, Array | None]:
    """States, epochs done, who failed, and the best epochs, each with a leading axis of members."""

    def members_first(tree: Any) -> Any:
        if plan.layout.axis:
            tree = _moved(tree, -1, 1)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)

    state, done, failed = (members_first(part) for part in (loops.state, loops.done, loops.failed))
    if loops.best is None:
        return state, done, failed, None
    best = members_first(loops.best)
    stopped = ~failed & (best.epoch >= 0)
    return _select(0, stopped, best.state, state), done, failed, jnp.where(stopped, best.epoch, -1)


@partial(jax.jit, static_argnames="plan")
def replay(plan: Plan, state: State, epoch: Array, own: Given, common: Given) -> tuple[State, Array, Array]:
    """Failed epochs again, up to the step that fails: ``(states before it, steps, their costs)``."""

    def member(state: State, epoch: Array, own: Given) -> tuple[State, Array, Array]:
        given = merge(plan.own, own, common)
        data = given.data if given.subset is None else rows_of(given.data, given.subset)
        return solo.replay(member_plan(plan, given.hyperparams), state, given.key, epoch, data, given.l2)

    return jax.vmap(member)(state, epoch, own)
