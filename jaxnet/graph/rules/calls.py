"""Programs within the program: compiled functions, functions with derivatives of their own, and linear solvers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0
from jax.errors import UnexpectedTracerError
from jax.extend.core import Primitive
from jax.extend.core import primitives as P

from jaxnet.graph.registry import rule
from jaxnet.graph.tape import OPENERS, Opener, Scope, Tape, bind, function_name, is_differentiable, to_zero


def opener(primitive: Primitive) -> Callable[[Opener], Opener]:
    """Register how to run what is inside a primitive on the tape."""

    def register(run: Opener) -> Opener:
        OPENERS[primitive] = run
        return run

    return register


@opener(P.jit_p)
def _open_jit(tape: Tape, operands: list[int], params: Mapping[str, Any], scope: tuple[Scope, ...]) -> list[int]:
    return tape.run(params["jaxpr"], operands, (*scope, Scope(params["name"])))


@opener(P.closed_call_p)
@opener(P.call_p)
def _open_call(tape: Tape, operands: list[int], params: Mapping[str, Any], scope: tuple[Scope, ...]) -> list[int]:
    return tape.run(params["call_jaxpr"], operands, scope)


# ----------------------------------------------------------------------------------------------------------------------
# jax.checkpoint: nothing is saved but the operands, and the function is run again on the way back


@opener(P.remat_p)
def _open_remat(tape: Tape, operands: list[int], params: Mapping[str, Any], scope: tuple[Scope, ...]) -> list[int]:
    return tape.run(params["jaxpr"], operands, scope)


def _run_remat(active: Sequence[bool], *operands: Any, jaxpr: Any, **_: Any) -> Any:
    return Tape.of(jaxpr, operands, [False] * len(active)).outputs, active


@rule(P.remat_p, forward=_run_remat)
def remat(z_bar: Any, active: Any, *operands: Any, jaxpr: Any, prevent_cse: Any, **_: Any) -> Any:
    """The chain rule through a second run."""
    if prevent_cse:  # else the compiler would merge the second run with the first, and save what was not to be saved
        operands, z_bar = lax.optimization_barrier((operands, z_bar))
    return Tape.of(jaxpr, operands, active).back(z_bar)


# ----------------------------------------------------------------------------------------------------------------------
# jax.custom_jvp and jax.custom_vjp: the derivative is what their author says


def _run_custom_jvp(active: Sequence[bool], *operands: Any, **params: Any) -> Any:
    """Run the author's rule, which turns tangents into tangents: a linear program, to be pulled back through."""
    _, rule_of_tangents = P.custom_jvp_call_p.get_bind_params(params)["subfuns"]
    given = [jnp.zeros_like(x) for x, wanted in zip(operands, active, strict=True) if wanted]
    moving: list[bool] = []

    def program(given: Sequence[Any]) -> list[Any]:
        it = iter(given)
        tangents = [
            next(it) if wanted else _no_tangent(x, params["symbolic_zeros"])
            for x, wanted in zip(operands, active, strict=True)
        ]
        results = rule_of_tangents.call_wrapped(*operands, *tangents)
        n = len(results) // 2
        moving[:] = [not isinstance(t, SymbolicZero) and t.dtype != float0 for t in results[n:]]
        return [*results[:n], *(t for t, moves in zip(results[n:], moving, strict=True) if moves)]

    with _closing_over_nothing("custom_jvp", params):
        tape = Tape.of(jax.make_jaxpr(program)(given), given, [True] * len(given))
    return tape.outputs[: len(moving)], (tape, moving, active)


@contextmanager
def _closing_over_nothing(kind: str, params: Mapping[str, Any]) -> Iterator[None]:
    """An error of ours where an author's rule uses a value that only its own trace knew."""
    try:
        yield
    except UnexpectedTracerError as error:
        raise NotImplementedError(
            f"the rule of the jax.{kind} {function_name(params)} closes over a value that is computed in f or is an "
            "argument of it, which is not known any more when the rule runs; pass it to the function as an argument"
        ) from error


def _no_tangent(x: Any, symbolic: bool) -> Any:
    if symbolic:
        return SymbolicZero(jax.typeof(x).to_tangent_aval())
    return to_zero(x) if is_differentiable(x) else np.zeros(jnp.shape(x), float0)


@rule(P.custom_jvp_call_p, forward=_run_custom_jvp)
def custom_jvp_call(z_bar: Any, saved: Any, *_: Any, **__: Any) -> Any:
    """The transpose of the author's linear map from tangents to tangents."""
    tape, moving, active = saved
    found = iter(tape.back([None] * len(z_bar) + [bar for bar, moves in zip(z_bar, moving, strict=True) if moves]))
    return [next(found) if wanted else None for wanted in active]


def _run_custom_vjp(active: Sequence[bool], *operands: Any, **params: Any) -> Any:
    bound = P.custom_vjp_call_p.get_bind_params(params)
    _, forward, backward = bound["subfuns"]
    with _closing_over_nothing("custom_vjp", params):
        found = forward.call_wrapped(*(item for pair in zip(operands, active, strict=True) for item in pair))
    _, residual_tree, forwarded = bound["out_trees"]()
    cut = residual_tree.num_leaves - sum(i is not None for i in forwarded)
    given = iter(found[:cut])
    residuals = [next(given) if i is None else operands[i] for i in forwarded]
    return found[cut:], (found[cut:], residuals, backward)


@rule(P.custom_vjp_call_p, forward=_run_custom_vjp)
def custom_vjp_call(z_bar: Any, saved: Any, *operands: Any, **params: Any) -> Any:
    """The author's own backward pass."""
    z, residuals, backward = saved
    bars = [np.zeros(jnp.shape(y), float0) if bar is None else bar for y, bar in zip(z, z_bar, strict=True)]
    with _closing_over_nothing("custom_vjp", params):
        found = backward.call_wrapped(*residuals, *bars)
    if len(found) == 2 and isinstance(found[0], list):  # JAX 0.11 returns its logs too
        found = found[0]
    return [
        bar if is_differentiable(x) and hasattr(bar, "dtype") else None for bar, x in zip(found, operands, strict=True)
    ]


# ----------------------------------------------------------------------------------------------------------------------
# lax.custom_linear_solve, which jnp.linalg.solve and inv use


@rule(P.linear_solve_p)
def linear_solve(z_bar: Any, z: Any, *operands: Any, const_lengths: Any, jaxprs: Any) -> Any:
    """A z = b.  b̄ = A⁻ᵀ z̄, and Ā the cotangent that −b̄ brings to A through A z."""
    if jaxprs.transpose_solve is None:
        return [NotImplemented] * len(operands)
    cuts = [0, *np.cumsum(const_lengths).tolist()]
    consts = type(const_lengths)(*(operands[a:b] for a, b in itertools.pairwise(cuts)))
    turned = {"const_lengths": const_lengths.transpose(), "jaxprs": jaxprs.transpose()}
    b_bar = bind(P.linear_solve_p, [*itertools.chain(*consts.transpose()), *z_bar], turned)
    tape = Tape.of(jaxprs.matvec, [*consts.matvec, *z], [True] * len(consts.matvec) + [False] * len(z))
    a_bar = tape.back([-bar for bar in b_bar])[: len(consts.matvec)]
    return [*a_bar, *[None] * (cuts[-1] - len(a_bar)), *b_bar]
