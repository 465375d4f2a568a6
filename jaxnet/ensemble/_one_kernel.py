"""Whole training runs of tiny networks inside one GPU kernel: each thread carries a network in its registers.

A loop of XLA's launches some kernels for every step, and each takes microseconds to start, however little it does. Here
one kernel runs all steps. A number of the parameters, or of the optimizer's state, is a vector along a block of
members: nothing is ever sliced, and all sums over units and inputs are written out. So the two passes stand here once
more, for single numbers; those of `jaxnet.backprop` take arrays, which such a kernel cannot stack. Elsewhere than on a
GPU the kernel is interpreted, which is only good for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxnet import activations, losses
from jaxnet._numeric import add_up
from jaxnet.backprop import output_delta
from jaxnet.network import Layer, Network

_BLOCK = 128
"""Members of a block: the lanes of four warps."""

_MOST_PARAMETERS = 128
"""So many numbers, with their gradients, still fit the registers of a thread."""

_BY_ELEMENTS = (
    activations.sigmoid, activations.tanh, activations.relu, activations.softplus, activations.identity,
    losses.squared_error, losses.cross_entropy,
)  # fmt: skip


def check_one_kernel(sizes: tuple[int, ...], net: Network, full_batch: bool) -> None:
    """Raise where a training does not fit into one kernel."""
    parameters = sum((inputs + 1) * units for inputs, units in pairwise(sizes))
    if parameters > _MOST_PARAMETERS:
        raise ValueError(
            f"layout is 'one kernel', which is for networks of at most {_MOST_PARAMETERS} parameters, but these have "
            f"{parameters}; leave layout out"
        )
    if not full_batch:
        raise ValueError("layout is 'one kernel', which takes all examples in each step; leave batch_size out")
    for name in ("hidden", "output", "loss"):
        if getattr(net, name) not in _BY_ELEMENTS:
            raise ValueError(
                f"layout is 'one kernel', but net.{name} is {getattr(net, name).name}, which does not act on each unit "
                "by itself; leave layout out"
            )


# ----------------------------------------------------------------------------------------------------------------------
# The two passes for one member and one example: every number is a scalar


def _gradient(net: Network, params: Any, x: list[Array], y: list[Array]) -> tuple[Array, list[Any]]:
    """The loss of one example and its gradient: of layers whose weights are lists of lists, biases lists."""
    hs, logits = [x], x
    for layer, s in zip(params, [net.hidden] * (len(params) - 1) + [net.output], strict=True):
        rows = zip(layer.weight, layer.bias, strict=True)
        logits = [add_up([w * h for w, h in zip(row, hs[-1], strict=True)]) + b for row, b in rows]
        hs.append([s(a) for a in logits])
    outputs = logits if net.loss.link is not None else hs[-1]
    loss = add_up([net.loss.value(o[None], t[None]) for o, t in zip(outputs, y, strict=True)])
    deltas = [output_delta(net, h, a, t) for h, a, t in zip(hs[-1], logits, y, strict=True)]
    grads: list[Any] = []
    make: Any = Layer
    for layer, h in zip(reversed(params), reversed(hs[:-1]), strict=True):
        grads.append(make([[delta * number for number in h] for delta in deltas], deltas))
        if h is not x:
            columns = zip(*layer.weight, strict=True)
            carried = [add_up([d * w for d, w in zip(deltas, column, strict=True)]) for column in columns]
            deltas = [net.hidden.times_derivative(number, back) for number, back in zip(h, carried, strict=True)]
    return loss, grads[::-1]


# ----------------------------------------------------------------------------------------------------------------------
# The kernel


def _numbers(leaf: Any, shape: tuple[int, ...], prefix: tuple[int, ...] = ()) -> Any:
    """A leaf (..., members), as nested lists of vectors."""
    if len(prefix) == len(shape) - 1:
        return leaf[prefix] if prefix else leaf[...]
    return [_numbers(leaf, shape, (*prefix, i)) for i in range(shape[len(prefix)])]


def _store(ref: Any, numbers: Any, prefix: tuple[int, ...] = ()) -> None:
    if isinstance(numbers, list):
        for i, part in enumerate(numbers):
            _store(ref, part, (*prefix, i))
    elif prefix:
        ref[prefix] = numbers
    else:
        ref[...] = numbers


def run_steps(
    update: Callable[..., Any],
    state: Any,
    batch: tuple[Array, ...],
    own: tuple[bool, ...],
    net: Network,
    l2: Array | None,
    hyperparams: tuple[Array, ...],
    steps: ArrayLike,
) -> tuple[Any, Array]:
    """So many steps of all members: ``(states, costs before the last step)``.

    ``update(state, cost, grads, hyperparams)`` is the optimizer's step of one member, whose parameters and optimizer
    state have nested lists in the place of arrays. States have the members last; a batch, l2 and hyperparameters do
    where they are members' own.
    """
    from jax.experimental import pallas as pl  # here, because it takes a tenth of a second
    from jax.experimental.pallas.triton import CompilerParams

    members = jax.tree.leaves(state)[0].shape[-1]
    size = min(_BLOCK, 1 << (members - 1).bit_length())
    n = batch[1].shape[0]
    given = (state, hyperparams, l2, batch)
    leaves, tree = jax.tree.flatten(given)
    owned = jax.tree.leaves(
        (
            jax.tree.map(lambda _: True, state),
            *(jax.tree.map(lambda leaf: leaf.ndim == 1, part) for part in given[1:3]),
            own,
        )
    )
    padding = -members % size
    leaves = [
        jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, padding)], mode="edge") if one else jnp.atleast_1d(leaf)
        for leaf, one in zip(leaves, owned, strict=True)
    ]

    def block(leaf: Array, owned: bool) -> Any:
        shape = (*leaf.shape[:-1], size) if owned else leaf.shape
        return pl.BlockSpec(shape, lambda j: (0,) * (leaf.ndim - 1) + (j if owned else 0,))

    results = [*leaves[: len(jax.tree.leaves(state))], jax.ShapeDtypeStruct((members + padding,), batch[0].dtype)]
    specs = [block(leaf, one) for leaf, one in zip(leaves, owned, strict=True)]

    def kernel(steps_ref: Any, *refs: Any) -> None:
        ins, outs = refs[: len(leaves)], refs[len(leaves) :]
        state_refs, hyper_refs, l2_ref, (x, y, *example_weights) = jax.tree.unflatten(tree, ins)

        def vector(ref: Any) -> Array:
            return ref[...] if ref.shape[0] == size else jnp.full(size, ref[0])

        hypers = tuple(map(vector, hyper_refs))
        penalty = None if l2 is None else vector(l2_ref)

        def row(ref: Any, i: Array, owned: bool) -> list[Array]:
            return [ref[i, k] if owned else jnp.full(size, ref[i, k]) for k in range(ref.shape[1])]

        def weight_of(i: Array) -> Array:
            if not example_weights:
                return jnp.ones(size, x.dtype)
            (ref,) = example_weights
            return ref[i] if own[2] else jnp.full(size, ref[i])

        def step(_: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
            state, cost = carry

            def example(i: Array, sums: Any) -> Any:
                weight = weight_of(i)
                loss, grads = jax.vmap(partial(_gradient, net))(state.params, row(x, i, own[0]), row(y, i, own[1]))
                new = (loss, grads, jnp.ones_like(weight))
                return jax.tree.map(lambda total, value: total + weight * value, sums, new)

            like = (cost, [Layer(*layer) for layer in state.params], cost)
            loss, grads, total = lax.fori_loop(0, n, example, jax.tree.map(jnp.zeros_like, like))
            share = 1 / jnp.where(total == 0, 1, total)
            new_cost, grads = loss * share, jax.tree.map(lambda g: g * share, grads)
            if penalty is not None:
                weights = [layer.weight for layer in state.params]
                new_cost += penalty / 2 * add_up([w * w for w in jax.tree.leaves(weights)])
                grads = [
                    g._replace(weight=jax.tree.map(lambda g, w: g + penalty * w, g.weight, w))
                    for g, w in zip(grads, weights, strict=True)
                ]
            grads = jax.tree.unflatten(jax.tree.structure(state.params), jax.tree.leaves(grads))
            # Not finite from where one cost was not.
            return jax.vmap(update)(state, new_cost, grads, hypers), new_cost + 0 * cost

        start = jax.tree.map(lambda ref: _numbers(ref, ref.shape), state_refs)
        carry = (start, jnp.zeros(size, x.dtype))
        state, cost = lax.fori_loop(0, steps_ref[0], step, carry)
        numbers = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, list))
        for ref, value in zip(outs, [*numbers, cost], strict=True):
            _store(ref, value)

    found = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in results],
        grid=((members + padding) // size,),
        in_specs=[pl.BlockSpec((1,), lambda _: (0,)), *specs],
        out_specs=[*specs[: len(results) - 1], pl.BlockSpec((size,), lambda j: (j,))],
        interpret=jax.default_backend() != "gpu",
        compiler_params=CompilerParams(),
    )(jnp.asarray(steps, jnp.int32).reshape(1), *leaves)
    *states, costs = (leaf[..., :members] for leaf in found)
    return jax.tree.unflatten(jax.tree.structure(state), states), costs
