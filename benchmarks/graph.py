"""The chain rule on any program: `jaxnet.graph.grad` under jit against ``jax.grad``, and how fast programs are traced.

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
import tyro
from jax import Array, lax
from rich.console import Console
from rich.table import Table

import jaxnet
from benchmarks.harness import interleave, machine, memory, ratio, save
from benchmarks.programs import Program, convolutional_network, transformer_block
from jaxnet import graph

console = Console(width=120)


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    rounds: int = 31
    """Turns of each gradient."""
    quick: bool = False
    """A third of the rounds."""


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


def measure(make: Callable[..., Program], rounds: int) -> dict[str, Any]:
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


def main(settings: Settings) -> None:
    """Measure, print, and write ``results/benchmarks/graph.json``."""
    rows = [measure(make, settings.rounds // 3 if settings.quick else settings.rounds) for make in PROGRAMS]
    table = Table("program", "ms", "over jax.grad", "lower + compile, s", "of jax.grad", "temporary MB", "of jax.grad",
                  title="graph.grad under jit")  # fmt: skip
    tracing = Table("program", "nodes", "first trace, s", "nodes a second after it", title="graph.trace")
    for row in rows:
        value, low, high = row["ratio"]
        shown = [row["program"], f"{row['milliseconds']['ours']:.2f}", f"{value:.2f} [{low:.2f}, {high:.2f}]"]
        costs = [row["costs"][name] for name in ("ours", "jax.grad")]
        shown += [f"{cost['lower']:.2f} + {cost['compile']:.2f}" for cost in costs]
        shown += [f"{cost['temporary MB']:.1f}" for cost in costs]
        table.add_row(*shown)
        tracing.add_row(
            row["program"],
            str(row["nodes"]),
            f"{row['seconds of the first trace']:.2f}",
            f"{row['nodes a second']:.0f}",
        )
    console.print(table)
    console.print(tracing)
    console.print(f"wrote {save('graph', {'machine': machine(), 'rows': rows})}", soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
