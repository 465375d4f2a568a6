"""Gradient descent: one step, and one compiled loop that runs many epochs a call."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from jaxnet._validate import check_batch, check_key, checked_count, describe
from jaxnet.activations import identity
from jaxnet.backprop import backprop, cost, forward
from jaxnet.network import Network, Params

__all__ = [
    "NotFinite",
    "State",
    "TrainResult",
    "accuracy",
    "make_step",
    "sgd_step",
    "train",
]

Gradient = Callable[..., tuple[Array, Any]]
"""``(params, x, y, net[, weights]) -> (cost, grads)``: `backprop`, `autodiff`, or one of your own."""

Metric = Callable[..., Array]
"""``(params, x, y, net) -> scalar``."""


class State(NamedTuple):
    """What a step carries: parameters and the optimizer's state."""

    params: Any
    opt_state: Any


class NotFinite(NamedTuple):
    """Where training met a cost, or made parameters, that are not finite; epoch and step count from 0."""

    epoch: int
    step: int
    cost: float


class TrainResult(NamedTuple):
    """What `train` returns.

    ``params``, ``opt_state``: after the last step; with ``patience``, after the epoch of the lowest validation cost;
    where a cost was not finite, the last finite ones before it.
    ``history``: arrays with one entry for each finished epoch, named "cost", "validation_cost", and "NAME" and
    "validation_NAME" for each metric.
    ``best_epoch``: the epoch of the lowest validation cost, counted from 0; None without ``patience``.
    ``not_finite``: where training stopped because a cost was not finite; None where it did not.
    """

    params: Any
    opt_state: Any
    history: dict[str, np.ndarray]
    best_epoch: int | None
    not_finite: NotFinite | None


def accuracy(params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network()) -> Array:
    """The share of examples that are classified right: a metric for `train`.

    With several outputs, the largest one against the largest target; with a single one, whether it lies on the same
    side of 1/2 as the target. Arguments and errors as for `cost`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 1), scheme="zeros")
    >>> float(jaxnet.accuracy(params, *jaxnet.data.xor()))
    0.5
    """
    x, y, _ = check_batch(params, x, y)
    outputs = forward(params, x, net)
    if outputs.shape[-1] > 1:
        right = jnp.argmax(outputs, axis=-1) == jnp.argmax(y, axis=-1)
    else:
        if net.output == identity and net.loss.link is not None:
            outputs = net.loss.link(outputs)
        right = (outputs > 0.5) == (y > 0.5)
    return jnp.mean(right, dtype=outputs.dtype)


# ----------------------------------------------------------------------------------------------------------------------
# One step


def sgd_step(
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    learning_rate: ArrayLike,
    net: Network = Network(),
    weights: ArrayLike | None = None,
) -> tuple[Any, Array]:
    """One step of gradient descent, params − learning_rate · gradient: ``(params, cost before the step)``.

    Pure: compile it or map over it as you like. Arguments and errors as for `backprop`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.xor()
    >>> params, before = jax.jit(jaxnet.sgd_step)(params, x, y, 0.5)
    >>> bool(jaxnet.cost(params, x, y) < before)
    True
    """
    value, grads = backprop(params, x, y, net, weights)
    return jax.tree.map(lambda p, g: p - jnp.asarray(learning_rate, p.dtype) * g, params, grads), value


def make_step(
    optimizer: optax.GradientTransformation, net: Network = Network(), gradient: Gradient = backprop
) -> Callable[[State, tuple[Array, ...]], tuple[State, dict[str, Array]]]:
    """A training step ``(state, batch) -> (state, metrics)``: the body of a ``jax.lax.scan``.

    Parameters
    ----------
    optimizer
        Any optax optimizer; those that ask for the cost or a line search get it.
    net
        Activations, loss and l2.
    gradient
        ``(params, x, y, net[, weights]) -> (cost, grads)``.

    Returns
    -------
    A function of ``State(params, opt_state)`` and a batch ``(x, y)`` or ``(x, y, weights)``; its metrics hold the
    batch's "cost" before the step.

    >>> import jax, jaxnet, optax
    >>> optimizer = optax.sgd(0.5)
    >>> step = jax.jit(make_step(optimizer))
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> state, metrics = step(State(params, optimizer.init(params)), jaxnet.data.xor())
    >>> sorted(metrics)
    ['cost']
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: State, batch: tuple[Array, ...]) -> tuple[State, dict[str, Array]]:
        params, opt_state = state
        x, y, *weights = batch
        value, grads = gradient(params, x, y, net, *weights)
        updates, opt_state = optimizer.update(
            grads,
            opt_state,
            params,
            value=value,
            grad=grads,
            value_fn=lambda params: gradient(params, x, y, net, *weights)[0],
        )
        return State(optax.apply_updates(params, updates), opt_state), {"cost": value}

    return step


# ----------------------------------------------------------------------------------------------------------------------
# The loop, compiled


@dataclass(frozen=True)
class _Plan:
    """What the compiled loop is specialised to."""

    optimizer: optax.GradientTransformation
    net: Network  # its l2 is passed apart, as data, unless it is the Python number 0
    gradient: Gradient
    metrics: tuple[tuple[str, Metric], ...]
    batch_size: int


class _Best(NamedTuple):
    """The lowest validation cost so far, and the state after its epoch."""

    cost: Array
    epoch: Array
    state: State


class _Loop(NamedTuple):
    """What the compiled loop carries from epoch to epoch."""

    epoch: Array  # the number of epochs done
    state: State
    before: State  # the state one epoch earlier, from which a failed epoch is replayed
    finite: Array  # False: the last epoch met a cost or made parameters that are not finite
    best: _Best | None


Batch = tuple[Array, ...]


def _with_l2(plan: _Plan, l2: Array | None) -> Network:
    return plan.net if l2 is None else replace(plan.net, l2=l2)


def _rows(data: Batch, rows: Array) -> Batch:
    return tuple(array.at[rows].get(mode="promise_in_bounds", unique_indices=True) for array in data)


def _cut(n: int, batch_size: int, features: int) -> list[tuple[int, int, int]]:
    """How an epoch's order is cut: (blocks, steps in a block, examples in a step), the short batch last.

    The rows of one block are gathered together, and its steps take contiguous slices. On a CPU, a gather inside every
    small step costs as much as the step; one gather of a whole large epoch leaves the cache; blocks of some
    million numbers use all cores and stay in the cache. A large batch is a block by itself.
    """
    steps, rest = divmod(n, batch_size)
    numbers = batch_size * features
    per_block = 1 if numbers >= 2**16 else min(steps, max(1, 2**21 // numbers))
    cut = [(steps // per_block, per_block, batch_size), (1, steps % per_block, batch_size), (1, 1, rest)]
    return [part for part in cut if 0 not in part]


def _shuffled(key: Array, n: int) -> Array:
    """The numbers 0 ... n − 1 in random order: sorted by 64 random bits each, once.

    ``jax.random.permutation`` sorts twice by 32 bits, which takes 1.6 times as long.
    """
    return lax.sort((*jax.random.bits(key, (2, n)), jnp.arange(n)), num_keys=2)[2]


def _epoch(plan: _Plan, net: Network, state: State, data: Batch, key: Array) -> tuple[State, Array, Array]:
    """One epoch: ``(state, mean cost over the examples, all costs finite)``."""
    n, features = data[0].shape
    step = make_step(plan.optimizer, net, plan.gradient)

    def weighed_step(state: State, batch: Batch) -> tuple[State, tuple[Array, Array]]:
        state, metrics = step(state, batch)
        _, y, *weights = batch
        share = jnp.sum(weights[0]) if weights else jnp.asarray(len(y), metrics["cost"].dtype)
        return state, (metrics["cost"], share)

    def block(state: State, rows: Array) -> tuple[State, tuple[Array, Array]]:
        return lax.scan(weighed_step, state, _rows(data, rows))

    if plan.batch_size == n:
        state, (costs, shares) = weighed_step(state, data)
    else:
        order, costs, shares = _shuffled(key, n), [], []
        for blocks, steps, size in _cut(n, plan.batch_size, features):
            rows, order = jnp.split(order, [blocks * steps * size])
            state, (part_costs, part_shares) = lax.scan(block, state, rows.reshape(blocks, steps, size))
            costs.append(part_costs.reshape(-1))
            shares.append(part_shares.reshape(-1))
        costs, shares = jnp.concatenate(costs), jnp.concatenate(shares)
    return state, jnp.sum(costs * shares) / jnp.sum(shares), jnp.all(jnp.isfinite(costs))


def _all_finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _measure(plan: _Plan, net: Network, params: Any, data: Batch, validation: Batch | None) -> dict[str, Array]:
    """The metrics after an epoch: each on the training data and on the validation data, and the validation cost."""
    x, y = data[:2]
    values = {name: metric(params, x, y, net) for name, metric in plan.metrics}
    if validation is not None:
        x, y, *weights = validation
        values["validation_cost"] = cost(params, x, y, net, *weights)
        values |= {f"validation_{name}": metric(params, x, y, net) for name, metric in plan.metrics}
    return values


_CAPACITY = 8192
"""Epochs in one compiled call at the most: the length of its history arrays."""


@partial(jax.jit, static_argnames="plan", donate_argnames="loop")
def _run(
    plan: _Plan,
    loop: _Loop,
    key: Array,
    data: Batch,
    validation: Batch | None,
    l2: Array | None,
    patience: ArrayLike | None,
    end: ArrayLike,
) -> tuple[_Loop, dict[str, Array]]:
    """Run epochs until ``end``, a cost that is not finite, or the end of patience; with their history."""
    net = _with_l2(plan, l2)
    start = loop.epoch

    def goes_on(carry: tuple[_Loop, dict[str, Array]]) -> Array:
        loop, _ = carry
        go = (loop.epoch < end) & loop.finite
        if loop.best is not None:
            go &= loop.epoch - 1 - loop.best.epoch < jnp.asarray(patience)
        return go

    def one_epoch(carry: tuple[_Loop, dict[str, Array]]) -> tuple[_Loop, dict[str, Array]]:
        loop, history = carry
        state, mean_cost, finite = _epoch(plan, net, loop.state, data, jax.random.fold_in(key, loop.epoch))
        finite &= _all_finite(state.params)
        values = {"cost": mean_cost} | _measure(plan, net, state.params, data, validation)
        history = {name: history[name].at[loop.epoch - start].set(value) for name, value in values.items()}
        best = loop.best
        if best is not None:
            candidate = _Best(values["validation_cost"], loop.epoch, state)
            better = finite & jnp.less(candidate.cost, best.cost)
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, best)
        done = jnp.where(finite, loop.epoch + 1, loop.epoch)
        return _Loop(done, state, loop.state, finite, best), history

    names = {"cost": loop.state.params[0].weight} | jax.eval_shape(
        lambda params: _measure(plan, net, params, data, validation), loop.state.params
    )
    history = {name: jnp.zeros(_CAPACITY, value.dtype) for name, value in names.items()}
    return lax.while_loop(goes_on, one_epoch, (loop, history))


@partial(jax.jit, static_argnames="plan")
def _replay(
    plan: _Plan, state: State, key: Array, epoch: Array, data: Batch, l2: Array | None
) -> tuple[State, Array, Array]:
    """Run a failed epoch again, step by step, up to the one that fails: ``(state before it, step, its cost)``."""
    n = len(data[0])
    size = plan.batch_size
    step = make_step(plan.optimizer, _with_l2(plan, l2), plan.gradient)
    order = jnp.arange(n) if size == n else _shuffled(jax.random.fold_in(key, epoch), n)

    def checked(state: State, rows: Array) -> tuple[State, Array, Array]:
        after, metrics = step(state, _rows(data, rows))
        return after, metrics["cost"], jnp.isfinite(metrics["cost"]) & _all_finite(after.params)

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


# ----------------------------------------------------------------------------------------------------------------------
# The loop, driven


def train(
    key: Array,
    params: Params,
    data: Any,
    *,
    net: Network = Network(),
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int | None = None,
    gradient: Gradient = backprop,
    validation: Any = None,
    metrics: Mapping[str, Metric] | None = None,
    patience: int | None = None,
    progress: bool = False,
) -> TrainResult:
    """Train a network by stochastic, mini-batch or batch gradient descent.

    Every epoch takes the examples in a fresh random order and each of them once; a last short batch is a step of its
    own, on the mean over its examples. The loop is compiled, many epochs a call where they are short; calls with equal
    shapes and the same ``optimizer``, ``gradient`` and metric objects compile once. The same key gives the same bits on
    the same machine, whatever else is shown or measured.

    Parameters
    ----------
    key
        A typed key, for the order of the examples.
    params
        A tuple of layers; it is copied, not changed.
    data
        ``(x, y)`` or ``(x, y, weights)``: (n, inputs), (n, outputs), (n,), of the dtype of params.
    net
        Activations, loss and l2.
    optimizer
        Any optax optimizer, with a schedule or not: ``optax.sgd(0.5)``. A schedule counts steps.
    epochs
        How many passes over the data, at the most.
    batch_size
        Examples in a step: 1 is stochastic gradient descent, None is batch gradient descent.
    gradient
        ``(params, x, y, net[, weights]) -> (cost, grads)``: `backprop` by hand, or `autodiff`, or your own.
    validation
        Like ``data``. Its cost, as `cost` defines it, is measured after every epoch.
    metrics
        Functions ``(params, x, y, net) -> scalar`` by name, such as ``{"accuracy": jaxnet.accuracy}``, measured after
        every epoch on the data and on the validation data.
    patience
        Stop when the validation cost has not improved for so many epochs, and return the best parameters.
    progress
        Show a progress bar (needs ``rich``).

    Returns
    -------
    `TrainResult`. In its history, "cost" is the mean over the examples of the cost that each step saw, before it.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Warns
    -----
    RuntimeWarning
        If a cost, or the parameters that a step makes, are not finite. Training stops there, the result holds the last
        finite parameters, and ``not_finite`` says where.

    >>> import jax, jaxnet, optax
    >>> params = jaxnet.init(jax.random.key(1), (2, 3, 1), scheme="normal")
    >>> result = train(jax.random.key(0), params, jaxnet.data.xor(), optimizer=optax.sgd(4.0), epochs=1000)
    >>> bool(result.history["cost"][-1] < 0.01)
    True
    """
    check_key(key)
    data = _checked_data("data", params, data)
    validation = None if validation is None else _checked_data("validation", params, validation)
    n = len(data[0])
    if not np.all([np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]):
        raise ValueError("params hold values that are not finite; start from finite ones, such as jaxnet.init's")
    epochs = checked_count("epochs", epochs, least=0)
    batch_size = n if batch_size is None else checked_count("batch_size", batch_size, least=1)
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size}, but the data has {n} examples; None takes them all")
    if patience is not None:
        patience = checked_count("patience", patience, least=1)
        if validation is None:
            raise ValueError(f"patience is {patience}, but there is no validation data to stop by")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer is {describe(optimizer)}, expected an optax optimizer such as optax.sgd(0.5)")
    if not callable(gradient):
        raise TypeError(f"gradient is {describe(gradient)}, expected a function such as jaxnet.backprop")
    if not isinstance(net, Network):
        raise TypeError(f"net is {describe(net)}, expected a jaxnet.Network")

    without_l2 = isinstance(net.l2, (int, float)) and net.l2 == 0
    l2 = None if without_l2 else jnp.asarray(net.l2, data[0].dtype)
    plan = _Plan(optimizer, replace(net, l2=0.0), gradient, tuple((metrics or {}).items()), batch_size)
    _check_metrics(plan, _with_l2(plan, l2), params, data)

    state = State(params, optimizer.init(params))
    best = None if patience is None else _Best(jnp.asarray(jnp.inf, data[0].dtype), jnp.asarray(-1), state)
    # Copies, because the loop's buffers are donated: the caller keeps params, and none may be donated twice.
    loop = jax.tree.map(jnp.array, _Loop(jnp.asarray(0), state, state, jnp.asarray(True), best))

    histories: list[dict[str, np.ndarray]] = []
    done, chunk = 0, 1
    with _progress_bar(epochs) if progress else nullcontext() as show:
        while True:
            end = min(epochs, done + chunk)
            began = time.perf_counter()
            loop, history = _run(plan, loop, key, data, validation, l2, patience, end)
            started, done = done, int(loop.epoch)
            histories.append({name: np.asarray(values)[: done - started] for name, values in history.items()})
            seconds = time.perf_counter() - began
            if show is not None and done > started:
                show(done, {name: values[-1] for name, values in histories[-1].items()})
            if done < end or done == epochs:
                break
            # Calls of about a fifth of a second: often enough to show progress, too rare to cost time.
            chunk = max(1, min(int(chunk * 0.2 / seconds), 16 * chunk, _CAPACITY))

    not_finite, best_epoch = None, None
    state = loop.state
    if not loop.finite:
        state, step, value = _replay(plan, loop.before, key, loop.epoch, data, l2)
        not_finite = NotFinite(int(loop.epoch), int(step), float(value))
        _warn_not_finite(not_finite, data)
    elif loop.best is not None and loop.best.epoch >= 0:
        state, best_epoch = loop.best.state, int(loop.best.epoch)
    history = {name: np.concatenate([part[name] for part in histories]) for name in histories[0]}
    return TrainResult(state.params, state.opt_state, history, best_epoch, not_finite)


def _checked_data(name: str, params: Params, data: Any) -> Batch:
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError(f"{name} is {describe(data)}, expected a tuple (x, y) or (x, y, weights)")
    try:
        x, y, weights = check_batch(params, *data)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if x.ndim != 2:
        raise ValueError(f"{name}: x has shape {x.shape}, expected (n, inputs)")
    return (x, y) if weights is None else (x, y, weights)


def _check_metrics(plan: _Plan, net: Network, params: Params, data: Batch) -> None:
    for name, metric in plan.metrics:
        if not callable(metric):
            raise TypeError(f"metrics[{name!r}] is {describe(metric)}, expected a function (params, x, y, net)")
        if name == "cost":
            raise ValueError("metrics has a 'cost', but the history has one of its own; give it another name")
        shape = jax.eval_shape(lambda params, x, y, metric=metric: metric(params, x, y, net), params, *data[:2])
        if getattr(shape, "shape", None) != ():
            raise ValueError(f"metrics[{name!r}] returns {shape}, expected a scalar")


def _warn_not_finite(where: NotFinite, data: Batch) -> None:
    hint = "try a smaller learning rate, or smaller initial weights"
    for name, array in zip(("x", "y", "weights"), data, strict=False):
        examples = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if examples.size:
            hint = f"{name} holds values that are not finite, first in example {examples[0]}"
            break
    what = "made parameters that are not finite" if math.isfinite(where.cost) else f"met a cost of {where.cost}"
    warnings.warn(
        f"training stopped: epoch {where.epoch}, step {where.step} (counted from 0) {what}; the parameters returned "
        f"are the last finite ones, from before that step; {hint}",
        RuntimeWarning,
        stacklevel=3,
    )


@contextmanager
def _progress_bar(epochs: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError as error:
        raise ImportError("progress=True needs rich: pip install rich") from error
    columns = (
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, auto_refresh=False) as bar:
        task = bar.add_task("", total=epochs)

        def show(done: int, values: dict[str, Any]) -> None:
            description = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            bar.update(task, completed=done, description=description, refresh=True)

        yield show
