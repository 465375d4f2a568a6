"""One epoch of plain SGD on MNIST: 50,000 images, 784-30-10 sigmoid units, batches of 10, float32.

Through `jaxnet.train`, against NumPy loops over single examples and the libraries of the benchmark `training`, all in
one run, taking turns; then what the epoch's time is spent on, and what the progress bar costs. Every contender
shuffles. "NumPy, by examples" backpropagates one example at a time; "textbook" does so with columns, s and s′ as
functions of a, and the sums of the gradient made anew for every example.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import jaxnet
from benchmarks import peers, report
from benchmarks.harness import Ratio, interleave, operations, ratio
from benchmarks.report import Bar, Report, Table
from jaxnet import _loop
from jaxnet._one_function import in_one_function
from jaxnet._products import ROWS, SUMS
from jaxnet.backprop import backprop_as_sums, both_passes, forward_pass

SIZES, BATCH = (784, 30, 10), 10
BARS = {"scikit-learn": 8, "PyTorch": 12, "NumPy, by examples": 25}


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure, and where the results go."""

    examples: int = 50_000
    """Training images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples < BATCH:
            raise ValueError(f"examples is {self.examples}, expected at least {BATCH}")
        if self.quick:
            object.__setattr__(self, "examples", min(self.examples, 5000))


def measure(settings: Settings, peaks: Mapping[str, float]) -> Report:
    """Time the contenders, the parts of an epoch, and the progress bar."""
    warnings.filterwarnings("ignore", module="sklearn")
    notes: list[str] = []
    x, y = peers.data("MNIST", lambda: jaxnet.data.mnist().train, (settings.examples, SIZES[0]), notes)
    problem = peers.problem(x, y, SIZES[1], BATCH)
    ready, missing = peers.ready(problem, peers.QUICK if settings.quick else peers.FORMS)
    seconds, first = interleave(contenders(problem, ready), settings.rounds, rest=0.1)
    first |= {name: one.first for name, one in ready.items()}
    parts = profile(problem, settings.rounds)
    bar = progress_overhead(problem, settings.rounds)
    return Report(
        tables=[contender_table(len(x), seconds, first), profile_table(len(x), parts, peaks["matmul float32"])],
        bars=bars(seconds),
        numbers={"seconds": seconds, "first": first, "profile": parts, "progress bar": bar},
        notes=[*notes, *missing, f"Training with a progress bar takes {bar} times as long as without."],
    )


# ----------------------------------------------------------------------------------------------------------------------
# Contenders: each a function that runs one epoch


def contenders(problem: peers.Problem, ready: Mapping[str, peers.Ready]) -> dict[str, Callable[[], Any]]:
    """Those of all benchmarks, and two NumPy loops that only stand here."""
    return {name: one.contender.epoch for name, one in ready.items()} | {
        "NumPy, by examples": by_numpy_examples(problem),
        "NumPy, textbook": by_numpy_textbook(problem),
    }


def by_numpy_examples(problem: peers.Problem) -> Callable[[], Any]:
    """A NumPy loop that backpropagates one example at a time, as textbooks write it."""
    x, y, batch, rate, start = problem
    V, b, W, c = (array.copy() for array in start)
    rng = np.random.default_rng(0)

    def epoch() -> None:
        order = rng.permutation(len(x))
        for first in range(0, len(order), batch):
            sums = [np.zeros_like(parameter) for parameter in (V, b, W, c)]
            for i in order[first : first + batch]:
                h = 1 / (1 + np.exp(-(V @ x[i] + b)))
                outputs = 1 / (1 + np.exp(-(W @ h + c)))
                delta2 = 2 * (outputs - y[i]) * outputs * (1 - outputs)
                delta1 = (W.T @ delta2) * h * (1 - h)
                for total, part in zip(
                    sums, (np.outer(delta1, x[i]), delta1, np.outer(delta2, h), delta2), strict=True
                ):
                    total += part
            for parameter, total in zip((V, b, W, c), sums, strict=True):
                parameter -= rate / batch * total

    return epoch


def by_numpy_textbook(problem: peers.Problem) -> Callable[[], Any]:
    """The same in the form of many textbooks: columns, s and s′ as functions of a, the gradient's sums made anew."""
    x, y, batch, rate, (V, b, W, c) = problem
    weights, biases = [V, W], [b[:, None], c[:, None]]
    examples = [(image[:, None], target[:, None]) for image, target in zip(x, y, strict=True)]
    rng = np.random.default_rng(0)

    def s(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    def s_prime(a: np.ndarray) -> np.ndarray:
        return s(a) * (1 - s(a))

    def gradient(image: np.ndarray, target: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        h, activations, preactivations = image, [image], []
        for weight, bias in zip(weights, biases, strict=True):
            preactivations.append(np.dot(weight, h) + bias)
            h = s(preactivations[-1])
            activations.append(h)
        delta2 = 2 * (activations[2] - target) * s_prime(preactivations[1])
        delta1 = np.dot(weights[1].T, delta2) * s_prime(preactivations[0])
        return [np.dot(delta1, activations[0].T), np.dot(delta2, activations[1].T)], [delta1, delta2]

    def epoch() -> None:
        nonlocal weights, biases
        rng.shuffle(examples)
        for first in range(0, len(examples), batch):
            weight_sums, bias_sums = [np.zeros_like(w) for w in weights], [np.zeros_like(b) for b in biases]
            for image, target in examples[first : first + batch]:
                weight_parts, bias_parts = gradient(image, target)
                weight_sums = [total + part for total, part in zip(weight_sums, weight_parts, strict=True)]
                bias_sums = [total + part for total, part in zip(bias_sums, bias_parts, strict=True)]
            weights = [w - rate / batch * total for w, total in zip(weights, weight_sums, strict=True)]
            biases = [b - rate / batch * total for b, total in zip(biases, bias_sums, strict=True)]

    return epoch


# ----------------------------------------------------------------------------------------------------------------------
# What the time is spent on


def stages(problem: peers.Problem) -> dict[str, Callable[[], Any]]:
    """Programs that each do one part of an epoch, or one part more than the one before.

    The scans over contiguous batches carry the parameters, and add to a bias what they computed times a number too
    small to matter, so that nothing can be left out. On a CPU they are one function each, as in `jaxnet.train`.
    """
    x, y, size, rate, _ = problem
    n = len(x) // size * size
    data = jnp.asarray(x[:n]), jnp.asarray(y[:n])
    params, key, net = jaxnet.init(jax.random.key(0), SIZES), jax.random.key(1), jaxnet.Network()
    on_cpu = jax.default_backend() == "cpu"
    layout, gradient = (SUMS, backprop_as_sums) if on_cpu else (ROWS, jaxnet.backprop)

    def touched(params: Any, *used: jax.Array) -> Any:
        last = params[-1]
        return (*params[:-1], last._replace(bias=last.bias + 1e-30 * sum(jnp.sum(array) for array in used)))

    def step(params: Any, batch: Any) -> Any:
        _, grads = gradient(params, *batch)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads)

    bodies = {
        "forward": lambda params, batch: touched(
            params, forward_pass(params, batch[0], net.hidden, net.output, layout)[0][-1]
        ),
        "passes": lambda params, batch: touched(
            params, *both_passes(params, batch[0], batch[1], net, layout=layout)[1].deltas
        ),
        "step": step,
    }
    batches = tuple(array.reshape(-1, size, array.shape[1]) for array in data)

    def scan(body: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        def scanned(params: Any, batches: Any) -> Any:
            return lax.scan(lambda p, b: (body(p, b), None), params, batches)[0]

        run = partial(in_one_function, scanned, required=True) if on_cpu else scanned
        program = jax.jit(run, compiler_options=_loop.WIDE_VECTORS if on_cpu else None)
        return lambda: program(params, batches)

    @jax.jit
    def order(key: jax.Array) -> jax.Array:
        return _loop.shuffled(key, n)

    @jax.jit
    def gathered(key: jax.Array, data: Any) -> jax.Array:
        def step(total: jax.Array, batch: Any) -> tuple[jax.Array, None]:
            return total + batch[0][0, 0] + batch[1][0, 0], None

        def block(total: jax.Array, rows: jax.Array) -> tuple[jax.Array, None]:
            return lax.scan(step, total, _loop.rows_of(data, rows))

        total, rows = jnp.zeros(()), _loop.shuffled(key, n)
        for blocks, steps, length in _loop.cut(n, size, SIZES[0]):
            part, rows = jnp.split(rows, [blocks * steps * length])
            total, _ = lax.scan(block, total, part.reshape(blocks, steps, length))
        return total

    return {
        "permutation": lambda: order(key),
        "gather": lambda: gathered(key, data),
        **{name: scan(body) for name, body in bodies.items()},
        "epoch": peers.Jaxnet(problem).epoch,
    }


def profile(problem: peers.Problem, rounds: int) -> dict[str, float]:
    """Seconds of each part of an epoch, as differences of medians."""
    seconds, _ = interleave(stages(problem), rounds)
    s = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "permutation of the examples": s["permutation"],
        "gather, in blocks of batches": s["gather"] - s["permutation"],
        "forward pass": s["forward"],
        "backward pass (deltas)": s["passes"] - s["forward"],
        "contraction and update of the weights": s["step"] - s["passes"],
        "everything else in train": s["epoch"] - s["gather"] - s["step"],
        "whole epoch": s["epoch"],
    }


def progress_overhead(problem: peers.Problem, rounds: int) -> Ratio:
    """The time of training with a progress bar, drawn as on a terminal, over training without: ten epochs each."""
    params, data = jaxnet.init(jax.random.key(0), SIZES), (jnp.asarray(problem.x), jnp.asarray(problem.y))
    optimizer = optax.sgd(problem.rate)

    def run(progress: bool) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return jaxnet.train(
                jax.random.key(1), params, data, optimizer=optimizer, epochs=10, batch_size=BATCH, progress=progress
            ).params

    os.environ["TTY_COMPATIBLE"] = "1"  # rich then draws as on a terminal
    seconds, _ = interleave({"with": lambda: run(True), "without": lambda: run(False)}, rounds)
    del os.environ["TTY_COMPATIBLE"]
    return ratio(seconds["with"], seconds["without"])


# ----------------------------------------------------------------------------------------------------------------------
# What is shown


def contender_table(n: int, seconds: Mapping[str, np.ndarray], first: Mapping[str, float]) -> Table:
    """Seconds of an epoch, and how many times ours."""
    rows = [
        [name, *(f"{value:.3f}" for value in (np.median(taken), taken.min(), taken.max(), first[name])),
         "" if name == peers.OURS else str(ratio(taken, seconds[peers.OURS]))]
        for name, taken in seconds.items()
    ]  # fmt: skip
    columns = ["contender", "median s", "fastest s", "slowest s", "first epoch s", "time over jaxnet's"]
    return Table(f"One epoch of {n:,} images, {report.named(SIZES)}, batches of {BATCH}, float32", columns, rows)


def profile_table(n: int, parts: Mapping[str, float], peak: float) -> Table:
    """What the epoch is spent on, and how far its products are from large ones."""
    whole = parts["whole epoch"]
    rows = [
        [name, f"{value * 1e3:.1f}", f"{value / n * BATCH * 1e6:.2f}", f"{value / whole:.0%}"]
        for name, value in parts.items()
    ]
    flops = operations(SIZES, n)
    note = (
        f"Parts are differences of medians. Products are {flops / 1e9:.2f} GFLOP: {flops / whole / 1e9:.0f} "
        f"GFLOP/s over the whole epoch, where large ones reach {peak / 1e9:.0f}."
    )
    return Table("What the epoch is spent on", ["part", "ms", "µs a step", "share"], rows, note)


def bars(seconds: Mapping[str, np.ndarray]) -> list[Bar]:
    """How many times faster ours is than those for whom there is an aim."""
    found = {name: ratio(seconds[name], seconds[peers.OURS]) for name in BARS if name in seconds}
    return [
        Bar(f"{BARS[name]} times as fast as {name}", str(times), times.low >= BARS[name])
        for name, times in found.items()
    ]


if __name__ == "__main__":
    raise SystemExit(report.script())
