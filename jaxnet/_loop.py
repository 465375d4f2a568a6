"""The compiled loop: many epochs in one call, with their history, best state, and stops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from jaxnet._numeric import portions, wide
from jaxnet._one_function import COMPILER_OPTIONS, NotOneFunctionError, in_one_function
from jaxnet._products import as_sums
from jaxnet._sharding import take
from jaxnet._validate import as_array, describe
from jaxnet.backprop import backprop, backprop_as_sums, cost
from jaxnet.network import Network
from jaxnet.steps import Gradient, Metric, State, make_step, takes_key

WIDE_VECTORS = COMPILER_OPTIONS | {"xla_cpu_prefer_vector_width": 512}
"""With what a loop that is one function is compiled: sums gain by vectors of 512 bits, and XLA's choice is 256."""


@dataclass(frozen=True)
class Plan:
    """What the compiled loop is specialised to."""

    optimizer: optax.GradientTransformation
    net: Network  # its l2 is passed apart, as data, unless it is the Python number 0
    gradient: Gradient
    metrics: tuple[tuple[str, Metric], ...]
    batch_size: int
    one_function: bool  # whether loops of small operations are compiled as one


class Best(NamedTuple):
    """The lowest validation cost so far, and the state after its epoch."""

    cost: Array
    epoch: Array
    state: State


class Loop(NamedTuple):
    """What the compiled loop carries from epoch to epoch."""

    epoch: Array  # the number of epochs done
    state: State
    finite: Array  # False: the last epoch met a cost or made parameters that are not finite
    best: Best | None


Batch = tuple[Array, ...]

_FEW = 2500
"""Examples times parameters: products of more take longer in one function."""

_SHORT = 10_000
"""Parameters of which a long update takes no longer on one core than on all."""


def few_products(params: Any, examples: int) -> bool:
    """Whether the products of so many examples with the weights take less time as loops in one function."""
    return examples == 1 or examples * sum(leaf.size for leaf in jax.tree.leaves(params)) <= _FEW


def products_of_gradient(plan: Plan, state: State) -> int:
    """How many products a step may hold, so that none is an optimizer's: two passes and a contraction, or a loss's."""
    return 1 if plan.gradient is backprop_as_sums else 3 * len(state.params)


def few_sums(state: State, examples: int, penalised: bool = False) -> bool:
    """Whether a gradient of so many examples takes less time as sums in one function, with the optimizer's update.

    That update uses one core there, and where it is long, it takes more than the sums of several examples gain. Of a
    single one the products are fast in one function as they are, and a penalty is not.
    """
    numbers, slots = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state.params, state.opt_state))
    short = examples == 1 or slots <= numbers or numbers <= _SHORT
    return short and as_sums(state.params, examples, 1 if penalised else 2)


def with_l2(plan: Plan, l2: Array | None) -> Network:
    return plan.net if l2 is None else replace(plan.net, l2=l2)


def first_state(plan: Plan, params: Any, key: Array) -> State:
    """The state before the first epoch."""
    # Epochs count up from 0, and fold in their number for the order of the examples.
    own = jax.random.fold_in(key, 2**32 - 1) if takes_key(plan.gradient) else None
    return State(params, plan.optimizer.init(params), own)


@partial(jax.jit, static_argnames=("plan", "stops"))
def begin(plan: Plan, params: Any, key: Array, stops: bool) -> Loop:
    """The loop before the first epoch; ``stops`` says whether it may stop early, and keeps the best state.

    All of it is copied, because the loop's buffers are donated: the caller keeps params, and none may be donated twice.
    """
    state = first_state(plan, params, key)
    best = Best(jnp.asarray(jnp.inf, params[0].weight.dtype), jnp.asarray(-1), state) if stops else None
    return jax.tree.map(jnp.array, Loop(jnp.asarray(0), state, jnp.asarray(True), best))


def rows_of(data: Batch, rows: Array) -> Batch:
    return tuple(take(array, rows) for array in data)


def cut(n: int, batch_size: int, features: int) -> list[tuple[int, int, int]]:
    """How an epoch's order is cut: (blocks, steps in a block, examples in a step), the short batch last.

    The rows of one block are gathered together, and its steps take contiguous slices. On a CPU, a gather inside every
    small step costs as much as the step; one gather of a whole large epoch leaves the cache; blocks of some
    million numbers use all cores and stay in the cache. A large batch is a block by itself.
    """
    steps, rest = divmod(n, batch_size)
    numbers = batch_size * features
    per_block = 1 if numbers >= 2**16 else min(steps, max(1, 2**21 // numbers))
    parts = [(steps // per_block, per_block, batch_size), (1, steps % per_block, batch_size), (1, 1, rest)]
    return [part for part in parts if 0 not in part]


def shuffled(key: Array, n: int) -> Array:
    """The numbers 0 ... n − 1 in random order: sorted by 64 random bits each, once.

    Each number stands in the lowest bits of its own key, because XLA on a CPU sorts one array in a quarter of the time
    that it takes for keys with values. ``jax.random.permutation`` sorts twice by 32 bits, in six times this.
    """
    high, low = jax.random.bits(key, (2, n), jnp.uint32)
    indices = jnp.arange(n).dtype
    mask = np.uint64(2 ** (n - 1).bit_length() - 1)
    with jax.enable_x64(True):
        bits = lax.shift_left(high.astype(jnp.uint64), np.uint64(32)) | low.astype(jnp.uint64)
        keys = lax.sort(bits & ~mask | lax.iota(jnp.uint64, n), is_stable=False)
        return (keys & mask).astype(indices)


def _epoch(plan: Plan, net: Network, state: State, data: Batch, key: Array, number: Array) -> tuple[State, Array]:
    """One epoch: ``(state, mean cost over the examples)``, which is finite where the costs of all steps are."""
    n, features = data[0].shape
    step = make_step(plan.optimizer, net, plan.gradient)

    def costed_step(state: State, batch: Batch) -> tuple[State, Array]:
        state, metrics = step(state, batch)
        return state, jnp.asarray(metrics["cost"]).astype(wide(data[0].dtype))

    def block(state: State, rows: Array) -> tuple[State, tuple[Array, Array]]:
        batches = rows_of(data, rows)
        steps = partial(lax.scan, costed_step)
        if plan.one_function:
            products = products_of_gradient(plan, state)
            state, costs = in_one_function(steps, state, batches, products=products, required=True)
        else:
            state, costs = steps(state, batches)
        if len(batches) == 3:
            return state, (costs, jnp.sum(batches[2], axis=-1, dtype=costs.dtype))
        return state, (costs, jnp.full(costs.shape, rows.shape[-1], costs.dtype))

    if plan.batch_size == n:
        return costed_step(state, data)
    order, costs, shares = shuffled(jax.random.fold_in(key, number), n), [], []
    for blocks, steps, size in cut(n, plan.batch_size, features):
        rows, order = jnp.split(order, [blocks * steps * size])
        state, (part_costs, part_shares) = lax.scan(block, state, rows.reshape(blocks, steps, size))
        costs.append(part_costs.reshape(-1))
        shares.append(part_shares.reshape(-1))
    return state, jnp.sum(jnp.concatenate(costs) * portions(jnp.concatenate(shares)))


def all_finite(tree: Any) -> Array:
    """Whether every number of every array is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def measure(plan: Plan, net: Network, params: Any, data: Batch, validation: Batch | None) -> dict[str, Array]:
    """The metrics after an epoch: each on the training data and on the validation data, and the validation cost."""
    values = {}
    if validation is not None:
        x, y, *weights = validation
        values["validation_cost"] = cost(params, x, y, net, *weights)
    measured = {"": data} if validation is None else {"": data, "validation_": validation}
    for prefix, batch in measured.items():
        for name, metric in plan.metrics:
            value = as_array(f"what metrics[{name!r}] returns", metric(params, *batch[:2], net))
            if value.shape != () or jnp.iscomplexobj(value):
                raise ValueError(f"metrics[{name!r}] returns {describe(value)}, expected a scalar, a real one")
            values[prefix + name] = value
    return values


CAPACITY = 8192
"""Epochs in one compiled call at the most: the length of its history arrays."""

CALL = 0.2
"""Seconds that a compiled call should take: often enough to show progress, too rare to cost time."""


def first_call(steps: int, work: int) -> int:
    """Epochs of the first call, before any was timed: if a step takes 50 µs, and there are 10⁹ operations a second.

    ``steps`` are those of an epoch, and ``work`` is its examples times the parameters. An optimizer, a metric or a
    gradient may take far longer than that, so it is 16 epochs at the most.
    """
    return max(1, min(int(CALL / (steps * 5e-5 + 6e-9 * work)), 16))


def next_call(epochs: int, seconds: float) -> int:
    """Epochs of the next call, after so many took so long."""
    return max(1, min(int(epochs * CALL / seconds), 64 * epochs))


def fetched(tree: Any) -> Any:
    """The arrays of a tree as NumPy's; from a GPU they come together, where each by itself would take 0.2 ms."""
    if jax.default_backend() != "cpu":
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, Array):
                leaf.copy_to_host_async()
    return jax.tree.map(np.asarray, tree)


def _run(
    plan: Plan,
    loop: Loop,
    key: Array,
    data: Batch,
    validation: Batch | None,
    l2: Array | None,
    patience: ArrayLike | None,
    end: ArrayLike,
) -> tuple[Loop, State, dict[str, Array]]:
    """Run epochs until ``end``, a cost that is not finite, or the end of patience.

    Returns the loop, the state before its last epoch, from which one that failed is replayed, and the history.
    """
    net = with_l2(plan, l2)
    start = loop.epoch
    names = {"cost": jax.ShapeDtypeStruct((), wide(data[0].dtype))} | jax.eval_shape(
        lambda params: measure(plan, net, params, data, validation), loop.state.params
    )

    def goes_on(carry: tuple[Loop, State, dict[str, Array]]) -> Array:
        loop, *_ = carry
        go = (loop.epoch < end) & loop.finite
        if loop.best is not None:
            go &= loop.epoch - 1 - loop.best.epoch < jnp.asarray(patience)
        return go

    def one_epoch(carry: tuple[Loop, State, dict[str, Array]]) -> tuple[Loop, State, dict[str, Array]]:
        loop, _, history = carry
        state, mean_cost = _epoch(plan, net, loop.state, data, key, loop.epoch)
        finite = jnp.isfinite(mean_cost) & all_finite(state.params)
        values = {"cost": mean_cost} | measure(plan, net, state.params, data, validation)
        history = {name: record(history[name], loop.epoch - start, value) for name, value in values.items()}
        best = loop.best
        if best is not None:
            candidate = Best(values["validation_cost"], loop.epoch, state)
            better = finite & jnp.less(candidate.cost, best.cost)
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, best)
        done = jnp.where(finite, loop.epoch + 1, loop.epoch)
        return Loop(done, state, finite, best), loop.state, history

    def record(array: Array, row: Array, value: Array) -> Array:
        if plan.one_function:  # which can hold no scatter
            return lax.dynamic_update_index_in_dim(array, value, row, 0)
        return array.at[row].set(value)

    def epochs(loop: Loop) -> tuple[Loop, State, dict[str, Array]]:
        history = {name: jnp.zeros(CAPACITY, value.dtype) for name, value in names.items()}
        return lax.while_loop(goes_on, one_epoch, (loop, loop.state, history))

    if plan.one_function and plan.batch_size == len(data[0]):
        measured = (len(names) - 1) * len(loop.state.params)  # a pass for each
        products = measured + products_of_gradient(plan, loop.state)
        return in_one_function(epochs, loop, products=products, required=True)
    return epochs(loop)


_jitted = partial(jax.jit, _run, static_argnames="plan", donate_argnames="loop")
_run_kernels = _jitted()
_run_one_function = _jitted(compiler_options=WIDE_VECTORS)
refused: set[tuple[Any, ...]] = set()
"""Kinds of loops that cannot be one function, because of an optimizer, or a metric."""


def kind_of(plan: Any, *arguments: Any) -> tuple[Any, ...]:
    """What it depends on whether a loop can be one function: the plan, and the shapes of its arguments."""
    return plan, *(leaf.shape for leaf in jax.tree.leaves(arguments))


def run(
    plan: Plan, loop: Loop, key: Array, data: Batch, validation: Batch | None, *rest: Any
) -> tuple[Loop, State, dict[str, Array]]:
    """`_run`, compiled for what the plan says, if that can be."""
    arguments = (loop, key, data, validation, *rest)
    if plan.one_function and (kind := kind_of(plan, loop.state.params, data, validation)) not in refused:
        try:
            return _run_one_function(plan, *arguments)
        except NotOneFunctionError:
            refused.add(kind)
    return _run_kernels(in_kernels(plan), *arguments)


def in_kernels(plan: Plan) -> Plan:
    """The same plan, without one function."""
    gradient = backprop if plan.gradient is backprop_as_sums else plan.gradient
    return replace(plan, gradient=gradient, one_function=False)


def replay(
    plan: Plan, state: State, key: Array, epoch: Array, data: Batch, l2: Array | None
) -> tuple[State, Array, Array]:
    """Run a failed epoch again, step by step, up to the one that fails: ``(state before it, step, its cost)``."""
    n = len(data[0])
    size = plan.batch_size
    step = make_step(plan.optimizer, with_l2(plan, l2), in_kernels(plan).gradient)
    order = jnp.arange(n) if size == n else shuffled(jax.random.fold_in(key, epoch), n)

    def checked(state: State, rows: Array) -> tuple[State, Array, Array]:
        after, metrics = step(state, rows_of(data, rows))
        return after, metrics["cost"], jnp.isfinite(metrics["cost"]) & all_finite(after.params)

    def goes_on(carry: tuple[Array, State, Array, Array]) -> Array:
        i, _, _, finite = carry
        return finite & (i < n // size)

    def one_step(carry: tuple[Array, State, Array, Array]) -> tuple[Array, State, Array, Array]:
        i, state, _, _ = carry
        after, value, finite = checked(state, lax.dynamic_slice(order, (i * size,), (size,)))
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        return jnp.where(finite, i + 1, i), state, value, finite

    zero = jnp.zeros((), data[0].dtype)
    i, state, value, finite = lax.while_loop(goes_on, one_step, (jnp.asarray(0), state, zero, jnp.asarray(True)))
    if n % size:  # every full batch was finite: it is the short one
        value = jnp.where(finite, checked(state, order[n - n % size :])[1], value)
    return state, i, value
