"""Whole training runs of small networks inside one GPU kernel, which holds each network in registers.

A loop of XLA's launches some kernels for every step, and each takes microseconds to start, however little it does. Here
one kernel runs all steps, in one of two forms. In threads, each thread carries a tiny network: every number is a vector
along the lanes of a warp, nothing is ever sliced, and the sums over units and inputs are written out; so the two passes
stand here once more, for single numbers. In warps, each warp carries a network, by the passes of `jaxnet.backprop`,
whose products are sums of outer products of a few examples at a time. Its arrays are padded to powers of two.

Elsewhere than on a GPU the kernel is interpreted, which is only good for tests. It is lowered by way of Triton, which
JAX 0.11 deprecates in Pallas; the successor, Mosaic, does not take the kernel as it is written here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.extend.core import Literal
from jax.typing import ArrayLike

from jaxnet import activations, losses
from jaxnet._numeric import add_up
from jaxnet._products import Layout, Products
from jaxnet.backprop import backward_pass, contract, forward_pass, losses_of, output_delta
from jaxnet.ensemble._layouts import in_threads, kernel_holds, power_of_two
from jaxnet.network import Layer, Network, Params
from jaxnet.steps import State, make_step

_LANES = 32
"""Threads of a warp. More of them in a block are no faster."""

_NUMBERS = 64 * _LANES
"""Numbers in the largest product of a warp: 64 in each thread."""

_BY_ELEMENTS = (
    activations.sigmoid, activations.tanh, activations.relu, activations.softplus, activations.identity,
    losses.squared_error, losses.cross_entropy,
)  # fmt: skip

_BY_NUMBERS = frozenset(
    {
        "abs", "add", "and", "clamp", "convert_element_type", "copy", "cos", "div", "eq", "exp", "exp2", "expm1",
        "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul",
        "ne", "neg", "not", "or", "pow", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "sub", "tanh", "xor",
    }
)  # fmt: skip
"""Primitives that treat each number by itself, and that Triton has, or that need nothing."""


# ----------------------------------------------------------------------------------------------------------------------
# What fits


def checked_numbers(
    sizes: tuple[int, ...], net: Network, optimizer: optax.GradientTransformation, params: Params
) -> float:
    """How many numbers one kernel holds for each parameter; ValueError where a training does not fit into it.

    The parameters are those of one member.
    """
    state = jax.eval_shape(lambda params: State(params, optimizer.init(params)), params)
    per_parameter, dtype = numbers_per_parameter(state), state.params[0].weight.dtype
    if dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"layout is 'one kernel', which is for float32 or float64, but params are {dtype}; leave layout out"
        )
    if not kernel_holds(sizes, per_parameter):
        raise ValueError(
            f"layout is 'one kernel', whose registers do not hold networks of sizes {sizes} with {per_parameter:.0f} "
            "numbers for each parameter; leave layout out"
        )
    for name in ("hidden", "output", "loss"):
        if getattr(net, name) not in _BY_ELEMENTS:
            raise ValueError(
                f"layout is 'one kernel', but net.{name} is {getattr(net, name).name}, and such a kernel takes only "
                f"{', '.join(one.name for one in _BY_ELEMENTS)}; leave layout out"
            )
    try:
        step = partial(optimizer_step, optimizer)
        closed = jax.make_jaxpr(step)(state, jax.ShapeDtypeStruct((), dtype), state.params)
    except Exception as error:
        raise ValueError(
            "layout is 'one kernel', but the optimizer asks for more than a cost and its gradient "
            f"({type(error).__name__}: {error}); leave layout out"
        ) from error
    refused = _refused(closed)
    if refused:
        raise ValueError(
            "layout is 'one kernel', but the optimizer does not treat each number by itself: it needs "
            f"{', '.join(sorted(refused))}; leave layout out"
        )
    return per_parameter


def numbers_per_parameter(state: Any) -> float:
    """How many numbers a kernel holds for each parameter: itself, its gradient, and those of the optimizer."""
    everything, parameters = (sum(leaf.size for leaf in jax.tree.leaves(part)) for part in (state, state.params))
    return 1 + everything / parameters


# ----------------------------------------------------------------------------------------------------------------------
# The optimizer: its step, traced for one member, is done for each number anew


def optimizer_step(optimizer: optax.GradientTransformation, state: State, cost: Array, grads: Any) -> State:
    """The optimizer's step of one member, whose cost and gradient are known."""

    def gradient(params: Any, *_: Any) -> tuple[Array, Any]:
        if params is not state.params:
            raise ValueError(
                "layout is 'one kernel', but the optimizer asks for the cost at other parameters; leave layout out"
            )
        return cost, grads

    no_batch: Any = (None, None)
    return make_step(optimizer, gradient=gradient)(state, no_batch)[0]


_CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}


def _called(equation: Any) -> Any:
    """The closed jaxpr that an equation calls, or None."""
    return equation.params.get(_CALLS.get(equation.primitive.name))


def _refused(closed: Any) -> set[str]:
    """What in a step does not treat each number by itself."""
    found = {"arrays of its own" for const in closed.consts if np.shape(const)}
    for equation in closed.jaxpr.eqns:
        name, inner = equation.primitive.name, _called(equation)
        if inner is not None:
            found |= _refused(inner)
        elif name == "broadcast_in_dim":
            found |= {name} if equation.invars[0].aval.shape else set()
        elif name not in _BY_NUMBERS:
            found.add(name)
    return found


def _evaluate(form: Any, closed: Any, values: list[Any]) -> list[Any]:
    """The results of a step that is not refused, for arguments as the form holds them.

    Everything is of the dtype that the step was traced with, and never of a weak one: JAX takes the power of two
    numbers of weak type for one of float32 in a kernel.
    """
    jaxpr = closed.jaxpr
    consts = [form.constant(np.asarray(const).item(), const.dtype) for const in closed.consts]
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))

    def value_of(atom: Any) -> Any:
        aval: Any = atom.aval
        return form.constant(atom.val, aval.dtype) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        arguments, inner = [value_of(atom) for atom in equation.invars], _called(equation)
        if inner is not None:
            results = _evaluate(form, inner, arguments)
        else:
            shape = equation.outvars[0].aval.shape
            operands = zip(arguments, equation.invars, strict=True)
            arguments = [value if atom.aval.shape else form.broadcast(value, shape) for value, atom in operands]
            results = [form.map(_operation(equation), *arguments)]
        known.update(zip(equation.outvars, results, strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]


def _operation(equation: Any) -> Callable[..., Array]:
    name, params = equation.primitive.name, equation.params
    if name in ("copy", "broadcast_in_dim"):
        return lambda value: value
    if name == "convert_element_type":
        return lambda value: lax.convert_element_type(value, params["new_dtype"])
    return lambda *values: equation.primitive.bind(*values, **params)


# ----------------------------------------------------------------------------------------------------------------------
# A network in each thread: every number is a vector along the lanes of a warp


@dataclass(frozen=True)
class _Threads:
    """How a kernel lays out, reads, computes and writes; the other form has the same methods."""

    net: Network
    own: tuple[bool, ...]  # which arrays of a batch have an axis of members
    n: int  # examples of a batch

    span = _LANES  # members of a block

    def padded_state(self, leaf: Array) -> Array:
        return leaf

    def padded_batches(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return arrays

    def placed(self, array: Array, axis: int) -> tuple[Array, int]:
        """An array with an axis of members, which the kernel finds last; blocks are full of members."""
        array = jnp.moveaxis(array, axis, -1)
        missing = -array.shape[-1] % _LANES
        return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], mode="edge"), array.ndim - 1

    def unplaced(self, leaf: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of both, for a leaf of the state that had this shape."""
        return jnp.moveaxis(leaf[..., : shape[0]], -1, 0)

    def read(self, ref: Any) -> Any:
        """A leaf (..., lanes), as a list of vectors; of one number, as a vector."""
        places = list(np.ndindex(*ref.shape[:-1]))
        return [ref[place] for place in places] if places != [()] else ref[...]

    def write(self, ref: Any, value: Any) -> None:
        if isinstance(value, list):
            for place, number in zip(np.ndindex(*ref.shape[:-1]), value, strict=True):
                ref[place] = number
        else:
            ref[...] = value

    def number(self, ref: Any) -> Array:
        return ref[...] if ref.shape[0] == _LANES else jnp.full(_LANES, ref[0])

    def constant(self, value: Any, dtype: Any) -> Array:
        return jnp.full(_LANES, value, dtype)

    def broadcast(self, value: Array, shape: tuple[int, ...]) -> Any:
        return [value] * math.prod(shape) if shape else value

    def map(self, f: Callable[..., Array], *values: Any) -> Any:
        return [f(*numbers) for numbers in zip(*values, strict=True)] if isinstance(values[0], list) else f(*values)

    def total(self, value: list[Array]) -> Array:
        return add_up(value)

    def cleared(self, leaves: list[Any]) -> list[Any]:
        return leaves

    def gradient(self, leaves: list[Any], batches: Any, k: ArrayLike) -> tuple[Array, list[Any], Array]:
        """Sums over the examples of batch k, weighted: losses and gradients; and the sum of the weights."""
        x, y, *weights = batches
        dtype, make = x.dtype, cast(Any, Layer)
        rows = [
            [weight[i : i + len(weight) // len(bias)] for i in range(0, len(weight), len(weight) // len(bias))]
            for weight, bias in zip(leaves[::2], leaves[1::2], strict=True)
        ]
        params: Any = [make(weight, bias) for weight, bias in zip(rows, leaves[1::2], strict=True)]

        def vector(ref: Any, own: bool, *index: Any) -> Array:
            return ref[(*index, slice(None))] if own else jnp.full(_LANES, ref[index])

        def example(i: Array, sums: Any) -> Any:
            inputs, targets = (
                [vector(ref, own, k, i, j) for j in range(ref.shape[2])]
                for ref, own in zip((x, y), self.own, strict=False)
            )
            weight = vector(weights[0], self.own[2], k, i) if weights else jnp.ones(_LANES, dtype)
            new = (*jax.vmap(partial(_of_one_example, self.net))(params, inputs, targets), jnp.ones_like(weight))
            return jax.tree.map(lambda total, value: total + weight * value, sums, new)

        start = (self.constant(0, dtype), params, self.constant(0, dtype))
        loss, grads, total = lax.fori_loop(0, self.n, example, jax.tree.map(jnp.zeros_like, start))
        return loss, [part for layer in grads for part in (list(chain(*layer.weight)), layer.bias)], total


def _of_one_example(net: Network, params: Any, x: list[Array], y: list[Array]) -> tuple[Array, list[Any]]:
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
# A network in each warp: the sums of the products run over the first axis, which lies within a thread


_PRODUCTS = Products(
    lambda h, weight: jnp.sum(h.T[:, :, None] * weight.T[:, None, :], axis=0),
    lambda delta, weight: jnp.sum(delta.T[:, :, None] * weight[:, None, :], axis=0),
    lambda delta, h: jnp.sum(delta[:, :, None] * h[:, None, :], axis=0),
    lambda delta: jnp.sum(delta, axis=0),
    -1,
    -1,
)


def _padded(array: Array, to: dict[int, int]) -> Array:
    """With zeros behind the numbers of some axes."""
    return jnp.pad(array, [(0, to.get(axis, size) - size) for axis, size in enumerate(array.shape)])


@dataclass(frozen=True)
class _Warps:
    """The other form."""

    net: Network
    own: tuple[bool, ...]
    n: int
    sizes: tuple[int, ...]

    span = None  # the kernel sees no axis of members

    @property
    def group(self) -> int:
        """Examples that go through the passes together."""
        weight = max(power_of_two(inputs) * power_of_two(units) for inputs, units in pairwise(self.sizes))
        return max(1, min(power_of_two(self.n), _NUMBERS // weight))

    def padded_state(self, leaf: Array) -> Array:
        return _padded(leaf, {axis: power_of_two(leaf.shape[axis]) for axis in range(1, leaf.ndim)})

    def padded_batches(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        x, y, *weights = arrays
        rows = -(-self.n // self.group) * self.group
        weight = weights[0] if weights else jnp.ones((len(x), self.n), x.dtype)  # examples that only fill a group: 0
        x, y = (_padded(a, {a.ndim - 2: rows, a.ndim - 1: power_of_two(a.shape[-1])}) for a in (x, y))
        return x, y, _padded(weight, {weight.ndim - 1: rows})

    def placed(self, array: Array, axis: int) -> tuple[Array, int]:
        return array, axis

    def unplaced(self, leaf: Array, shape: tuple[int, ...]) -> Array:
        return leaf[tuple(slice(size) for size in shape)]

    def read(self, ref: Any) -> Array:
        return ref[...]

    def write(self, ref: Any, value: Array) -> None:
        ref[...] = value

    def number(self, ref: Any) -> Array:
        return ref[0] if ref.ndim else ref[...]

    def constant(self, value: Any, dtype: Any) -> Array:
        return jnp.full((), value, dtype)

    def broadcast(self, value: Array, shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(value, tuple(map(power_of_two, shape)))

    def map(self, f: Callable[..., Array], *values: Array) -> Array:
        return f(*values)

    def total(self, value: Array) -> Array:
        return jnp.sum(value)

    @property
    def inside(self) -> list[Array]:
        return [jnp.arange(power_of_two(size)) < size for size in self.sizes]

    def cleared(self, leaves: list[Any]) -> list[Any]:
        """Parameters that are there only for padding are 0 again, whatever a step made of them."""
        masks = [mask for before, after in pairwise(self.inside) for mask in (after[:, None] & before[None, :], after)]
        return [jnp.where(mask, leaf, 0) for mask, leaf in zip(masks, leaves, strict=True)]

    def gradient(self, leaves: list[Any], batches: Any, k: ArrayLike) -> tuple[Array, list[Any], Array]:
        from jax.experimental import pallas as pl  # here, because it takes a tenth of a second

        x, y, weights = batches
        layout = Layout(_PRODUCTS, _PRODUCTS)
        layers = [Layer(weight, bias[None, :]) for weight, bias in zip(leaves[::2], leaves[1::2], strict=True)]

        def group(g: Array, sums: Any) -> Any:
            rows = pl.ds(g * self.group, self.group)
            inputs, targets, weight = x[k, rows, :], y[k, rows, :], weights[k, rows]
            hs, logits = forward_pass(layers, inputs, self.net.hidden, self.net.output, layout)
            last_delta = output_delta(self.net, hs[-1], logits, targets, weight[:, None])
            deltas = backward_pass(layers, hs, last_delta, self.net.hidden, layout)
            by_unit = losses_of(self.net, hs[-1][:, :, None], logits[:, :, None], targets[:, :, None])
            loss = jnp.sum(jnp.where(self.inside[-1][None, :], by_unit, 0) * weight[:, None])
            grads = jax.tree.leaves(contract(hs, deltas, layout))
            return jax.tree.map(jnp.add, sums, (loss, grads, jnp.sum(weight)))

        zero = self.constant(0, x.dtype)
        start = (zero, [jnp.zeros_like(leaf) for leaf in leaves], zero)
        return lax.fori_loop(0, x.shape[1] // self.group, group, start)


# ----------------------------------------------------------------------------------------------------------------------
# The kernel


def _logistic(a: Array) -> Array:
    # By powers of two, which a GPU has an instruction for: the exponential function takes seven more.
    return 1 / (1 + jnp.exp2(a * -1.4426950408889634))


def _with_own_logistic(net: Network) -> Network:
    def swapped(s: activations.Activation) -> activations.Activation:
        return replace(s, value=_logistic) if s == activations.sigmoid else s

    loss = replace(net.loss, link=net.loss.link and swapped(net.loss.link))
    return replace(net, hidden=swapped(net.hidden), output=swapped(net.output), loss=loss)


def run_epochs(
    step: Callable[..., Any],
    state: Any,
    batches: tuple[Array, ...],
    own: tuple[bool, ...],
    net: Network,
    l2: Array | None,
    hyperparams: tuple[Array, ...],
    epochs: ArrayLike,
    records: int,
) -> tuple[Any, Array]:
    """So many epochs of all members through the same batches: ``(states, their costs (records, members))``.

    ``step(state, cost, grads, hyperparams)`` is the optimizer's step of one member. States have the members first, as
    l2 and hyperparameters do where they are members' own; a batch's arrays are (batches, n, ...), with the members
    after the first axis where they are members' own. The costs are those of each epoch, or where ``records`` is 1 of
    the last; not finite from where one was not.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas.triton import CompilerParams

    members = len(state.params[0].bias)
    number, n = batches[1].shape[0], batches[1].shape[-2]
    sizes = (state.params[0].weight.shape[-1], *(layer.bias.shape[-1] for layer in state.params))
    net, dtype = _with_own_logistic(net), batches[0].dtype
    threads = in_threads(members, sizes, n, numbers_per_parameter(state))
    form: Any = _Threads(net, own, n) if threads else _Warps(net, own, n, sizes)

    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    batches = form.padded_batches(batches)
    leaves, tree = jax.tree.flatten((jax.tree.map(form.padded_state, state), hyperparams, l2, batches))
    settings = [0 if leaf.ndim else None for leaf in jax.tree.leaves((hyperparams, l2))]
    axes = [0] * len(shapes) + settings + [1 if one else None for one in (*own, False)[: len(batches)]]

    def placed(array: Array, axis: int | None) -> tuple[Array, Any]:
        array, axis = (jnp.atleast_1d(array), None) if axis is None else form.placed(array, axis)
        block = tuple(form.span if a == axis else size for a, size in enumerate(array.shape))
        return array, pl.BlockSpec(block, lambda j: tuple(j if a == axis else 0 for a in range(array.ndim)))

    costs = jnp.zeros((records, members), dtype)
    leaves, specs = zip(*map(placed, [*leaves, costs], [*axes, 1]), strict=True)

    parameters = 2 * (len(sizes) - 1)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)
    one_hyperparams = tuple(jax.ShapeDtypeStruct((), value.dtype) for value in hyperparams)
    traced = jax.make_jaxpr(step)(one, jax.ShapeDtypeStruct((), dtype), one.params, one_hyperparams)

    def kernel(epochs_ref: Any, *refs: Any) -> None:
        state_refs, hyper_refs, l2_ref, batch_refs = jax.tree.unflatten(tree, refs[: len(axes)])
        *out_refs, costs_ref = refs[len(axes) :]
        hypers = [form.number(ref) for ref in hyper_refs]
        penalty = None if l2 is None else form.number(l2_ref)
        zero = form.constant(0, dtype)

        def on_batch(k: ArrayLike, state: list[Any]) -> tuple[list[Any], Array, Array]:
            params = state[:parameters]
            loss, grads, total = form.gradient(params, batch_refs, k)
            share = 1 / jnp.where(total == 0, 1, total)
            cost, grads = loss * share, [form.map(lambda g: g * share, g) for g in grads]
            if penalty is not None:
                cost += penalty / 2 * add_up([form.total(form.map(jnp.square, weight)) for weight in params[::2]])
                for i in range(0, parameters, 2):
                    grads[i] = form.map(lambda g, w: g + penalty * w, grads[i], params[i])
            state = _evaluate(form, traced, [*state, cost, *grads, *hypers])
            return [*form.cleared(state[:parameters]), *state[parameters:]], cost, total

        def on_next(k: Array, carry: tuple[list[Any], Array, Array]) -> tuple[list[Any], Array, Array]:
            state, cost, total = on_batch(k, carry[0])
            return state, carry[1] + cost * total, carry[2] + total

        def epoch(i: Array, carry: tuple[list[Any], Array]) -> tuple[list[Any], Array]:
            state, before = carry
            if number == 1:
                state, cost, _ = on_batch(0, state)
            else:
                state, cost, total = lax.fori_loop(0, number, on_next, (state, zero, zero))
                cost = cost / jnp.where(total == 0, 1, total)
            cost = cost + 0 * before
            if records > 1:
                costs_ref[i] = cost
            return state, cost

        start = [form.read(ref) for ref in jax.tree.leaves(state_refs)]
        state, cost = lax.fori_loop(0, epochs_ref[0], epoch, (start, zero))
        if records == 1:
            costs_ref[0] = cost
        for ref, value in zip(out_refs, state, strict=True):
            form.write(ref, value)

    *leaves, costs = leaves
    *specs, of_costs = specs
    *states, found = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in (*leaves[: len(shapes)], costs)],
        grid=(-(-members // (form.span or 1)),),
        in_specs=[pl.BlockSpec((1,), lambda _: (0,)), *specs],
        out_specs=[*specs[: len(shapes)], of_costs],
        interpret=jax.default_backend() != "gpu",
        compiler_params=CompilerParams(num_warps=1),
    )(jnp.asarray(epochs, jnp.int32).reshape(1), *leaves)
    states = [form.unplaced(leaf, shape) for leaf, shape in zip(states, shapes, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(state), states), found[:, :members]
