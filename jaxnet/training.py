"""Training: the compiled loop, driven from Python with its checks, progress and warnings."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer

from jaxnet._loop import CAPACITY, Batch, Best, Loop, Plan, replay, run
from jaxnet._validate import check_batch, check_key, checked_count, describe
from jaxnet.backprop import backprop
from jaxnet.network import Network, Params, check_network
from jaxnet.steps import Gradient, Metric, State, takes_key

__all__ = ["NotFinite", "TrainResult", "train"]


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
        A typed key, for the order of the examples, and for a gradient that draws random numbers.
    params
        A tuple of layers; it is copied, not changed.
    data
        ``(x, y)`` or ``(x, y, weights)``: (n, inputs), (n, outputs), (n,) with weights ≥ 0, of the dtype of params.
    net
        Activations, loss and l2.
    optimizer
        Any optax optimizer of plain parameters, with a schedule or not: ``optax.sgd(0.5)``. A schedule counts steps.
    epochs
        How many passes over the data, at the most.
    batch_size
        Examples in a step: 1 is stochastic gradient descent, None is batch gradient descent.
    gradient
        ``(params, x, y, net[, weights]) -> (cost, grads)``: `backprop` by hand, or `autodiff`, or your own. One that
        has a parameter ``key``, such as `jaxnet.per_example.private_gradient`, gets a fresh key at every step.
    validation
        Like ``data``, and finite. Its cost, as `cost` defines it (penalty included), is measured after every epoch.
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
    _check_concrete(params, data, validation, net)
    check_key(key)
    check_network(net)
    data = _checked_data("data", params, data)
    if validation is not None:
        validation = _checked_data("validation", params, validation)
        _check_finite("validation", validation)
    _check_values(params, net)
    n = len(data[0])
    epochs = checked_count("epochs", epochs, least=0)
    batch_size = n if batch_size is None else checked_count("batch_size", batch_size, least=1)
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size}, but the data has {n} examples; None takes them all")
    if patience is not None:
        patience = checked_count("patience", patience, least=1)
        if validation is None:
            raise ValueError(f"patience is {patience}, but there is no validation data to stop by")
        patience = min(patience, epochs)
    named_metrics = _checked_metrics(metrics)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer is {describe(optimizer)}, expected an optax optimizer such as optax.sgd(0.5)")
    if not callable(gradient):
        raise TypeError(f"gradient is {describe(gradient)}, expected a function such as jaxnet.backprop")

    l2 = jnp.asarray(net.l2, data[0].dtype) if net.penalised else None
    plan = Plan(optimizer, replace(net, l2=0.0), gradient, named_metrics, batch_size)

    # Epochs count up from 0, and fold in their number for the order of the examples.
    own = jax.random.fold_in(key, 2**32 - 1) if takes_key(gradient) else None
    state = State(params, optimizer.init(params), own)
    best = None if patience is None else Best(jnp.asarray(jnp.inf, data[0].dtype), jnp.asarray(-1), state)
    # Copies, because the loop's buffers are donated: the caller keeps params, and none may be donated twice.
    loop = jax.tree.map(jnp.array, Loop(jnp.asarray(0), state, state, jnp.asarray(True), best))

    histories: list[dict[str, np.ndarray]] = []
    done, chunk = 0, 1
    with _progress_bar(epochs) if progress else nullcontext() as show:
        while True:
            end = min(epochs, done + chunk)
            began = time.perf_counter()
            loop, history = run(plan, loop, key, data, validation, l2, patience, end)
            started, done = done, int(loop.epoch)
            histories.append({name: np.asarray(values)[: done - started] for name, values in history.items()})
            seconds = time.perf_counter() - began
            if show is not None and done > started:
                show(done, {name: values[-1] for name, values in histories[-1].items()})
            if done < end or done == epochs:
                break
            # Calls of about a fifth of a second: often enough to show progress, too rare to cost time.
            chunk = max(1, min(int(chunk * 0.2 / seconds), 16 * chunk, CAPACITY))

    not_finite, best_epoch = None, None
    state = loop.state
    if not loop.finite:
        state, step, value = replay(plan, loop.before, key, loop.epoch, data, l2)
        not_finite = NotFinite(int(loop.epoch), int(step), float(value))
        _warn_not_finite(not_finite, data)
    elif loop.best is not None and loop.best.epoch >= 0:
        state, best_epoch = loop.best.state, int(loop.best.epoch)
    history = {name: np.concatenate([part[name] for part in histories]) for name in histories[0]}
    return TrainResult(state.params, state.opt_state, history, best_epoch, not_finite)


def _check_concrete(*arguments: Any) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments)):
        raise TypeError(
            "train drives a compiled loop from Python, so it cannot run inside jit, vmap or grad; compile or map over "
            "a step from jaxnet.make_step instead"
        )


def _checked_data(name: str, params: Params, data: Any) -> Batch:
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3) or isinstance(data[0], tuple):
        came = f"{describe(data)} of {len(data)}" if isinstance(data, (tuple, list)) else describe(data)
        raise TypeError(f"{name} is {came}, expected a tuple (x, y) or (x, y, weights)")
    try:
        x, y, weights = check_batch(params, *data)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if x.ndim != 2:
        raise ValueError(f"{name}: x has shape {x.shape}, expected (n, inputs)")
    if weights is None:
        return x, y
    if jnp.any(weights < 0) or not jnp.any(weights != 0):
        raise ValueError(f"{name}: weights are negative, or all zero; expected weights >= 0 of which some count")
    return x, y, weights


def _check_finite(name: str, data: Batch) -> None:
    wrong = _not_finite_example(data)
    if wrong:
        raise ValueError(f"{name}: {wrong}")


def _not_finite_example(data: Batch) -> str | None:
    """Which array holds a value that is not finite, and where."""
    for name, array in zip(("x", "y", "weights"), data, strict=False):
        examples = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if examples.size:
            return f"{name} holds values that are not finite, first in example {examples[0]}"
    return None


def _check_values(params: Params, net: Network) -> None:
    if not np.all([np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]):
        raise ValueError("params hold values that are not finite; start from finite ones, such as jaxnet.init's")
    if not 0 <= float(np.asarray(net.l2)) < math.inf:
        raise ValueError(f"net.l2 is {net.l2}, expected a number >= 0")


def _checked_metrics(metrics: Any) -> tuple[tuple[str, Metric], ...]:
    if metrics is None:
        return ()
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics is {describe(metrics)}, expected functions by name: {{'accuracy': jaxnet.accuracy}}")
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"metrics has the name {name!r}, expected a str")
        if name == "cost" or name.startswith("validation_"):
            raise ValueError(f"metrics has the name {name!r}, which the history uses itself; give it another name")
        if not callable(metric) or type(metric).__hash__ is None:
            raise TypeError(f"metrics[{name!r}] is {describe(metric)}, expected a function (params, x, y, net)")
    return tuple(metrics.items())


def _warn_not_finite(where: NotFinite, data: Batch) -> None:
    hint = _not_finite_example(data) or "try a smaller learning rate, or smaller initial weights"
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
        BarColumn(bar_width=12),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, auto_refresh=False) as bar:
        task = bar.add_task("", total=epochs)

        def show(done: int, values: dict[str, Any]) -> None:
            # The two that fit a narrow terminal; the history has the others.
            shown = [name for name in ("cost", "validation_cost") if name in values]
            description = "  ".join(f"{name} {values[name]:.4f}" for name in shown)
            bar.update(task, completed=done, description=description, refresh=True)

        yield show
