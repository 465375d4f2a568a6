"""One epoch of plain SGD on MNIST: 50,000 images, 784-30-10 sigmoid units, batches of 10, float32.

Through ``jaxnet.train``, with the gradient by hand and the automatic one, against scikit-learn's MLPClassifier, a
PyTorch loop, and NumPy loops over batches and over single examples, all in one run, taking turns. Then what the epoch's
time is spent on, and what the progress bar costs. Every contender shuffles, and starts from random weights.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import lax
from rich.console import Console
from rich.table import Table

import jaxnet
from benchmarks.harness import interleave, machine, matmul_peak, ratio, save
from jaxnet import _loop
from jaxnet.steps import Gradient

SIZES, BATCH, RATE = (784, 30, 10), 10, 0.5
console = Console(width=110)


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    rounds: int = 7
    """Turns of each contender."""
    examples: int = 50_000
    """Training images."""
    random_images: bool = False
    """Random pixels instead of MNIST: the time is the same, and no data is needed."""


def images(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and one-hot targets."""
    if settings.random_images:
        rng = np.random.default_rng(0)
        x = rng.random((settings.examples, SIZES[0]), np.float32)
        return x, np.eye(SIZES[-1], dtype=np.float32)[rng.integers(SIZES[-1], size=settings.examples)]
    x, y = jaxnet.data.mnist().train
    return np.asarray(x[: settings.examples]), np.asarray(y[: settings.examples])


# ----------------------------------------------------------------------------------------------------------------------
# Contenders: each returns a function that runs one epoch


def by_jaxnet(x: np.ndarray, y: np.ndarray, gradient: Gradient) -> Callable[[], Any]:
    """Our loop, from the same start every time; the data is on the device already."""
    params, data, optimizer = jaxnet.init(jax.random.key(0), SIZES), (jnp.asarray(x), jnp.asarray(y)), optax.sgd(RATE)
    return lambda: (
        jaxnet.train(
            jax.random.key(1), params, data, optimizer=optimizer, epochs=1, batch_size=BATCH, gradient=gradient
        ).params
    )


def by_scikit_learn(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """Its own softmax and log-loss, without momentum or penalty: partial_fit is one epoch."""
    from sklearn.neural_network import MLPClassifier

    plain: dict[str, Any] = {
        "solver": "sgd",
        "momentum": 0,
        "alpha": 0,
        "batch_size": BATCH,
        "learning_rate_init": RATE,
    }
    model = MLPClassifier(SIZES[1:-1], activation="logistic", random_state=0, **plain)
    labels = y.argmax(axis=1)
    return lambda: model.partial_fit(x, labels, classes=np.arange(SIZES[-1])).coefs_


def by_pytorch(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The usual loop: a module, autograd, and torch.optim.SGD; on one thread, which is its fastest at this size."""
    torch: Any = importlib.import_module("torch")  # a peer, which the type checker may not find
    torch.manual_seed(0)
    inputs, targets = torch.tensor(x), torch.tensor(y)
    model = torch.nn.Sequential(
        torch.nn.Linear(*SIZES[:2]), torch.nn.Sigmoid(), torch.nn.Linear(*SIZES[1:]), torch.nn.Sigmoid()
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def epoch() -> None:
        torch.set_num_threads(1)
        for rows in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            loss = ((model(inputs[rows]) - targets[rows]) ** 2).sum() / len(rows)
            loss.backward()
            optimizer.step()

    return epoch


def numpy_parameters() -> list[np.ndarray]:
    """V, b, W, c for the NumPy loops."""
    return [np.array(leaf) for leaf in jax.tree.leaves(jaxnet.init(jax.random.key(0), SIZES))]


def numpy_epoch(x: np.ndarray, y: np.ndarray, parameters: list[np.ndarray], order: np.ndarray) -> None:
    """Mini-batches as matrices; changes the parameters."""
    V, b, W, c = parameters
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch, targets = x[rows], y[rows]
        h = 1 / (1 + np.exp(-(batch @ V.T + b)))
        outputs = 1 / (1 + np.exp(-(h @ W.T + c)))
        delta2 = 2 * (outputs - targets) * outputs * (1 - outputs) / len(rows)
        delta1 = (delta2 @ W) * h * (1 - h)
        V -= RATE * (delta1.T @ batch)
        b -= RATE * delta1.sum(axis=0)
        W -= RATE * (delta2.T @ h)
        c -= RATE * delta2.sum(axis=0)


def by_numpy_batches(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """A NumPy loop over mini-batches."""
    parameters, rng = numpy_parameters(), np.random.default_rng(0)
    return lambda: numpy_epoch(x, y, parameters, rng.permutation(len(x)))


def by_numpy_examples(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """A NumPy loop that backpropagates one example at a time, as textbooks write it."""
    (V, b, W, c), rng = numpy_parameters(), np.random.default_rng(0)

    def epoch() -> None:
        order = rng.permutation(len(x))
        for start in range(0, len(order), BATCH):
            sums = [np.zeros_like(parameter) for parameter in (V, b, W, c)]
            for i in order[start : start + BATCH]:
                h = 1 / (1 + np.exp(-(V @ x[i] + b)))
                outputs = 1 / (1 + np.exp(-(W @ h + c)))
                delta2 = 2 * (outputs - y[i]) * outputs * (1 - outputs)
                delta1 = (W.T @ delta2) * h * (1 - h)
                for total, part in zip(
                    sums, (np.outer(delta1, x[i]), delta1, np.outer(delta2, h), delta2), strict=True
                ):
                    total += part
            for parameter, total in zip((V, b, W, c), sums, strict=True):
                parameter -= RATE / BATCH * total

    return epoch


def by_numpy_textbook(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The same in the form of many textbooks: columns, s and s′ as functions of a, the gradient's sums made anew."""
    V, b, W, c = numpy_parameters()
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
        for start in range(0, len(examples), BATCH):
            weight_sums, bias_sums = [np.zeros_like(w) for w in weights], [np.zeros_like(b) for b in biases]
            for image, target in examples[start : start + BATCH]:
                weight_parts, bias_parts = gradient(image, target)
                weight_sums = [total + part for total, part in zip(weight_sums, weight_parts, strict=True)]
                bias_sums = [total + part for total, part in zip(bias_sums, bias_parts, strict=True)]
            weights = [w - RATE / BATCH * total for w, total in zip(weights, weight_sums, strict=True)]
            biases = [b - RATE / BATCH * total for b, total in zip(biases, bias_sums, strict=True)]

    return epoch


def contenders(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    """All that can run here; a missing peer is named and skipped."""
    made = {
        "jaxnet, by hand": by_jaxnet(x, y, jaxnet.backprop),
        "jaxnet, automatic": by_jaxnet(x, y, jaxnet.autodiff),
        "NumPy, batches": by_numpy_batches(x, y),
        "NumPy, examples": by_numpy_examples(x, y),
        "NumPy, textbook": by_numpy_textbook(x, y),
        "scikit-learn": by_scikit_learn(x, y),
    }
    if importlib.util.find_spec("torch"):
        made["PyTorch"] = by_pytorch(x, y)
    else:
        console.print("PyTorch is not installed, so it is left out: pip install torch==2.13.0")
    return made


def check_equal_results(x: np.ndarray, y: np.ndarray) -> float:
    """The largest difference between our parameters and the NumPy loop's, after an epoch in the same order."""
    key, n = jax.random.key(1), min(len(x), 5000)
    params = jaxnet.init(jax.random.key(0), SIZES)
    result = jaxnet.train(key, params, (x[:n], y[:n]), optimizer=optax.sgd(RATE), epochs=1, batch_size=BATCH)
    expected = numpy_parameters()
    numpy_epoch(x, y, expected, np.asarray(_loop.shuffled(jax.random.fold_in(key, 0), n)))
    leaves = jax.tree.leaves(result.params)
    return max(float(np.abs(a - b).max()) for a, b in zip(leaves, expected, strict=True))


# ----------------------------------------------------------------------------------------------------------------------
# What the time is spent on


def stages(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Programs that each do one part of an epoch, or one part more than the one before.

    The scans over contiguous batches carry the parameters, and add to a bias what they computed times a number too
    small to matter, so that nothing can be left out.
    """
    n = len(x) // BATCH * BATCH
    data = jnp.asarray(x[:n]), jnp.asarray(y[:n])
    params, key = jaxnet.init(jax.random.key(0), SIZES), jax.random.key(1)

    def touched(params: Any, *used: jax.Array) -> Any:
        last = params[-1]
        return (*params[:-1], last._replace(bias=last.bias + 1e-30 * sum(jnp.sum(array) for array in used)))

    bodies = {
        "forward": lambda params, batch: touched(params, jaxnet.forward(params, batch[0])),
        "passes": lambda params, batch: touched(params, *jaxnet.signals(params, *batch).deltas),
        "step": lambda params, batch: jaxnet.sgd_step(params, batch[0], batch[1], RATE)[0],
    }
    batches = tuple(array.reshape(-1, BATCH, array.shape[1]) for array in data)

    def scan(body: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        program = jax.jit(lambda params, batches: lax.scan(lambda p, b: (body(p, b), None), params, batches)[0])
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
        for blocks, steps, size in _loop.cut(n, BATCH, SIZES[0]):
            part, rows = jnp.split(rows, [blocks * steps * size])
            total, _ = lax.scan(block, total, part.reshape(blocks, steps, size))
        return total

    return {
        "permutation": lambda: order(key),
        "gather": lambda: gathered(key, data),
        **{name: scan(body) for name, body in bodies.items()},
        "epoch": by_jaxnet(x, y, jaxnet.backprop),
    }


def profile(x: np.ndarray, y: np.ndarray, rounds: int) -> dict[str, float]:
    """Seconds of each part of an epoch, as differences of medians."""
    seconds, _ = interleave(stages(x, y), rounds)
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


def progress_overhead(x: np.ndarray, y: np.ndarray, rounds: int) -> tuple[float, float, float]:
    """The ratio of training with a progress bar, drawn as on a terminal, to training without: ten epochs each."""
    params, data, optimizer = jaxnet.init(jax.random.key(0), SIZES), (jnp.asarray(x), jnp.asarray(y)), optax.sgd(RATE)

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


def main(settings: Settings) -> None:
    """Measure, print, and write ``results/benchmarks/mnist_epoch.json``."""
    warnings.filterwarnings("ignore", module="sklearn")
    x, y = images(settings)
    found: dict[str, Any] = {"machine": machine(), "settings": vars(settings)}
    console.print(*(f"{name}: {value}" for name, value in found["machine"].items()), sep="   ")

    found["difference_from_numpy"] = check_equal_results(x, y)
    console.print(
        f"after an epoch in the same order, parameters differ from NumPy's by {found['difference_from_numpy']:.1e}"
    )
    seconds, first = interleave(contenders(x, y), settings.rounds)
    ours = seconds["jaxnet, by hand"]
    table = Table("contender", "median s", "fastest s", "slowest s", "first call s", "times jaxnet, by hand")
    found["contenders"] = {}
    for name, values in seconds.items():
        times, low, high = ratio(values, ours)
        table.add_row(
            name,
            *(f"{value:.3f}" for value in (np.median(values), values.min(), values.max(), first[name])),
            f"{times:.2f} [{low:.2f}, {high:.2f}]",
        )
        found["contenders"][name] = {"seconds": values.tolist(), "first_call": first[name], "ratio": [times, low, high]}
    table.title = f"One epoch, {len(x):,} images, 784-30-10, batches of {BATCH}, float32"
    console.print(table)

    found["profile"] = profile(x, y, settings.rounds)
    whole = found["profile"]["whole epoch"]
    operations = 2 * sum(a * b for a, b in pairwise(SIZES)) * 2 * len(x)
    operations += 2 * SIZES[1] * SIZES[2] * len(x)  # the deltas of the hidden layer
    peak = matmul_peak()
    table = Table("part", "ms", "µs a step", "share", title="What the epoch is spent on")
    for name, value in found["profile"].items():
        table.add_row(name, f"{value * 1e3:.1f}", f"{value / len(x) * BATCH * 1e6:.2f}", f"{value / whole:.0%}")
    console.print(table)
    found |= {"operations": operations, "matmul_peak": peak}
    console.print(
        f"{operations / 1e9:.2f} GFLOP in products: {operations / whole / 1e9:.0f} GFLOP/s over the whole epoch; "
        f"a large product reaches {peak / 1e9:.0f} GFLOP/s on all cores"
    )
    found["progress_overhead"] = progress_overhead(x, y, settings.rounds)
    times, low, high = found["progress_overhead"]
    console.print(f"with a progress bar: {times:.3f} times the time without [{low:.3f}, {high:.3f}]")
    console.print(f"wrote {save('mnist_epoch', found)}", soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
