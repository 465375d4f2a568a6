"""Loops and branches. A scan goes back as a scan; a while loop goes back over the iterations that it ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax import Array, lax
from jax.errors import ConcretizationTypeError
from jax.extend.core import Literal, jaxpr_as_fun
from jax.extend.core import primitives as P

from jaxnet.graph.registry import rule
from jaxnet.graph.rules.calls import opener
from jaxnet.graph.tape import REACHED, Scope, Tape, bind, is_differentiable, jaxpr_and_consts, reached_results, to_zero

# ----------------------------------------------------------------------------------------------------------------------
# scan: z = (last carry, ys) from (consts, first carry, xs)


def _parts(params: Mapping[str, Any], operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The operands of a scan, or anything with one entry for each: constants, carry, and what is scanned over."""
    if "ft_in" in params:  # JAX 0.11
        n, m = (len(part) for part in params["ft_in"].unpack()[:2])
    else:
        n, m = params["num_consts"], params["num_carry"]
    return list(operands[:n]), list(operands[n : n + m]), list(operands[n + m :])


@opener(P.scan_p)
def _open_scan(tape: Tape, operands: list[int], params: Mapping[str, Any], scope: tuple[Scope, ...]) -> list[int]:
    """Iteration by iteration."""
    consts, carry, xs = _parts(params, operands)
    order = range(params["length"])
    rows: dict[int, list[int]] = {}
    for t in reversed(order) if params["reverse"] else order:
        here = (*scope, Scope(f"iteration {t}"))
        x = [_on_tape(tape, lambda x, t=t: lax.index_in_dim(x, t, keepdims=False), [i], here) for i in xs]
        results = tape.run(params["jaxpr"], [*consts, *carry, *x], here)
        carry, rows[t] = results[: len(carry)], results[len(carry) :]
    if not rows:
        empty = [var.aval for var in jaxpr_and_consts(params["jaxpr"])[0].outvars[len(carry) :]]
        return [*carry, *(tape.put(jnp.zeros((0, *aval.shape), aval.dtype)) for aval in empty)]
    columns = zip(*(rows[t] for t in order), strict=True)
    return [*carry, *(_on_tape(tape, lambda *row: jnp.stack(row), list(column), scope) for column in columns)]


def _on_tape(tape: Tape, f: Callable[..., Array], operands: list[int], scope: tuple[Scope, ...]) -> int:
    (result,) = tape.run(jax.make_jaxpr(f)(*(tape.values[i] for i in operands)), operands, scope)
    return result


def _run_scan(active: Sequence[bool], *operands: Any, **params: Any) -> Any:
    """The scan, which also leaves what its way back needs of each iteration."""
    consts, carry, xs = _parts(params, operands)
    active = _settled(params, active)
    rows = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in xs]
    at_hand = [True] * len(consts) + [False] * len(carry) + [True] * len(xs)
    halves = _halves(params["jaxpr"], [*consts, *carry, *rows], active, at_hand)

    def step(carry: list[Any], x: list[Any]) -> Any:
        results, kept = halves.forward(*consts, *carry, *x)
        return results[: len(carry)], (results[len(carry) :], kept)

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    last, (ys, kept) = lax.scan(step, carry, xs, **options)
    return [*last, *ys], (kept, halves, active)


@rule(P.scan_p, forward=_run_scan)
def scan(z_bar: Any, saved: Any, *operands: Any, **params: Any) -> Any:
    """A scan the other way round, which carries the cotangents of the carry, and adds up those of the constants."""
    kept, halves, active = saved
    consts, carry, xs = _parts(params, operands)
    consts_active, carry_active, _ = _parts(params, active)
    last_bar = [bar if a else None for bar, a in zip(z_bar[: len(carry)], carry_active, strict=True)]

    def step(bars: Any, row: Any) -> Any:
        carry_bar, consts_bar = bars
        x, kept, y_bar = row
        found = halves.backward([*consts, *x], kept, [*carry_bar, *y_bar])
        more, carry_bar, x_bar = _parts(params, found)
        return (carry_bar, [_plus(a, b) for a, b in zip(consts_bar, more, strict=True)]), x_bar

    none_yet = [to_zero(value) if a else None for value, a in zip(consts, consts_active, strict=True)]
    (first_bar, consts_bar), xs_bar = lax.scan(
        step,
        (last_bar, none_yet),
        (xs, kept, list(z_bar[len(carry) :])),
        length=params["length"],
        reverse=not params["reverse"],
        unroll=params["unroll"],
    )
    return [*consts_bar, *first_bar, *xs_bar]


def _plus(a: Any, b: Any) -> Any:
    return None if a is None else a + b


def _settled(params: Mapping[str, Any], active: Sequence[bool]) -> list[bool]:
    """Which operands are active in some iteration."""
    consts, carry, xs = _parts(params, active)
    return [*consts, *_settle(params["jaxpr"], consts, carry, xs), *xs]


def _settle(jaxpr: Any, consts: Sequence[bool], carry: Sequence[bool], xs: Sequence[bool]) -> list[bool]:
    """Which of the carry are active in the end: what one iteration makes of it is what the next one gets."""
    while True:
        after = _reached(jaxpr, [*consts, *carry, *xs])[: len(carry)]
        if all(was or not now for was, now in zip(carry, after, strict=True)):
            return list(carry)
        carry = [was or now for was, now in zip(carry, after, strict=True)]


def _reached(jaxpr: Any, active: Sequence[bool]) -> list[bool]:
    """Which results of a jaxpr depend on active operands."""
    jaxpr, _ = jaxpr_and_consts(jaxpr)
    reached = {var for var, a in zip(jaxpr.invars, active, strict=True) if a}
    for equation in jaxpr.eqns:
        given = [not isinstance(atom, Literal) and atom in reached for atom in equation.invars]
        through = zip(equation.outvars, reached_results(equation, given), strict=True)
        reached.update(var for var, a in through if a and is_differentiable(var.aval))
    return [not isinstance(atom, Literal) and atom in reached for atom in jaxpr.outvars]


def _variables(atoms: Sequence[Any]) -> set[Any]:
    return {atom for atom in atoms if not isinstance(atom, Literal)}


class _Halves(NamedTuple):
    """One iteration of a scan in two halves.

    ``forward(*operands)`` gives the results and, of the values between, those that the other half reads;
    ``backward(at_hand, kept, bars)`` the cotangents of the operands, None for those that are not active.
    """

    forward: Callable[..., tuple[list[Any], list[Any]]]
    backward: Callable[..., list[Any]]


def _halves(jaxpr: Any, operands: Sequence[Any], active: Sequence[bool], at_hand: Sequence[bool]) -> _Halves:
    """Trace an iteration and its way back. Operands ``at_hand`` can be read there again, and need not be kept."""
    tape, names = Tape(), []

    def run(*operands: Any) -> Any:
        nonlocal tape, names
        tape = Tape.of(jaxpr, operands, active)
        here = {id(x): x for x, known in zip(operands, at_hand, strict=True) if known}
        traced = {id(leaf): leaf for leaf in jax.tree.leaves(tape) if isinstance(leaf, jax.core.Tracer)}
        between = {name: leaf for name, leaf in traced.items() if name not in here}
        names = [*here, *between]
        return tape.outputs, list(between.values())

    def back(values: Sequence[Any], bars: Sequence[Any]) -> list[Any]:
        place = dict(zip(names, values, strict=True))
        return jax.tree.map(lambda leaf: place.get(id(leaf), leaf), tape).back(bars)

    forward, (outputs, between) = jax.make_jaxpr(run, return_shape=True)(*operands)
    here = [x for x, known in zip(operands, at_hand, strict=True) if known]
    bars = [z if tape.active[i] else None for z, i in zip(outputs, tape.results, strict=True)]
    backward, found = jax.make_jaxpr(back, return_shape=True)([*here, *between], bars)
    read = _read(backward)[len(here) : len(here) + len(between)]
    wanted = [bar is not None for bar in bars]
    returned = jax.tree.structure(found)

    def run_forward(*operands: Any) -> tuple[list[Any], list[Any]]:
        values = jaxpr_as_fun(forward)(*operands)
        cut = len(outputs)
        return values[:cut], [value for value, needed in zip(values[cut:], read, strict=True) if needed]

    def run_backward(here: Sequence[Any], kept: Sequence[Any], bars: Sequence[Any]) -> list[Any]:
        it = iter(kept)
        values = [next(it) if needed else to_zero(z) for z, needed in zip(between, read, strict=True)]
        bars = [bar for bar, w in zip(bars, wanted, strict=True) if w]
        return jax.tree.unflatten(returned, jaxpr_as_fun(backward)(*here, *values, *bars))

    return _Halves(run_forward, run_backward)


def _read(closed: Any) -> list[bool]:
    """Which operands of a jaxpr its results depend on."""
    jaxpr, _ = jaxpr_and_consts(closed)
    needed = _variables(jaxpr.outvars)
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed |= _variables(equation.invars)
    return [var in needed for var in jaxpr.invars]


# ----------------------------------------------------------------------------------------------------------------------
# while


@opener(P.while_p)
def _open_while(
    tape: Tape, operands: list[int], params: Mapping[str, Any], scope: tuple[Scope, ...]
) -> list[int] | None:
    """Iteration by iteration, as long as the condition holds; None if it is not known now."""
    n, m = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts, carry = operands[:n], operands[n : n + m], operands[n + m :]
    t = 0
    try:
        while bool(jaxpr_as_fun(params["cond_jaxpr"])(*(tape.values[i] for i in [*cond_consts, *carry]))[0]):
            carry = tape.run(params["body_jaxpr"], [*body_consts, *carry], (*scope, Scope(f"iteration {t}")))
            t += 1
    except ConcretizationTypeError:
        return None
    return carry


def _run_while(active: Sequence[bool], *operands: Any, **params: Any) -> Any:
    tape = Tape()
    tape.begin(operands, active)
    results = _open_while(tape, tape.inputs, params, ())
    if results is None:
        return bind(P.while_p, operands, params), None
    tape.results = results
    return tape.outputs, tape


def _reached_by_while(params: Mapping[str, Any], active: Sequence[bool]) -> list[bool]:
    """The condition decides how often the body runs, but is no way for a derivative."""
    n, m = params["cond_nconsts"], params["body_nconsts"]
    return _settle(params["body_jaxpr"], active[n : n + m], active[n + m :], ())


REACHED[P.while_p] = _reached_by_while


@rule(P.while_p, forward=_run_while)
def while_loop(z_bar: Any, tape: Tape | None, *operands: Any, **_: Any) -> Any:
    """The chain rule through the iterations that ran."""
    if tape is None:
        raise NotImplementedError(
            "the way back through a while loop needs the values of its iterations, whose number is not known while the "
            "program is compiled or mapped over: use jax.lax.scan, a fori_loop with fixed bounds, or no jit"
        )
    return tape.back(z_bar)


# ----------------------------------------------------------------------------------------------------------------------
# cond and switch: z = branches[index](operands)


@opener(P.cond_p)
def _open_cond(
    tape: Tape, operands: list[int], params: Mapping[str, Any], scope: tuple[Scope, ...]
) -> list[int] | None:
    """The branch that was taken; None if it is not known now."""
    try:
        index = int(tape.values[operands[0]])
    except ConcretizationTypeError:
        return None
    return tape.run(params["branches"][index], operands[1:], (*scope, Scope(f"branch {index}")))


def _run_cond(active: Sequence[bool], *operands: Any, **params: Any) -> Any:
    return bind(P.cond_p, operands, params), active[1:]


def _reached_by_cond(params: Mapping[str, Any], active: Sequence[bool]) -> list[bool]:
    found = (_reached(branch, active[1:]) for branch in params["branches"])
    return [any(result) for result in zip(*found, strict=True)]


REACHED[P.cond_p] = _reached_by_cond


@rule(P.cond_p, forward=_run_cond)
def cond(z_bar: Any, active: Any, index: Any, *operands: Any, branches: Any, **_: Any) -> Any:
    """Back through the same branch, which is run again for its values."""

    def way_back(branch: Any) -> Callable[..., Any]:
        def run(operands: Sequence[Any], z_bar: Sequence[Any]) -> list[Any]:
            return Tape.of(branch, operands, active).back(z_bar)

        return run

    return [None, *lax.switch(index, [way_back(branch) for branch in branches], operands, z_bar)]
