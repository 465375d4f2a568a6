"""Whole training runs of small networks inside one GPU kernel, which holds each network in registers.

A loop of XLA's launches some kernels for every step, and each takes microseconds to start, however little it does. Here
one kernel runs all steps, in one of two forms. In threads, each thread carries a tiny network: every number is a vector
along the lanes of a warp, nothing is ever sliced, and the sums over units and inputs are written out; so the two passes
stand here once more, for single numbers. In warps, each warp carries a network, by the passes of `jaxnet.backprop`,
whose products are sums of outer products of a few examples at a time. Its arrays are padded to powers of two.

Elsewhere than on a GPU the kernel is interpreted, which is only good for tests. It is lowered by way of Triton, which
JAX 0.11 deprecates in Pallas; the successor, Mosaic, takes neither form as it is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxnet import activations, losses
from jaxnet._numeric import add_up
from jaxnet._products import Layout, Products
from jaxnet.backprop import backward_pass, contract, forward_pass, losses_of, output_delta
from jaxnet.ensemble._gradients import with_logistic
from jaxnet.ensemble._layouts import in_threads, kernel_holds, power_of_two
from jaxnet.network import Layer, Network

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
        "abs", "add", "and", "broadcast_in_dim", "clamp", "convert_element_type", "copy", "cos", "custom_jvp_call",
        "div", "eq", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "jit", "le", "log",
        "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rsqrt", "select_n", "sign",
        "sin", "sqrt", "square", "stop_gradient", "sub", "tanh", "xor",
    }
)  # fmt: skip
"""Primitives that treat each number by itself."""


# ----------------------------------------------------------------------------------------------------------------------
# What fits


def checked_numbers(sizes: tuple[int, ...], net: Network, step: Callable[..., Any], state: Any) -> float:
    """How many numbers one kernel holds for each parameter; ValueError where a training does not fit into it.

    ``step(state, cost, grads)`` is the optimizer's, of one member, whose state has these shapes.
    """
    per_parameter = numbers_per_parameter(state)
    if not kernel_holds(sizes, per_parameter):
        raise ValueError(
            f"layout is 'one kernel', whose registers do not hold networks of sizes {sizes} with {per_parameter:.0f} "
            "numbers for each parameter; leave layout out"
        )
    for name in ("hidden", "output", "loss"):
        if getattr(net, name) not in _BY_ELEMENTS:
            raise ValueError(
                f"layout is 'one kernel', but net.{name} is {getattr(net, name).name}, which does not act on each unit "
                "by itself; leave layout out"
            )
    dtype = state.params[0].weight.dtype
    needed = _operations(jax.make_jaxpr(step)(state, jax.ShapeDtypeStruct((), dtype), state.params).jaxpr)
    if needed - _BY_NUMBERS:
        raise ValueError(
            "layout is 'one kernel', but the optimizer does not treat each number by itself: it needs "
            f"{', '.join(sorted(needed - _BY_NUMBERS))}; leave layout out"
        )
    if "pow" in needed and dtype == jnp.float64 and jax.default_backend() == "gpu":
        # JAX compiles the power of two numbers of weak type, such as those of optax.adam, as one of float32.
        raise ValueError(
            "layout is 'one kernel', but the optimizer takes powers, which do not compile for float64; leave layout "
            "out, or use float32"
        )
    return per_parameter


def numbers_per_parameter(state: Any) -> float:
    """How many numbers a kernel holds for each parameter: itself, its gradient, and those of the optimizer."""
    everything, parameters = (sum(leaf.size for leaf in jax.tree.leaves(part)) for part in (state, state.params))
    return 1 + everything / parameters


def _operations(jaxpr: Any) -> set[str]:
    """The names of all primitives, also within calls."""
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= _operations(inner)
    return found


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

    def read(self, ref: Any, prefix: tuple[int, ...] = ()) -> Any:
        """A leaf (..., lanes), as nested lists of vectors."""
        if len(prefix) == len(ref.shape) - 1:
            return ref[prefix] if prefix else ref[...]
        return [self.read(ref, (*prefix, i)) for i in range(ref.shape[len(prefix)])]

    def write(self, ref: Any, numbers: Any, prefix: tuple[int, ...] = ()) -> None:
        if isinstance(numbers, list):
            for i, part in enumerate(numbers):
                self.write(ref, part, (*prefix, i))
        elif prefix:
            ref[prefix] = numbers
        else:
            ref[...] = numbers

    def number(self, ref: Any) -> Array:
        return ref[...] if ref.shape[0] == _LANES else jnp.full(_LANES, ref[0])

    def zero(self, dtype: Any) -> Array:
        return jnp.zeros(_LANES, dtype)

    def square(self, weights: list[Array]) -> Array:
        return add_up([weight * weight for weight in weights])

    def update(self, step: Callable[..., Any], *arguments: Any) -> Any:
        return jax.vmap(step)(*arguments)

    def gradient(self, params: Any, batches: Any, k: ArrayLike) -> tuple[Array, list[Layer], Array]:
        """Sums over the examples of batch k, weighted: losses and gradients; and the sum of the weights."""
        x, y, *weights = batches
        dtype = x.dtype

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

        zero = self.zero(dtype)
        like = (zero, [Layer(*layer) for layer in params], zero)
        return lax.fori_loop(0, self.n, example, jax.tree.map(jnp.zeros_like, like))


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

    def write(self, ref: Any, numbers: Array) -> None:
        ref[...] = numbers

    def number(self, ref: Any) -> Array:
        return ref[0] if ref.ndim else ref[...]

    def zero(self, dtype: Any) -> Array:
        return jnp.zeros((), dtype)

    def square(self, weights: list[Array]) -> Array:
        return add_up([jnp.sum(weight * weight) for weight in weights])

    def update(self, step: Callable[..., Any], *arguments: Any) -> Any:
        return step(*arguments)

    def gradient(self, params: Any, batches: Any, k: ArrayLike) -> tuple[Array, list[Layer], Array]:
        from jax.experimental import pallas as pl  # here, because it takes a tenth of a second

        x, y, weights = batches
        layout = Layout(_PRODUCTS, _PRODUCTS)
        layers = [Layer(layer.weight, layer.bias[None, :]) for layer in params]
        inside = [jnp.arange(power_of_two(size)) < size for size in self.sizes]

        def group(g: Array, sums: Any) -> Any:
            rows = pl.ds(g * self.group, self.group)
            inputs, targets, weight = x[k, rows, :], y[k, rows, :], weights[k, rows]
            hs, logits = forward_pass(layers, inputs, self.net.hidden, self.net.output, layout)
            last_delta = output_delta(self.net, hs[-1], logits, targets, weight[:, None])
            deltas = backward_pass(layers, hs, last_delta, self.net.hidden, layout)
            by_unit = losses_of(self.net, hs[-1][:, :, None], logits[:, :, None], targets[:, :, None])
            loss = jnp.sum(jnp.where(inside[-1][None, :], by_unit, 0) * weight[:, None])
            return jax.tree.map(jnp.add, sums, (loss, contract(hs, deltas, layout), jnp.sum(weight)))

        zero = self.zero(x.dtype)
        start = (zero, [Layer(*map(jnp.zeros_like, layer)) for layer in params], zero)
        loss, grads, total = lax.fori_loop(0, x.shape[1] // self.group, group, start)
        # Padded numbers stay 0, also where a unit that only fills has an activation.
        masks = [Layer(after[:, None] & before[None, :], after) for before, after in pairwise(inside)]
        return loss, jax.tree.map(lambda mask, g: jnp.where(mask, g, 0), masks, grads), total


# ----------------------------------------------------------------------------------------------------------------------
# The kernel


def _logistic(a: Array) -> Array:
    # By powers of two, which a GPU has an instruction for: the exponential function takes seven more.
    return 1 / (1 + jnp.exp2(a * -1.4426950408889634))


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

    ``step(state, cost, grads, hyperparams)`` is the optimizer's step of one member, where grads and state may have
    nested lists in the place of arrays. States have the members first, as l2 and hyperparameters do where they are
    members' own; a batch's arrays are (batches, n, ...), with the members after the first axis where they are members'
    own. The costs are those of each epoch, or where ``records`` is 1 of the last; not finite from where one was not.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas.triton import CompilerParams

    members = len(state.params[0].bias)
    number, n = batches[1].shape[0], batches[1].shape[-2]
    sizes = (state.params[0].weight.shape[-1], *(layer.bias.shape[-1] for layer in state.params))
    net, dtype = with_logistic(net, _logistic), batches[0].dtype
    threads = in_threads(members, sizes, n, numbers_per_parameter(state))
    form = _Threads(net, own, n) if threads else _Warps(net, own, n, sizes)

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

    def kernel(epochs_ref: Any, *refs: Any) -> None:
        state_refs, hyper_refs, l2_ref, batch_refs = jax.tree.unflatten(tree, refs[: len(axes)])
        *out_refs, costs_ref = refs[len(axes) :]
        hypers = tuple(map(form.number, hyper_refs))
        penalty = None if l2 is None else form.number(l2_ref)
        zero = form.zero(dtype)

        def on_batch(k: ArrayLike, state: Any) -> tuple[Any, Array, Array]:
            loss, grads, total = form.gradient(state.params, batch_refs, k)
            share = 1 / jnp.where(total == 0, 1, total)
            cost, grads = loss * share, jax.tree.map(lambda g: g * share, grads)
            if penalty is not None:
                weights = [layer.weight for layer in state.params]
                cost += penalty / 2 * form.square(jax.tree.leaves(weights))
                grads = [
                    g._replace(weight=jax.tree.map(lambda g, w: g + penalty * w, g.weight, weight))
                    for g, weight in zip(grads, weights, strict=True)
                ]
            grads = jax.tree.unflatten(jax.tree.structure(state.params), jax.tree.leaves(grads))
            return form.update(step, state, cost, grads, hypers), cost, total

        def on_next(k: Array, carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
            state, cost, total = on_batch(k, carry[0])
            return state, carry[1] + cost * total, carry[2] + total

        def epoch(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
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

        state, cost = lax.fori_loop(0, epochs_ref[0], epoch, (jax.tree.map(form.read, state_refs), zero))
        if records == 1:
            costs_ref[0] = cost
        numbers = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, list))
        for ref, value in zip(out_refs, numbers, strict=True):
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
