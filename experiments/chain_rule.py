"""The chain rule on a computation graph: forward values, gradients from back to front, and the sum over paths.

Three programs, each traced, drawn, listed and checked: the lecture's f = ((a + b) c)²; an example in which a variable
acts on two paths, so that its gradient is a sum; and the whole backpropagation of a network with two inputs, two hidden
units and one output on one example of XOR, weight by weight. The gradients of all three are heard by every witness of
`jaxnet.check`, and the network's are compared with `jaxnet.backprop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name as named

import jaxnet
from experiments.common import RESULTS, Claim, Result, console, gradient_agreement, main, verdict
from jaxnet import check, graph


@dataclass(frozen=True)
class Settings:
    """The numbers that the three programs are run on."""

    a: float = 1.0
    """a in f = ((a + b) c)²."""
    b: float = 2.0
    """b."""
    c: float = 3.0
    """c."""
    x: float = 1.5
    """x in the example of two paths, g = x² sin x."""
    seed: int = 0
    """Seed of the network's weights."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


class Case(NamedTuple):
    """A program with the arguments it is run on, and the argument whose paths are shown."""

    f: Callable[..., Array]
    args: tuple[Any, ...]
    shown: str
    title: str


def lecture(a: Array, b: Array, c: Array) -> Array:
    """F = ((a + b) c)²."""
    u = named(a + b, "u")
    v = named(u * c, "v")
    return named(v**2, "f")


def two_paths(x: Array) -> Array:
    """G = p q with p = x² and q = sin x: x acts on g through both."""
    p = named(x**2, "p")
    q = named(jnp.sin(x), "q")
    return named(p * q, "g")


def network(
    V11: Array,
    V12: Array,
    V10: Array,
    V21: Array,
    V22: Array,
    V20: Array,
    W1: Array,
    W2: Array,
    W0: Array,
    x1: Array,
    x2: Array,
    y: Array,
) -> Array:
    """ℓ = (ŷ − y)² with h = s(V x), ŷ = s(W h), number by number; the weights ..0 are those of the constant 1."""
    with jax.named_scope("hidden unit 1"):
        h1 = named(jax.nn.sigmoid(V11 * x1 + V12 * x2 + V10), "h1")
    with jax.named_scope("hidden unit 2"):
        h2 = named(jax.nn.sigmoid(V21 * x1 + V22 * x2 + V20), "h2")
    with jax.named_scope("output unit"):
        output = named(jax.nn.sigmoid(W1 * h1 + W2 * h2 + W0), "ŷ")
    return named((output - y) ** 2, "ℓ")  # fmt: skip


def params_of(weights: Sequence[Array]) -> tuple[jaxnet.Layer, ...]:
    """The weights, in the order of `network`, as the library has them."""
    hidden, output = jnp.reshape(jnp.stack(weights[:6]), (2, 3)), jnp.stack(weights[6:])
    return jaxnet.from_augmented((hidden, output[None]))


def cases(settings: Settings) -> dict[str, Case]:
    """The three programs with their arguments."""
    weights = jax.random.normal(jax.random.key(settings.seed), (9,), float)
    a, b, c, x = (jnp.asarray(value, float) for value in (settings.a, settings.b, settings.c, settings.x))
    example = jnp.array([1.0, 0.0, 1.0])
    return {
        "lecture": Case(lecture, (a, b, c), "a", "the lecture's f = ((a + b) c)²"),
        "two_paths": Case(two_paths, (x,), "x", "two paths from x to g = x² sin x"),
        "network": Case(network, (*weights, *example), "x1", "a 2-2-1 network on an example of XOR, ℓ = (ŷ − y)²"),
    }


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Trace, draw and check the three programs."""
    numbers: dict[str, Any] = {}
    figures = {}
    paths: dict[str, graph.Paths] = {}
    with jax.enable_x64(True):
        given = cases(settings)
        for name, case in given.items():
            traced = graph.trace(case.f)(*case.args)
            paths[name] = traced.paths(case.shown)
            argnums = tuple(range(len(case.args)))
            report = check.check_gradient(case.f, graph.grad(case.f, argnums), case.args, argnums=argnums)
            numbers[name] = described(traced, paths[name], report)
            figures[name] = traced.draw(title=case.title)
            figures[name].set_label(f"{case.title}: its graph, with the value and the gradient of every node")
            if progress:
                show(case, traced, paths[name], report)
        args = given["network"].args
        x, y = jnp.stack(args[9:11])[None], args[11][None, None]
        _, by_hand = jaxnet.backprop(params_of(args[:9]), x, y)
        same = check.compare(params_of(graph.grad(network, tuple(range(9)))(*args)), by_hand)
    for name in given:
        heard = numbers[name]["witnesses"].values()
        numbers[f"witnesses that agree, {name}"] = f"{sum(heard)} of {len(heard)}"
    numbers["paths from x to g"] = len(numbers["two_paths"]["paths"])
    numbers["network: relative error against jaxnet.backprop"] = same.relative_error
    numbers["holds"] = bool(same) and all(all(numbers[name]["witnesses"].values()) for name in given)
    numbers["gradient_agreement"] = gradient_agreement(
        lambda *args: _gradients(graph.grad, given, args),
        lambda *args: _gradients(jax.grad, given, args),
        tuple(case.args for case in given.values()),
    )
    claims = (
        lecture_claim(settings, numbers["lecture"]["nodes"]),
        sum_claim(settings.x, paths["two_paths"]),
        Claim(
            "Backpropagation in a network is this chain rule: the graph gives each weight the gradient that the "
            "hand-written backward pass gives it.",
            verdict(bool(same)),
            "The nine gradients of the 2-2-1 network differ from jaxnet.backprop by a relative error of "
            f"{same.relative_error:.1e}.",
        ),
        Claim(
            "The gradients found so are the derivatives of the programs.",
            verdict(all(all(numbers[name]["witnesses"].values()) for name in given)),
            "Independent witnesses that agree: "
            + ", ".join(f"{numbers[f'witnesses that agree, {name}']} ({case.title})" for name, case in given.items())
            + ".",
        ),
    )
    return Result(numbers, figures, claims)


def lecture_claim(settings: Settings, nodes: dict[str, Any]) -> Claim:
    """The backward pass through f = ((a + b) c)² against the formulas 2 (a + b) c², twice, and 2 (a + b)² c."""
    a, b, c = settings.a, settings.b, settings.c
    formulas = {"a": 2 * (a + b) * c**2, "b": 2 * (a + b) * c**2, "c": 2 * (a + b) ** 2 * c}
    found = {name: float(nodes[name]["gradient"]) for name in formulas}
    return Claim(
        "Going back through f = ((a + b) c)², each node times its local derivative, gives the gradient in a, b and c.",
        verdict(all(math.isclose(found[name], formulas[name], rel_tol=1e-12) for name in formulas)),
        f"By the graph {', '.join(f'{value:g}' for value in found.values())}; by the formulas 2 (a + b) c² (twice) and "
        f"2 (a + b)² c {', '.join(f'{value:g}' for value in formulas.values())}.",
    )


def sum_claim(x: float, paths: graph.Paths) -> Claim:
    """The sum over the paths from x to x² sin x against its derivative, 2 x sin x + x² cos x."""
    formula, total = 2 * x * math.sin(x) + x**2 * math.cos(x), float(paths.sum)
    return Claim(
        "A variable that acts on two paths has the sum of both as its gradient: of each, the product of its local "
        "derivatives.",
        verdict(len(paths) == 2 and math.isclose(total, formula, rel_tol=1e-12)),
        f"g = x² sin x at x = {x:g}: {' + '.join(f'{path.product:.6g}' for path in paths)} = {total:.6g}; the formula "
        f"2 x sin x + x² cos x gives {formula:.6g}.",
    )


def _gradients(grad: Callable[..., Any], given: dict[str, Case], args: Any) -> list[Any]:
    """The gradients of all the programs in all their arguments."""
    return [grad(case.f, tuple(range(len(a))))(*a) for case, a in zip(given.values(), args, strict=True)]


def described(traced: graph.Graph, paths: graph.Paths, report: check.Report) -> dict[str, Any]:
    """What was found about one program, as numbers."""
    return {
        "nodes": {
            node.name or f"{node.primitive}{node.index}": {"value": node.value, "gradient": node.gradient}
            for node in traced.nodes
        },
        "paths": [str(path) for path in paths],
        "sum": paths.sum,
        "witnesses": {witness.name: witness.holds for witness in report.witnesses if witness.holds is not None},
    }


def show(case: Case, traced: graph.Graph, paths: graph.Paths, report: check.Report) -> None:
    """Print the table, the paths and what the witnesses say."""
    console.print(f"\n[bold]{case.title}")
    console.print(traced.table())
    console.print(f"\nevery path from {case.shown} to the result, with its local derivatives:")
    console.print(str(paths), highlight=False, soft_wrap=True)
    console.print(f"\n{report}", highlight=False, soft_wrap=True, markup=False)


FULL: dict[str, Any] = {}

if __name__ == "__main__":
    raise SystemExit(main("chain_rule", run, Settings, FULL, __doc__))
