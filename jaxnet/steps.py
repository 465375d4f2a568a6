"""One step of training: its state, plain gradient descent, any optimizer, and a metric to measure it by."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxnet._numeric import wide
from jaxnet._validate import (
    check_batch,
    check_gradient,
    check_key,
    check_optimizer,
    check_parts,
    checked_scalar,
    describe,
)
from jaxnet.activations import identity
from jaxnet.backprop import backprop, forward
from jaxnet.network import Network, Params, check_network

__all__ = ["State", "accuracy", "make_step", "sgd_step"]

Gradient = Callable[..., tuple[Array, Any]]
"""``(params, x, y, net[, weights]) -> (cost, grads)``: `backprop`, `autodiff`, or one of your own.

One that draws random numbers has a parameter ``key``, and is called with a fresh one at every step.
"""

Metric = Callable[..., Array]
"""``(params, x, y, net) -> scalar``."""


class State(NamedTuple):
    """What a step carries: parameters, the optimizer's state, and a key where the gradient draws random numbers."""

    params: Any
    opt_state: Any
    key: Array | None = None


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
    rate = checked_scalar("learning_rate", learning_rate, value.dtype)
    return jax.tree.map(lambda p, g: p - rate * g, params, grads), value


def make_step(
    optimizer: optax.GradientTransformation, net: Network = Network(), gradient: Gradient = backprop
) -> Callable[[State, tuple[Array, ...]], tuple[State, dict[str, Array]]]:
    """A training step ``(state, batch) -> (state, metrics)``: the body of a ``jax.lax.scan``.

    Parameters
    ----------
    optimizer
        Any optax optimizer. Those that ask for more than a gradient get it: ``value``, ``grad`` and ``value_fn``, the
        cost, for line searches; ``batch`` and ``net``, for those of `jaxnet.optimizers`.
    net
        Activations, loss and l2.
    gradient
        ``(params, x, y, net[, weights]) -> (cost, grads)``. One that has a parameter ``key`` gets a fresh key at every
        step, split from the state's.

    Returns
    -------
    A function of ``State(params, opt_state)``, or ``State(params, opt_state, key)`` for a gradient that takes a key,
    and a batch ``(x, y)`` or ``(x, y, weights)``; its metrics hold the batch's "cost" before the step.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; from the step, also if the state or the batch is not.

    >>> import jax, jaxnet, optax
    >>> optimizer = optax.sgd(0.5)
    >>> step = jax.jit(make_step(optimizer))
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> state, metrics = step(State(params, optimizer.init(params)), jaxnet.data.xor())
    >>> sorted(metrics)
    ['cost']
    """
    check_optimizer(optimizer)
    check_network(net)
    check_gradient(gradient)
    optimizer = optax.with_extra_args_support(optimizer)
    random, wanted = takes_key(gradient), _wanted(optimizer.update)

    def step(state: State, batch: tuple[Array, ...]) -> tuple[State, dict[str, Array]]:
        if not isinstance(state, State):
            raise TypeError(f"state is {describe(state)}, expected jaxnet.State(params, opt_state)")
        check_parts("batch", batch)
        params, opt_state, key = state
        x, y, *weights = batch
        drawn = {}
        if random:
            if key is None:
                raise TypeError("gradient takes a key, but state.key is None; give State(params, opt_state, key)")
            check_key(key, "state.key")
            key, drawn["key"] = jax.random.split(key)
        value, grads = _checked_gradient(gradient(params, x, y, net, *weights, **drawn), params)

        # A line search hands on all that it is given, so that the cost has to take it.
        def value_fn(params: Any, batch: tuple[Array, ...] = batch, net: Network = net) -> Array:
            x, y, *weights = batch
            return gradient(params, x, y, net, *weights, **drawn)[0]

        extra = {"value": value, "grad": grads, "value_fn": value_fn, "batch": batch, "net": net}
        try:
            given = {name: extra[name] for name in extra if wanted is None or name in wanted}
            updates, opt_state = optimizer.update(grads, opt_state, params, **given)
        except (AttributeError, TypeError, ValueError) as error:
            _check_opt_state(optimizer, params, opt_state, error)
            raise
        return State(optax.apply_updates(params, updates), opt_state, key), {"cost": value}

    return step


def _wanted(update: Callable[..., Any]) -> Mapping[str, Any] | None:
    """The arguments that an update takes, by name; None of most, which take any, and heed what they need."""
    parameters = _parameters(update)
    if parameters is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return parameters


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a function by name; None of some builtins, which have no signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def takes_key(gradient: Gradient) -> bool:
    """Whether a gradient function has a parameter ``key``, so that it draws random numbers."""
    return "key" in (_parameters(gradient) or ())


def _checked_gradient(found: Any, params: Any) -> tuple[Array, Any]:
    """What a gradient function returned, if it is (cost, grads); checked once, when the step is traced."""
    shapes = jax.tree.map(jnp.shape, found)
    if not isinstance(found, tuple) or len(found) != 2 or shapes != ((), jax.tree.map(jnp.shape, params)):
        raise ValueError(
            f"gradient returns values of shape {shapes}, expected (cost, grads): a scalar, and arrays of the structure "
            "and shapes of params"
        )
    return found


def _check_opt_state(optimizer: optax.GradientTransformation, params: Any, opt_state: Any, error: Exception) -> None:
    """Raise from the error of an update if it was given a state that is not of this optimizer and these parameters."""
    expected, given = (
        (jax.tree.structure(tree), [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(tree)])
        for tree in (jax.eval_shape(optimizer.init, params), opt_state)
    )
    if given != expected:
        raise TypeError(
            f"state.opt_state is {describe(opt_state)} that this optimizer does not make of these parameters; start "
            "from State(params, optimizer.init(params))"
        ) from error


def accuracy(params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network()) -> Array:
    """The share of examples that are classified right: a metric for `train`.

    With several outputs, the largest one against the largest target; with a single one, whether it lies on the same
    side of 1/2 as the target. An output that is NaN is never right. Arguments and errors as for `cost`.

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
        right = ((outputs > 0.5) == (y > 0.5))[..., 0]
    right &= ~jnp.isnan(outputs).any(axis=-1)
    return jnp.mean(right, dtype=wide(outputs.dtype)).astype(outputs.dtype)
