"""Epochs of MNIST and of the digits through `jaxnet.train`, against the libraries that people train with.

Against scikit-learn, PyTorch, Flax NNX, Equinox, plain NumPy and a compiled JAX step in a Python loop, each as it is
documented; plain SGD on one hidden layer of sigmoid units with the squared error, float32, at batches from one example
to all. All start from the same parameters; after an epoch in the same order their parameters are compared with ours.
scikit-learn has log-loss of a softmax only, and is compared with jaxnet trained on that.

`train` is called for every epoch anew, as by who wants one epoch, so that what a call costs (0.2 to 0.7 ms: its checks,
a copy of the parameters, the history) counts each time; "ten epochs a call" is a tenth of a call for ten. The data is
on the device before. Where others are slow, all take only the first examples. PyTorch is run on one thread, on all, or
on a GPU that JAX uses too, whichever is fastest in a short trial; so is the JAX step, which is handed batches, or
gathers its rows from data on the device. All shuffle in every epoch, unless the batch is everything. Where epochs are
short, a turn is several calls.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

import jaxnet
from benchmarks import peers, report
from benchmarks.harness import AGREEMENT, TURN, Ratio, interleave, ratio, repeated
from benchmarks.report import Bar, Report, Table
from experiments._drawing import STYLES, finish, new_figure

LONG, EPOCHS = "jaxnet, ten epochs a call", 10
SLOW = ("1", "10", "100")
"""Batches at which twice the speed of the fastest peer is the aim."""


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure, and where the results go."""

    rounds: int = 7
    """Turns of each contender."""


class Case(NamedTuple):
    """A network on its data, and at each batch the number of examples that are taken."""

    title: str
    hidden: int
    data: tuple[np.ndarray, np.ndarray]
    taken: Mapping[int, int]

    def label(self, batch: int) -> str:
        """A batch as it is called in tables."""
        return "all" if batch == len(self.data[0]) else str(batch)


class Row(NamedTuple):
    """What was found at one batch; seconds are of one epoch."""

    examples: int
    seconds: dict[str, np.ndarray]
    ready: dict[str, peers.Ready]
    missing: list[str]

    def fastest(self, ours: str) -> tuple[str, Ratio]:
        """Which peer comes closest to ours, and its time over ours."""
        others = (name for name in self.seconds if "jaxnet" not in name)
        name = min(others, key=lambda name: float(np.median(self.seconds[name])))
        return name, ratio(self.seconds[name], self.seconds[ours])


Found = dict[str, dict[str, Row]]
"""By network and batch."""


def measure(settings: Settings, peaks: Mapping[str, float]) -> Report:
    """Train, compare, and time all on everything."""
    del peaks  # a share of them says little of steps as short as these
    warnings.filterwarnings("ignore", module="sklearn")
    chosen, notes = cases(settings.quick)
    found: Found = {case.title: {} for case in chosen}
    work = [(case, batch) for case in chosen for batch in case.taken]
    for case, batch in report.progress(work, "training"):
        found[case.title][case.label(batch)] = row(case, batch, settings)
    missing = [note for rows in found.values() for one in rows.values() for note in one.missing]
    return Report(
        tables=[table for title, rows in found.items() for table in tables(title, rows)],
        bars=[
            *speed_bars(peers.OURS, "an epoch a call", found),
            *speed_bars(LONG, "ten epochs a call", found),
            equal(found),
        ],
        figures={"speed": figure(found)},
        numbers={title: {batch: numbers(one) for batch, one in rows.items()} for title, rows in found.items()},
        notes=[*notes, *dict.fromkeys(missing)],
    )


def cases(quick: bool) -> tuple[list[Case], list[str]]:
    """The networks with their data, and notes on what is not what it should be."""
    notes = []
    images = peers.data("MNIST", lambda: jaxnet.data.mnist().train, (50_000, 784), notes)
    digits = peers.data("the digits", jaxnet.data.digits, (1797, 64), notes)
    n = len(digits[0])
    if quick:
        taken, taken_digits = {10: 2000}, {100: n}
    else:
        taken = {1: 5000, 10: 20_000, 100: 20_000, 1000: len(images[0]), len(images[0]): len(images[0])}
        taken_digits = dict.fromkeys((1, 10, 100, 1000, n), n)
    return [
        Case("784-30-10 on MNIST", 30, images, taken),
        Case("64-32-10 on the digits", 32, digits, taken_digits),
    ], notes


def row(case: Case, batch: int, settings: Settings) -> Row:
    """All contenders at one batch."""
    n = case.taken[batch]
    x, y = case.data
    problem = peers.problem(x[:n], y[:n], case.hidden, batch)
    ready, missing = peers.ready(problem, peers.QUICK if settings.quick else peers.FORMS)
    contenders = {name: one.contender.epoch for name, one in ready.items()}
    contenders[LONG] = peers.Jaxnet(problem, epochs=EPOCHS).epoch
    _, single = interleave(contenders, 0)
    calls = {name: max(1, round(TURN / seconds)) for name, seconds in single.items()}
    turns = {name: partial(repeated, epoch, calls[name]) for name, epoch in contenders.items()}
    seconds, _ = interleave(turns, settings.rounds, rest=0.1)
    epochs = {name: calls[name] * (EPOCHS if name == LONG else 1) for name in calls}
    order = (peers.OURS, LONG, *ready)
    return Row(n, {name: seconds[name] / epochs[name] for name in order}, ready, missing)


def numbers(found: Row) -> dict[str, Any]:
    """What the file of results keeps of a row."""
    ready = {
        name: {"form": one.form, "first epoch": one.first, "difference": one.difference}
        for name, one in found.ready.items()
    }
    return {"examples": found.examples, "seconds": found.seconds, "ready": ready}


# ----------------------------------------------------------------------------------------------------------------------
# What is shown


def tables(title: str, rows: Mapping[str, Row]) -> list[Table]:
    """Speeds, times over ours, and first epochs, of one network."""
    columns = ["contender", *(f"batch {batch}" for batch in rows)]
    names = list(dict.fromkeys(name for found in rows.values() for name in found.seconds))
    timed = [name for name in names if name != LONG]
    examples = ", ".join(dict.fromkeys(f"{found.examples:,}" for found in rows.values()))

    def speed(found: Row, name: str) -> str:
        return f"{found.examples / float(np.median(found.seconds[name])) / 1e3:,.1f}"

    def times(found: Row, name: str) -> str:
        return str(ratio(found.seconds[name], found.seconds[peers.OURS]))

    def first(found: Row, name: str) -> str:
        return f"{found.ready[name].first:.2f}"

    def body(of: Iterable[str], text: Callable[[Row, str], str]) -> list[list[str]]:
        return [[name, *(text(found, name) if name in found.seconds else "" for found in rows.values())] for name in of]

    return [
        Table(f"{title}: thousands of examples a second", columns, body(names, speed),
              f"Epochs of {examples} examples. {forms(rows)}"),
        Table(f"{title}: time over jaxnet's", columns, body((name for name in names if name != peers.OURS), times),
              "jaxnet is called for every epoch."),
        Table(f"{title}: seconds of the first epoch, which compiles", columns, body(timed, first),
              "PyTorch keeps compiled code on disk: after an earlier run its first epoch takes less."),
    ]  # fmt: skip


def forms(rows: Mapping[str, Row]) -> str:
    """Which of their forms were fastest."""
    told = []
    for name, choices in peers.FORMS.items():
        for form in choices if len(choices) > 1 else ():
            batches = [batch for batch, one in rows.items() if name in one.ready and one.ready[name].form == form]
            if batches:
                told.append(f"{name}, at batch {', '.join(batches)}: {form}.")
    return " ".join(told)


def speed_bars(ours: str, how: str, found: Found) -> list[Bar]:
    """Ours against the fastest peer of each row."""
    slow, others = [], []
    for title, rows in found.items():
        for batch, one in rows.items():
            aimed = title.startswith("784") and batch in SLOW
            (slow if aimed else others).append((title.partition(" ")[0], batch, *one.fastest(ours)))

    def told(rows: Sequence[tuple[str, str, str, Ratio]]) -> str:
        return "; ".join(f"{sizes} at {batch}: {times} ({name})" for sizes, batch, name, times in rows)

    return [
        Bar(f"{how}: at least 2 times as fast as the fastest peer, 784-30-10 at batches up to 100", told(slow),
            all(times.low >= 2 for *_, times in slow)),
        Bar(f"{how}: never behind the fastest peer at any other batch", told(others),
            all(times.high >= 1 for *_, times in others)),
    ]  # fmt: skip


def equal(found: Found) -> Bar:
    """How far the parameters of the others are from ours after an epoch in the same order."""
    of = [(one.difference, name) for rows in found.values() for row in rows.values() for name, one in row.ready.items()]
    worst, name = max(of)
    text = f"after an epoch from the same start in the same order, all have our parameters to {AGREEMENT:.0e}, relative"
    return Bar(text, f"{worst:.1e} at the most ({name})", worst <= AGREEMENT)


def figure(found: Found) -> Figure:
    """Examples a second by contender and batch, a panel for each network."""
    drawn = new_figure(11, 4.8)
    panels = drawn.subplots(1, len(found), squeeze=False)[0]
    names = list(dict.fromkeys(name for rows in found.values() for one in rows.values() for name in one.seconds))
    others = [name for name in names if "jaxnet" not in name]
    # Ours are black; of two that have a colour in common, the second has a dotted line and hollow markers.
    looks = {
        name: {"color": colour, "linestyle": line if i < len(STYLES) else ":", "marker": marker,
               "markerfacecolor": colour if i < len(STYLES) else "white", "linewidth": 1.3}
        for i, name in enumerate(others) for colour, line, marker in [STYLES[i % len(STYLES)]]
    }  # fmt: skip
    looks[peers.OURS] = {"color": "black", "linestyle": "-", "marker": "*", "markersize": 9, "linewidth": 2.2}
    looks[LONG] = {"color": "black", "linestyle": "--", "marker": "*", "markersize": 9, "markerfacecolor": "white",
                   "linewidth": 1.2}  # fmt: skip
    for axes, (title, rows) in zip(panels, found.items(), strict=True):
        for name in [peers.OURS, LONG, *others]:
            timed = [(i, one) for i, one in enumerate(rows.values()) if name in one.seconds]
            speeds = [one.examples / np.median(one.seconds[name]) for _, one in timed]
            axes.plot([i for i, _ in timed], speeds, label=name, **looks[name])
        finish(axes, "examples in a batch", "examples a second", title)
        axes.set(yscale="log", xticks=range(len(rows)), xticklabels=list(rows))
        axes.get_legend().remove()
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return drawn


if __name__ == "__main__":
    raise SystemExit(report.script())
