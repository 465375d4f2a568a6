"""The chain rule on any program: `jaxnet.graph.grad` under jit against `jax.grad`, and how fast programs are traced.

Both gradients of each program are compiled, checked against each other, and timed in turns; beside them the time to
trace and lower, to compile, and the temporary memory of the compiled programs. Tracing is `graph.trace` with every
value and gradient kept, equation by equation: its first call compiles each primitive, later ones find it compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxnet
from benchmarks import report
from benchmarks.harness import interleave, memory, ratio
from benchmarks.programs import Program, convolutional_network, transformer_block
from benchmarks.report import Bar, Report, Table, forest
from jaxnet import graph


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure."""

    rounds: int = 31
    """Turns of each gradient."""


def sigmoid_network(key: Array, *, batch: int = 128) -> Program:
    """The cost of the library's own network, 784-30-10."""
    keys = jax.random.split(key, 3)
    params = jaxnet.init(keys[0], (784, 30, 10))
    x, y = jax.random.normal(keys[1], (batch, 784)), jax.random.uniform(keys[2], (batch, 10))
    return Program(jaxnet.cost, (params, x, y))


def recurrent_network(key: Array, *, batch: int = 32, length: int = 50, width: int = 64) -> Program:
    """A recurrent layer scanned over time: Elman 1990."""
    keys = jax.random.split(key, 3)
    params = {name: jax.random.normal(k, (width, width)) / 8 for name, k in zip("VU", keys[:2], strict=True)}
    x = jax.random.normal(keys[2], (length, batch, width))

    def loss(params: Any, x: Array) -> Array:
        def step(h: Array, x: Array) -> tuple[Array, Array]:
            h = jnp.tanh(x @ params["V"] + h @ params["U"])
            return h, h

        _, hidden = lax.scan(step, jnp.zeros((batch, width)), x)
        return jnp.mean(hidden**2)

    return Program(loss, (params, x))


PROGRAMS = (transformer_block, convolutional_network, sigmoid_network, recurrent_network)


def compiled(gradient: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, dict[str, float]]:
    """A gradient compiled for arguments, with the seconds that tracing, lowering and compiling took, and its memory."""
    began = time.perf_counter()
    lowered = jax.jit(gradient).lower(*args)
    traced = time.perf_counter()
    program = lowered.compile()
    done = time.perf_counter()
    costs = {"lower": traced - began, "compile": done - traced, "temporary MB": memory(program)["temporary"]}
    return program, costs


def measure_program(make: Callable[..., Program], rounds: int) -> dict[str, Any]:
    """One program: both gradients, and tracing."""
    f, args = make(jax.random.key(0))
    gradients = {"ours": graph.grad(f), "jax.grad": jax.grad(f)}
    programs, costs = {}, {}
    for name, gradient in gradients.items():
        programs[name], costs[name] = compiled(gradient, args)
    ours, theirs = (program(*args) for program in programs.values())
    jaxnet.check.compare(ours, theirs, tolerance=1e-4).raise_if_failed()
    seconds, _ = interleave({name: lambda p=p: p(*args) for name, p in programs.items()}, rounds)
    nodes = 0
    tracing = []
    for _ in range(6):
        began = time.perf_counter()
        traced = graph.trace(f)(*args)
        jax.block_until_ready([node.gradient for node in traced.nodes if node.gradient is not None])
        tracing.append(time.perf_counter() - began)
        nodes = len(traced.nodes)
    return {
        "program": make.__name__.replace("_", " "),
        "milliseconds": {name: float(np.median(values)) * 1e3 for name, values in seconds.items()},
        "ratio": ratio(seconds["ours"], seconds["jax.grad"]),
        "costs": costs,
        "nodes": nodes,
        "seconds of the first trace": tracing[0],
        "nodes a second": nodes / float(np.median(tracing[1:])),
    }


def measure(settings: Settings, _: dict[str, float]) -> Report:
    """Both gradients of every program, and tracing."""
    programs = PROGRAMS[-1:] if settings.quick else PROGRAMS
    rows = [measure_program(make, settings.rounds) for make in report.progress(programs, "graph")]
    costs = [[row["costs"][name] for name in ("ours", "jax.grad")] for row in rows]
    compiled = [
        (
            row["program"],
            f"{row['milliseconds']['ours']:.2f}",
            str(row["ratio"]),
            row["ratio"].verdict,
            *(f"{cost['lower']:.2f} + {cost['compile']:.2f}" for cost in pair),
            *(f"{cost['temporary MB']:.1f}" for cost in pair),
        )
        for row, pair in zip(rows, costs, strict=True)
    ]
    traced = [
        (row["program"], str(row["nodes"]), f"{row['seconds of the first trace']:.2f}", f"{row['nodes a second']:,.0f}")
        for row in rows
    ]
    columns = (
        "program",
        "ms",
        "over jax.grad",
        "ours is",
        "lower + compile, s",
        "of jax.grad",
        "temporary MB",
        "of jax.grad",
    )
    slow = [f"{row['program']} {row['ratio']}" for row in rows if row["ratio"].low > 1]
    return Report(
        tables=[
            Table("graph.grad under jit", columns, compiled),
            Table("graph.trace", ("program", "nodes", "first trace, s", "nodes a second after it"), traced),
        ],
        bars=[Bar("no slower than `jax.grad` outside noise", ", ".join(slow) or f"none of {len(rows)}", not slow)],
        figures={
            "ratios": forest(
                [row["program"] for row in rows],
                {"ours": [row["ratio"] for row in rows]},
                "time of graph.grad over jax.grad, both under jit",
            )
        },
        numbers={"rows": rows},
    )


if __name__ == "__main__":
    raise SystemExit(report.script())
