"""The gradient by hand against the automatic one: time, compile time, size, memory and operations.

Three forms of the same gradient, checked against each other: by hand (`jaxnet.backprop`); `jaxnet.autodiff`, which is
`jax.value_and_grad` of our own forward pass; and the usual form, `jax.value_and_grad` of a cost as most people write
it, with `h @ W.T`, `jax.nn` and the losses of optax.

Time is that of a step of plain gradient descent in a compiled loop over different batches, as in training; a single
call from Python adds some 10 to 80 µs to each. The rest is that of the gradient alone, compiled by itself. Also the
library's choice to take products of narrow layers units first, against the same with examples first everywhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import jaxnet
from benchmarks import report
from benchmarks.harness import Ratio, counts, geometric_mean, interleave, memory, operations, ratio
from benchmarks.programs import idiomatic_forward
from benchmarks.report import Bar, Report, Table, forest, named

TURN, DATA = 0.01, 2**24
"""Seconds of a turn, and bytes of the batches that its steps take one after the other."""

LOSSES = {
    "squared error": jaxnet.Network(),
    "cross-entropy": jaxnet.Network(loss=jaxnet.losses.cross_entropy),
    "softmax cross-entropy": jaxnet.Network(
        output=jaxnet.activations.softmax, loss=jaxnet.losses.softmax_cross_entropy
    ),
}


class Case(NamedTuple):
    """A network, the examples in a batch, a loss and a dtype."""

    sizes: tuple[int, ...]
    batch: int
    loss: str = "squared error"
    dtype: str = "float32"

    def __str__(self) -> str:
        depth, width = len(self.sizes) - 1, self.sizes[0]
        name = f"{depth} x {width}" if set(self.sizes) == {width} else named(self.sizes)
        loss = "" if self.loss == "squared error" else f", {self.loss}"
        return f"{name}, {self.batch}{loss}" + (" (float64)" if self.dtype == "float64" else "")


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure."""

    rounds: int = 7
    """Turns of each contender."""


def cases(quick: bool) -> list[Case]:
    """The grid: sizes by batches, depths, losses; and fewer batches in float64."""
    if quick:
        shapes = [((2, 2, 1), 128), ((64, 30, 10), 8), ((784, 30, 10), 1), ((784, 30, 10), 1024)]
        return [Case(*shape) for shape in shapes] + [Case((784, 30, 10), 128, "cross-entropy", "float64")]
    sizes = [(2, 2, 1), (2, 16, 1), (64, 30, 10), (784, 30, 10), (784, 100, 10), (784, 512, 512, 10), (1024,) * 5]
    grid = [Case(size, batch) for batch in (1, 8, 128, 1024) for size in sizes]
    grid = sorted([*grid, *(Case(size, 8192) for size in sizes[:-1])], key=lambda case: sizes.index(case.sizes))
    others = [Case((64,) * (depth + 1), 32) for depth in (1, 2, 4, 8, 16)]
    others += [Case((784, 30, 10), 128, loss) for loss in list(LOSSES)[1:]]
    double = [case for case in grid if case.batch in (8, 1024)] + others
    return [*grid, *others, *(case._replace(dtype="float64") for case in double)]


# ----------------------------------------------------------------------------------------------------------------------
# The contenders

Gradient = Callable[[Any, Array, Array], Any]


def usual_cost(loss: str) -> Callable[[Any, Array, Array], Array]:
    """The mean loss as most people write it."""

    def cost(params: Any, x: Array, y: Array) -> Array:
        if loss == "squared error":
            return jnp.mean(jnp.sum((idiomatic_forward(params, x) - y) ** 2, axis=-1))
        *hidden, (weight, bias) = params
        logits = idiomatic_forward(hidden, x) @ weight.T + bias
        if loss == "cross-entropy":
            return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, y), axis=-1))
        return jnp.mean(optax.softmax_cross_entropy(logits, y))

    return cost


def gradients(loss: str) -> dict[str, Gradient]:
    """``(params, x, y) -> (cost, grads)`` by hand and automatically."""
    net = LOSSES[loss]
    return {
        "by hand": lambda params, x, y: jaxnet.backprop(params, x, y, net),
        "autodiff": lambda params, x, y: jaxnet.autodiff(params, x, y, net),
        "usual": jax.value_and_grad(usual_cost(loss)),
    }


def problem(case: Case, batches: int) -> tuple[Any, Array, Array]:
    """Parameters, and batches of inputs and targets that fit the loss."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = jaxnet.init(keys[0], case.sizes, dtype=case.dtype)
    x = jax.random.uniform(keys[1], (batches, case.batch, case.sizes[0]), case.dtype)
    y = jax.random.uniform(keys[2], (batches, case.batch, case.sizes[-1]), case.dtype)
    return params, x, y / y.sum(axis=-1, keepdims=True) if case.loss.startswith("softmax") else y


def descent(gradient: Gradient) -> Any:
    """Steps of gradient descent, one batch after the other, again and again."""

    def step(params: Any, batch: tuple[Array, Array]) -> tuple[Any, Array]:
        value, grads = gradient(params, *batch)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), value

    def run(params: Any, x: Array, y: Array, times: Array) -> Any:
        return lax.fori_loop(0, times, lambda _, params: lax.scan(step, params, (x, y))[0], params)

    return jax.jit(run)


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def measure_case(case: Case, rounds: int) -> dict[str, Any]:
    """All about one case."""
    with jax.enable_x64(case.dtype == "float64"):
        row: dict[str, Any] = {"case": case._asdict(), "name": str(case), "programs": {}}
        params, x, y = problem(case, 1)
        results = {}
        for name, gradient in gradients(case.loss).items():
            row["programs"][name], compiled = alone(gradient, (params, x[0], y[0]))
            results[name] = compiled(params, x[0], y[0])
        for name in ("autodiff", "usual"):
            tolerance = 1e-11 if case.dtype == "float64" else 1e-3
            jaxnet.check.compare(results["by hand"], results[name], tolerance=tolerance).raise_if_failed()
        seconds = row["seconds"] = {name: values.tolist() for name, values in steps(case, rounds).items()}
        own = np.array(seconds["by hand"])
        row["ratios"] = {name: ratio(own, np.array(seconds[name])) for name in seconds if name != "by hand"}
        row["microseconds"] = float(np.median(own)) * 1e6
        row["flops"] = operations(case.sizes, case.batch)
        return row


def alone(gradient: Gradient, arguments: tuple[Any, ...]) -> tuple[dict[str, float], Any]:
    """What the gradient by itself costs beside its time, and it compiled."""
    began = time.perf_counter()
    traced = jax.jit(gradient).trace(*arguments)
    lowered = traced.lower()
    middle = time.perf_counter()
    compiled = lowered.compile()
    costs = {"trace and lower": middle - began, "compile": time.perf_counter() - middle}
    instructions = sum(" = " in line for line in (compiled.as_text() or "").splitlines())
    sizes = {"equations": equations(traced.jaxpr.jaxpr), "instructions": instructions}
    return costs | sizes | memory(compiled) | counts(compiled), compiled


def equations(jaxpr: Any) -> int:
    """How many equations a jaxpr has, those of the functions it calls with them."""
    inner = (
        sub for equation in jaxpr.eqns for sub in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
    )
    return len(jaxpr.eqns) + sum(equations(getattr(sub, "jaxpr", sub)) for sub in inner if _is_jaxpr(sub))


def _is_jaxpr(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def steps(case: Case, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of a step of each contender, in each round."""
    itemsize = 8 if case.dtype == "float64" else 4
    batches = min(1000, max(1, DATA // (itemsize * case.batch * (case.sizes[0] + case.sizes[-1]))))
    arguments = problem(case, batches)
    programs = {name: descent(gradient) for name, gradient in gradients(case.loss).items()}
    programs["examples first"] = descent(gradients(case.loss)["by hand"])
    by_rows = mock.patch.multiple("jaxnet._products", _units_first=lambda *_: False)
    with by_rows, mock.patch.object(sys.modules["jaxnet.backprop"], "as_columns", return_value=False):
        jax.block_until_ready(programs["examples first"](*arguments, 1))  # traced here
    single, _ = interleave({"by hand": lambda: programs["by hand"](*arguments, 1)}, 2)
    times = max(1, round(TURN / float(single["by hand"].min())))
    contenders = {name: lambda program=program: program(*arguments, times) for name, program in programs.items()}
    seconds, _ = interleave(contenders, rounds)
    return {name: values / (times * batches) for name, values in seconds.items()}


# ----------------------------------------------------------------------------------------------------------------------
# What it says


def time_table(rows: list[dict[str, Any]], peaks: dict[str, float]) -> Table:
    """Time of a step, and ratios."""
    shown = []
    for row in rows:
        rate = row["flops"] / row["microseconds"] * 1e6
        ratios = row["ratios"]
        shown.append(
            (row["name"], f"{row['microseconds']:,.2f}", str(ratios["usual"]), ratios["usual"].verdict,
             str(ratios["autodiff"]), ratios["autodiff"].verdict, str(ratios["examples first"]),
             f"{rate / 1e9:.1f}", f"{rate / peaks['matmul ' + row['case']['dtype']]:.0%}")
        )  # fmt: skip
    columns = ("sizes, batch", "µs a step", "over usual", "by hand is", "over autodiff", "by hand is",
               "over examples first", "GFLOP/s", "of peak")  # fmt: skip
    return Table("A step of gradient descent by hand: time, and its ratio to automatic forms", columns, shown)


def program_table(rows: list[dict[str, Any]]) -> Table:
    """The gradient by itself: compile time, sizes, memory, operations; by hand, autodiff, usual."""
    names = ("by hand", "autodiff", "usual")

    def all_of(row: dict[str, Any], *keys: str, form: str = "{:,.0f}") -> str:
        return " | ".join(form.format(sum(row["programs"][name][key] for key in keys)) for name in names)

    shown = [
        (
            row["name"],
            all_of(row, "trace and lower", "compile", form="{:.2f}"),
            all_of(row, "equations"),
            all_of(row, "instructions"),
            " | ".join(f"{row['programs'][name]['temporary'] * 1e3:,.1f}" for name in names),
            " | ".join(f"{row['programs'][name]['flops'] / 1e6:,.3g}" for name in names),
        )
        for row in rows
    ]
    columns = ("sizes, batch", "lower and compile, s", "jaxpr equations", "compiled instructions", "temporary kB",
               "MFLOP")  # fmt: skip
    return Table("The gradient by itself: by hand | autodiff | usual", columns, shown)


def bars(rows: list[dict[str, Any]], peaks: dict[str, float]) -> list[Bar]:
    """The aims."""
    found = []
    for name in ("usual", "autodiff"):
        ratios = {row["name"]: row["ratios"][name] for row in rows}
        slower = {case: value for case, value in ratios.items() if value.low > 1.05}
        told = "; ".join(f"{case}: {value}" for case, value in slower.items()) or f"none of {len(rows)}"
        found.append(Bar(f"never slower than 1.05 of {name} outside noise", told, not slower))
        mean = geometric_mean(value.value for value in ratios.values())
        found.append(Bar(f"geometric mean of the ratio to {name} below 0.95", f"{mean:.3f}", mean < 0.95))
        used = {row["name"]: [row["programs"][which]["temporary"] for which in ("by hand", name)] for row in rows}
        more = {
            case: f"{ours * 1e3:,.1f} kB of {theirs * 1e3:,.1f}"
            for case, (ours, theirs) in used.items()
            if ours > theirs
        }
        told = "; ".join(f"{case}: {value}" for case, value in more.items()) or f"none of {len(rows)}"
        found.append(Bar(f"no more temporary memory than {name}", told, not more))
    wide = [row for row in rows if min(row["case"]["sizes"][:-1]) >= 512 and row["case"]["batch"] >= 1024]
    if wide:
        shares = {
            row["name"]: row["flops"] / row["microseconds"] * 1e6 / peaks["matmul " + row["case"]["dtype"]]
            for row in wide
        }
        told = "; ".join(f"{case}: {share:.0%}" for case, share in shares.items())
        text = "85 % of the peak of matrix products at widths of 512 and more, batches of 1,024 and more"
        found.append(Bar(text, told, min(shares.values()) >= 0.85))
    return found


def figures(rows: list[dict[str, Any]]) -> Iterable[tuple[str, Any]]:
    """The ratios, a figure for each dtype."""
    for dtype in ("float32", "float64"):
        own = [row for row in rows if row["case"]["dtype"] == dtype]
        series: dict[str, list[Ratio | None]] = {
            f"over {name}": [row["ratios"][name] for row in own] for name in ("usual", "autodiff")
        }
        labels = [row["name"].removesuffix(" (float64)") for row in own]
        label = "time by hand over the automatic form"
        yield dtype, forest(labels, series, label, f"{dtype}: sizes, batch")


def measure(settings: Settings, peaks: dict[str, float]) -> Report:
    """Every case of the grid."""
    grid = cases(settings.quick)
    rows = [measure_case(case, settings.rounds) for case in report.progress(grid, "gradients")]
    return Report(
        tables=[time_table(rows, peaks), program_table(rows)],
        bars=bars(rows, peaks),
        figures=dict(figures(rows)),
        numbers={"rows": rows},
        dtype="float32 and float64",
    )


if __name__ == "__main__":
    raise SystemExit(report.script())
