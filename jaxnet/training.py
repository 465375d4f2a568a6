"""Training: the compiled loop, driven from Python with its checks, progress and warnings."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnet._arguments import (
    check_concrete,
    check_finite,
    check_functions,
    check_values,
    checked_data,
    checked_metrics,
    checked_options,
    not_finite_example,
)
from jaxnet._loop import (
    CAPACITY,
    Batch,
    Plan,
    begin,
    fetched,
    few_products,
    few_sums,
    first_call,
    next_call,
    replay,
    run,
)
from jaxnet._one_function import may_be_one_function
from jaxnet._progress import progress_bar
from jaxnet._validate import check_key
from jaxnet.backprop import backprop, backprop_as_sums
from jaxnet.network import Network, Params, check_network
from jaxnet.steps import Gradient, Metric

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
    check_concrete("train", key, params, data, validation, net)
    check_key(key)
    check_network(net)
    data = checked_data("data", params, data)
    if validation is not None:
        validation = checked_data("validation", params, validation)
        check_finite("validation", validation)
    check_values(params)
    epochs, batch_size, patience = checked_options(len(data[0]), epochs, batch_size, patience, validation)
    named_metrics = checked_metrics(metrics)
    check_functions(optimizer, gradient)

    l2 = jnp.asarray(net.l2, data[0].dtype) if net.penalised else None
    examples = len(data[0]) + (0 if validation is None else len(validation[0]))
    drawn = batch_size < len(data[0])  # then only steps are one function, and else the whole loop with what it measures
    may_be = may_be_one_function((params, data, validation, key))
    one_function = may_be and few_products(params, batch_size if drawn else examples)
    plan = Plan(optimizer, replace(net, l2=0.0), gradient, named_metrics, batch_size, one_function)

    loop = begin(plan, params, key, stops=patience is not None)
    summed = may_be and gradient is backprop and (drawn or not (validation or metrics))
    if summed and few_sums(loop.state, batch_size, net.penalised):
        plan = replace(plan, gradient=backprop_as_sums, one_function=True)
    histories: list[dict[str, np.ndarray]] = []
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    done, stride = 0, first_call(-(-len(data[0]) // batch_size), examples * numbers)
    with progress_bar(epochs) if progress else nullcontext() as show:
        while True:
            start, end = done, min(epochs, done + min(stride, CAPACITY))
            began = time.perf_counter()
            loop, before, history = run(plan, loop, key, data, validation, l2, patience, end)
            # Within jit all is traced, and a traced number may hide in the optimizer, or a metric.
            check_concrete("train", loop, history)
            epoch, finite, history = fetched((loop.epoch, loop.finite, history))
            done = int(epoch)
            histories.append({name: values[: done - start] for name, values in history.items()})
            seconds = time.perf_counter() - began
            if show is not None and done > start:
                show(done, {name: values[-1] for name, values in histories[-1].items()})
            if done < end or done == epochs:
                break
            stride = next_call(end - start, seconds)
            del before  # the next call needs its memory

    not_finite, best_epoch = None, None
    state = loop.state
    if not finite:
        state, step, value = _replay(plan, before, key, loop.epoch, data, l2)
        not_finite = NotFinite(int(loop.epoch), int(step), float(value))
        _warn_not_finite(not_finite, data)
    elif loop.best is not None and loop.best.epoch >= 0:
        state, best_epoch = loop.best.state, int(loop.best.epoch)
    history = {name: np.concatenate([part[name] for part in histories]) for name in histories[0]}
    return TrainResult(state.params, state.opt_state, history, best_epoch, not_finite)


_replay = jax.jit(replay, static_argnames="plan")


def _warn_not_finite(where: NotFinite, data: Batch) -> None:
    hint = not_finite_example(data) or "try a smaller learning rate, or smaller initial weights"
    what = "made parameters that are not finite" if math.isfinite(where.cost) else f"met a cost of {where.cost}"
    warnings.warn(
        f"training stopped: epoch {where.epoch}, step {where.step} (counted from 0) {what}; the parameters returned "
        f"are the last finite ones, from before that step; {hint}",
        RuntimeWarning,
        stacklevel=3,
    )
