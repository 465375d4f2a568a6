"""Thousands of small networks at once: `jaxnet.ensemble.train` against a compiled loop of `vmap(value_and_grad)`.

Both train the same members on the same data with plain SGD, take turns, and must end at the same parameters; so they do
on the grid of sizes where the automatic choice of a layout has to hold. Then `torch.func`, in turns with ours, and by
themselves a pool of processes with scikit-learn, each fit on numbers of its own, and one million networks.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array, lax

import jaxnet
from benchmarks import peers, report
from benchmarks.harness import AGREEMENT, distance, interleave, operations, ratio
from benchmarks.programs import idiomatic_cost, idiomatic_cost_of_classes
from benchmarks.report import Bar, Report, Table, forest, named
from jaxnet import ensemble
from jaxnet._loop import shuffled
from jaxnet.activations import softmax
from jaxnet.losses import softmax_cross_entropy

RATE = 0.5
SGD = optax.sgd(RATE)


class Case(NamedTuple):
    """What is trained, for how many steps, and the ratio that is asked for."""

    sizes: tuple[int, ...]
    members: int
    batch: int
    steps: int
    bar: float
    drawn_from: int = 0
    """How many examples batches are drawn from, epoch by epoch; 0 if the batch is all there are."""
    own_order: bool = False
    """Whether each member draws its own batches."""
    classes: bool = False
    """Whether outputs are by softmax, with its cross-entropy; otherwise logistic, with squared errors."""

    @property
    def net(self) -> jaxnet.Network:
        """What is trained."""
        return jaxnet.Network(output=softmax, loss=softmax_cross_entropy) if self.classes else jaxnet.Network()

    @property
    def cost(self) -> Callable[..., Array]:
        """The cost, for automatic differentiation."""
        return idiomatic_cost_of_classes if self.classes else idiomatic_cost

    @property
    def examples(self) -> int:
        """How many there are."""
        return self.drawn_from or self.batch

    @property
    def epochs(self) -> int:
        """Passes over them."""
        return self.steps * self.batch // self.examples

    @property
    def key(self) -> Array:
        """Of the order of the examples: one, or one for each member."""
        key = jax.random.key(1)
        return jax.random.split(key, self.members) if self.own_order else key

    @property
    def batches(self) -> str:
        """What they are, in words."""
        drawn = f" of {self.drawn_from:,}" if self.drawn_from else ""
        order, outputs = ", own order" if self.own_order else "", ", softmax" if self.classes else ""
        return f"{self.batch}{drawn}{order}{outputs}"


BARS = [
    Case((2, 2, 1), 65_536, 4, 1000, 6.0),
    Case((2, 16, 1), 1000, 32, 1000, 3.0),
    Case((64, 32, 10), 512, 32, 500, 1.5),
    Case((784, 30, 10), 16, 10, 2000, 1.5),
]
GRID = [
    Case((2, 2, 1), 64, 4, 5000, 0.95),
    Case((2, 2, 1), 4096, 1, 2000, 0.95),
    Case((2, 4, 1), 2048, 32, 200, 0.95),
    Case((4, 8, 3), 1024, 32, 100, 0.95),
    Case((8, 16, 4), 1024, 32, 50, 0.95),
    Case((10, 10, 10, 10), 1024, 10, 50, 0.95),
    Case((30, 30, 10), 1024, 10, 50, 0.95),
    Case((64, 10), 1024, 16, 100, 0.95),
    Case((64, 64, 10), 64, 100, 50, 0.95),
    Case((784, 30, 10), 4, 100, 50, 0.95),
    Case((2, 2, 1), 4096, 4, 640, 0.95, 64),
    Case((2, 16, 1), 1000, 1, 1000, 0.95, 200),
    Case((8, 16, 4), 1024, 8, 100, 0.95, 80),
    Case((8, 16, 4), 1024, 8, 100, 0.95, 80, own_order=True),
    Case((10, 10, 10, 10), 1024, 10, 50, 0.95, 100, own_order=True),
    Case((64, 16, 10), 512, 1, 512, 0.95, 512),
    Case((64, 16, 10), 56, 1, 10_240, 0.95, 1024, own_order=True),
    Case((784, 30, 10), 16, 10, 500, 0.95, 1000, own_order=True),
    Case((784, 30, 10), 16, 1, 500, 0.95, 500),
    Case((128, 64, 10), 32, 4, 500, 0.95, 500),
    Case((2, 8, 2), 4096, 4, 500, 0.95, classes=True),
    Case((8, 16, 4), 1024, 8, 100, 0.95, 80, classes=True),
    Case((10, 10, 10, 10), 1024, 10, 50, 0.95, classes=True),
    Case((30, 30, 10), 512, 10, 50, 0.95, classes=True),
    Case((64, 32, 10), 512, 32, 50, 0.95, classes=True),
    Case((64, 10), 64, 10, 2000, 0.95, 1000, classes=True),
    Case((64, 16, 10), 512, 1, 256, 0.95, 256, own_order=True, classes=True),
]


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure."""

    rounds: int = 7
    """Turns of each contender."""


def problem(case: Case) -> tuple[Any, Array, Array]:
    """Parameters of the members, and the examples, which are the same for all of them."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = ensemble.init(keys[0], case.members, case.sizes)
    x = jax.random.normal(keys[1], (case.examples, case.sizes[0]))
    y = jax.random.uniform(keys[2], (case.examples, case.sizes[-1]))
    return params, x, jax.nn.one_hot(y.argmax(axis=-1), y.shape[-1]) if case.classes else y


def ours(case: Case) -> Callable[[], Any]:
    """`ensemble.train`, with everything it does beside the steps."""
    params, x, y = problem(case)
    return lambda: ensemble.train(
        case.key,
        params,
        (x, y),
        net=case.net,
        optimizer=SGD,
        epochs=case.epochs,
        batch_size=case.batch,
        record_every=case.epochs,
    )


def descend(cost: Callable[..., Array], params: Any, x: Array, y: Array, axis: int | None = None) -> Any:
    """The usual way to take a step: value_and_grad of the cost, mapped over the members; ``axis`` is theirs in x, y."""
    _, grads = jax.vmap(jax.value_and_grad(cost), (0, axis, axis))(params, x, y)
    return jax.tree.map(lambda p, g: p - RATE * g, params, grads)


# The number of steps is compiled in: on a GPU, a loop whose length is known need not ask the host after each.
@partial(jax.jit, static_argnames=("cost", "steps"))
def mapped_steps(cost: Callable[..., Array], params: Any, x: Array, y: Array, steps: int) -> Any:
    """So many steps on all examples, in a compiled loop."""
    return lax.fori_loop(0, steps, lambda _, params: descend(cost, params, x, y), params)


@partial(jax.jit, static_argnames=("cost", "epochs", "batch"))
def mapped_epochs(
    cost: Callable[..., Array], params: Any, x: Array, y: Array, key: Array, epochs: int, batch: int
) -> Any:
    """So many epochs of steps on batches, drawn in the order of `ensemble.train`, in a compiled loop."""
    axis = 0 if key.ndim else None

    def order(key: Array, number: Array) -> Array:
        return shuffled(jax.random.fold_in(key, number), len(x)).reshape(-1, batch)

    def epoch(number: Array, params: Any) -> Any:
        rows = jax.vmap(order, (0, None), 1)(key, number) if key.ndim else order(key, number)
        return lax.scan(lambda params, rows: (descend(cost, params, x[rows], y[rows], axis), None), params, rows)[0]

    return lax.fori_loop(0, epochs, epoch, params)


def usual(case: Case) -> Callable[[], Any]:
    """The usual way, as a contender."""
    params, x, y = problem(case)
    if case.drawn_from:
        return lambda: mapped_epochs(case.cost, params, x, y, case.key, case.epochs, case.batch)
    return lambda: mapped_steps(case.cost, params, x, y, case.steps)


def with_torch(case: Case) -> Callable[[], Any]:
    """``torch.func``: vmap of grad over stacked parameters."""
    torch = peers.library("torch", "PyTorch")
    gpu = peers.on_gpu(torch)
    place = "cuda" if gpu else "cpu"
    params, x, y = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)).to(place), problem(case))

    def cost(params: Any) -> Any:
        h = x
        for weight, bias in params:
            h = torch.sigmoid(h @ weight.T + bias)
        return ((h - y) ** 2).sum(-1).mean()

    gradient = torch.func.vmap(torch.func.grad(cost))

    def run() -> None:
        layers = tuple(tuple(layer) for layer in params)
        for _ in range(case.steps):
            grads = gradient(layers)
            layers = tuple(
                tuple(p - RATE * g for p, g in zip(layer, found, strict=True))
                for layer, found in zip(layers, grads, strict=True)
            )
        if gpu:
            torch.cuda.synchronize()

    return run


def _one_thread() -> None:
    importlib.import_module("sklearn.neural_network")  # loads what has threads
    importlib.import_module("threadpoolctl").threadpool_limits(1)


def _fit(task: tuple[Case, int]) -> None:
    case, seed = task
    neural = importlib.import_module("sklearn.neural_network")
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(case.batch, case.sizes[0])), rng.uniform(size=(case.batch, case.sizes[-1]))
    model = neural.MLPRegressor(
        hidden_layer_sizes=case.sizes[1:-1], activation="logistic", solver="sgd",
        batch_size=case.batch, learning_rate_init=RATE, momentum=0.0, alpha=0.0,
        max_iter=case.steps, tol=0.0, n_iter_no_change=case.steps + 1,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y.ravel() if y.shape[1] == 1 else y)


def with_sklearn(case: Case) -> float:
    """Nanoseconds for a step of a member in a pool of processes with scikit-learn's MLPRegressor."""
    peers.library("sklearn", "scikit-learn")
    case = case._replace(members=64)
    # Not forked, which JAX's threads do not survive; a thread for each process, or they take each other's cores.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        list(pool.map(_fit, [(case, seed) for seed in range(4)]))
        began = time.perf_counter()
        list(pool.map(_fit, [(case, seed) for seed in range(case.members)], chunksize=8))
        return (time.perf_counter() - began) / case.members / case.steps * 1e9


def measure_case(case: Case, rounds: int, peak: float) -> dict[str, Any]:
    """One case against the usual way."""
    result = ours(case)()
    difference = distance(result.params, usual(case)())
    # A GPU takes microseconds for a step of all members, and milliseconds to start a run: it is timed over more steps.
    case = case._replace(steps=case.steps * (10 if jax.default_backend() == "gpu" else 1))
    train = ours(case)
    contenders = {"ours": lambda: train().params, "usual": usual(case)}
    seconds, first = interleave(contenders, rounds)
    nanoseconds = {k: float(np.median(v)) / case.members / case.steps * 1e9 for k, v in seconds.items()}
    flops = operations(case.sizes, case.batch)
    return {
        "case": case._asdict(),
        "layout": result.layout.__dict__,
        "nanoseconds": nanoseconds,
        "first call": first,
        "ratio": ratio(seconds["usual"], seconds["ours"]),
        "verdict": ratio(seconds["ours"], seconds["usual"]).verdict,
        "gigaflops": flops / nanoseconds["ours"],
        "share of peak": flops / nanoseconds["ours"] * 1e9 / peak,
        "difference": difference,
    }


def compare(title: str, cases: list[Case], rounds: int, peak: float) -> tuple[Table, list[Bar], list[dict[str, Any]]]:
    """Some cases as a table, with what was aimed at."""
    rows = [measure_case(case, rounds, peak) for case in report.progress(cases, "ensembles")]
    shown = [
        (
            named(case.sizes),
            f"{case.members:,}",
            case.batches,
            f"{row['layout']['name']}, {row['layout']['chunk']} x {row['layout']['threads']}",
            f"{row['nanoseconds']['ours']:,.1f}",
            f"{row['nanoseconds']['usual']:,.1f}",
            str(row["ratio"]),
            row["verdict"],
            f"{row['gigaflops']:.1f}",
            f"{row['share of peak']:.0%}",
            f"{row['difference']:.0e}",
        )
        for case, row in zip(cases, rows, strict=True)
    ]
    columns = ("sizes", "members", "batch", "layout, members of a chunk x threads", "ns", "usual, ns",
               "usual over ours", "ours is", "GFLOP/s", "of peak", "differ by")  # fmt: skip
    bars = [
        Bar(
            f"{named(case.sizes)}, {case.members:,} members, batch {case.batches}: at least {case.bar:g} times as fast",
            str(row["ratio"]),
            row["ratio"].value >= case.bar,
        )
        for case, row in zip(cases, rows, strict=True)
    ]
    return Table(title, columns, shown), bars, rows


def others(case: Case, missing: list[str]) -> dict[str, Any]:
    """The nanoseconds of other libraries for a step of a member, with ours beside them; notes who is missing."""
    # Far slower, so that fewer steps will do.
    short = case._replace(steps=max(3, case.steps // 20))
    cases = {"ours": case, "torch.func": short}
    train = ours(case)
    contenders = {"ours": lambda: train().params}
    with peers.leaving_out(missing):
        contenders["torch.func"] = with_torch(short)
    seconds, _ = interleave(contenders, 3, rest=0.1)
    found = {name: float(np.median(s)) / case.members / cases[name].steps * 1e9 for name, s in seconds.items()}
    with peers.leaving_out(missing):
        found["scikit-learn in processes"] = with_sklearn(case)
    return found


def table_of_others(rows: list[dict[str, Any]]) -> Table:
    """What `others` found, for each of the cases with an aim."""
    shown = [
        (named(case.sizes), *(f"{ns:,.0f} ({ns / row['ours']:,.3g})" for ns in row.values()))
        for case, row in zip(BARS, rows, strict=True)
    ]
    title = "Other libraries: nanoseconds for a step of a member (and times ours)"
    return Table(title, ("sizes", *rows[0]), shown)


def million_networks() -> float:
    """Seconds for one million 2-2-1 networks and 2,000 steps, with a progress bar."""
    params = ensemble.init(jax.random.key(0), 1_000_000, (2, 2, 1), scheme="normal")
    _, x, y = problem(BARS[0])
    began = time.perf_counter()
    result = ensemble.train(
        jax.random.key(1), params, (x, y), optimizer=SGD, epochs=2000, record_every=2000, progress=True
    )
    jax.block_until_ready(result.params)
    return time.perf_counter() - began


def measure(settings: Settings, peaks: dict[str, float]) -> Report:
    """All of it; with ``--quick`` the cases with an aim, in a tenth of their steps."""
    peak = peaks["matmul float32"]
    cases = [case._replace(steps=case.steps // 10) for case in BARS] if settings.quick else BARS
    aimed, bars, rows = compare("Against jit(vmap(value_and_grad)) in a loop", cases, settings.rounds, peak)
    tables, notes = [aimed], []
    numbers: dict[str, Any] = {"bars": rows}
    if not settings.quick:
        grid, more, numbers["grid"] = compare("By the layout that is chosen", GRID, settings.rounds, peak)
        missing: list[str] = []
        rivals = numbers["others"] = [others(case, missing) for case in report.progress(BARS, "other libraries")]
        notes = list(dict.fromkeys(missing))
        tables, bars = [*tables, grid, table_of_others(rivals)], [*bars, *more]
        seconds = numbers["million networks"] = million_networks()
        text = "one million 2-2-1 networks take 2,000 steps in about a minute"
        bars.append(Bar(text, f"{seconds:.1f} s", seconds < 66))
    rows = [row for key in ("bars", "grid") for row in numbers.get(key, ())]
    apart = max(row["difference"] for row in rows)
    text = f"members end at the same parameters both ways, to {AGREEMENT:.0e}, relative"
    bars.append(Bar(text, f"{apart:.1e} at the most", apart <= AGREEMENT))
    cases = [Case(**row["case"]) for row in rows]
    labels = [f"{named(case.sizes)}, {case.members:,}, {case.batches}" for case in cases]
    label = "time of jit(vmap(value_and_grad)) over ours"
    figure = forest(labels, {"ours": [row["ratio"] for row in rows]}, label, "sizes, members, batch")
    return Report(tables, bars, {"ratios": figure}, numbers, notes)


if __name__ == "__main__":
    raise SystemExit(report.script())
