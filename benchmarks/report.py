"""What a benchmark found, as tables on the screen, a JSON file, figures, and a page; and its command line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, TypeVar

import matplotlib as mpl
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table as RichTable

from benchmarks import page
from benchmarks.harness import Ratio, machine, peaks
from experiments._drawing import STYLES, finish, new_figure
from experiments.records import command, described, make_folder, plain

RESULTS = Path(__file__).resolve().parents[1] / "results"

console = Console(width=None if sys.stdout.isatty() else 150)
_progress = Console(stderr=True)

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How much to measure, and where the results go."""

    rounds: int = 9
    """Turns of each contender."""
    quick: Flag = False
    """Few cases in three turns: seconds, for a look."""
    json: Flag = False
    """Print the results as JSON instead of tables."""
    output: Path = RESULTS
    """Folder for the page; numbers and figures go into its folder benchmarks."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}, expected at least 1")
        if self.quick:
            object.__setattr__(self, "rounds", min(self.rounds, 3))


class Table(NamedTuple):
    """A table of texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Bar(NamedTuple):
    """What was aimed at, what was found, and whether that reaches it."""

    text: str
    found: str
    reached: bool


@dataclass(frozen=True)
class Report:
    """What a benchmark found."""

    tables: Sequence[Table]
    bars: Sequence[Bar] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    dtype: str = "float32"


def main(module: ModuleType) -> int:
    """The command line of a benchmark."""
    try:
        settings = tyro.cli(module.Settings, description=module.__doc__)
        present(module, settings)
    except (ValueError, OSError) as error:
        console.print(f"[bold red]cannot run so:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    return 0


def present(module: ModuleType, settings: Settings) -> None:
    """Run a benchmark, write its numbers and figures, renew the page, and print its tables."""
    name = module.__name__.rpartition(".")[2] if module.__name__ != "__main__" else Path(str(module.__file__)).stem
    folder = settings.output / page.FOLDER
    make_folder(folder)
    limits = peaks(1024, 3) if settings.quick else peaks()
    began = time.perf_counter()
    report = module.measure(settings, limits)
    document = {
        "benchmark": name,
        "description": module.__doc__ or name,
        "settings": asdict(settings),
        "command": command(name, settings).replace("experiments.", "benchmarks."),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": time.perf_counter() - began,
        "machine": machine(),
        "dtype": report.dtype,
        "peaks": limits,
        "bars": [bar._asdict() for bar in report.bars],
        "tables": [table._asdict() for table in report.tables],
        "notes": list(report.notes),
        "figures": [
            {"file": f"{name}_{key}", "alt": described(figure), "inches": figure.get_size_inches()}
            for key, figure in report.figures.items()
        ],
        "numbers": _by_name(report.numbers),
    }
    written = folder / f"{name}.json"
    written.write_text(json.dumps(plain(document), indent=1) + "\n", encoding="utf-8")
    with mpl.rc_context({"svg.hashsalt": name}):
        for key, figure in report.figures.items():
            for kind in ("png", "svg"):
                path = folder / f"{name}_{key}.{kind}"
                figure.savefig(path, metadata={"Date": None} if kind == "svg" else None)
    made = page.write(settings.output)
    if settings.json:
        print(written.read_text(encoding="utf-8"), end="")
    else:
        show(name, document)
        console.print(f"wrote {written}, its figures, and {made}", soft_wrap=True)


def show(name: str, document: dict[str, Any]) -> None:
    """Print what was found."""
    console.rule(f"[bold]{name}")
    told = " ".join(f"{key} {value}" for key, value in document["machine"].items())
    console.print(f"{escape(told)}; {page.limits(document['peaks'])}", style="dim")
    for table in document["tables"]:
        shown = RichTable(title=escape(table["title"]), caption=escape(table["note"]) or None, title_justify="left")
        for i, column in enumerate(table["columns"]):
            shown.add_column(escape(column), justify="left" if i == 0 else "right")
        for row in table["rows"]:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for note in document["notes"]:
        console.print(escape(note), soft_wrap=True)
    for bar in document["bars"]:
        word = "[green]reached[/]" if bar["reached"] else "[yellow]missed[/]"
        console.print(f"{word}: {escape(bar['text'])}: {escape(bar['found'])}", soft_wrap=True)


def progress(items: Iterable[T], text: str) -> Iterable[T]:
    """The items, with a bar beside the output that shows how many are done."""
    return track(list(items), description=text, console=_progress, transient=True)


def forest(labels: Sequence[str], series: Mapping[str, Sequence[Ratio | None]], xlabel: str, title: str = "") -> Figure:
    """Ratios with their intervals, a row for each label, on a logarithmic axis with a line at 1."""
    figure = new_figure(8, 1.2 + (0.16 + 0.1 * len(series)) * len(labels))
    axes = figure.subplots()
    for i, (name, ratios) in enumerate(series.items()):
        colour, _, marker = STYLES[i % len(STYLES)]
        shift = (i - (len(series) - 1) / 2) * 0.6 / len(series)
        found = [(row + shift, one) for row, one in enumerate(ratios) if one is not None]
        value = [one.value for _, one in found]
        low = [max(0.0, one.value - one.low) for _, one in found]
        high = [max(0.0, one.high - one.value) for _, one in found]
        axes.errorbar(value, [row for row, _ in found], xerr=[low, high], fmt=marker, color=colour, markersize=4.5,
                      linewidth=1.2, label=name if len(series) > 1 else None)  # fmt: skip
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    few = axes.get_xlim()[1] / axes.get_xlim()[0] < 30
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}" if few else ""))
    axes.tick_params(axis="x", which="both", labelsize=9)
    finish(axes, xlabel, "", title)
    if len(series) > 1:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.6 / figure.get_size_inches()[1]),
                    ncols=len(series))  # fmt: skip
    return figure


def named(sizes: Sequence[int]) -> str:
    """The sizes of a network as people write them."""
    return "-".join(map(str, sizes))


def _by_name(value: Any) -> Any:
    """Named tuples as objects with their names, at any depth."""
    if hasattr(value, "_asdict"):
        return _by_name(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _by_name(item) for key, item in value.items()}
    return [_by_name(item) for item in value] if isinstance(value, (list, tuple)) else value


def script() -> int:
    """The command line of the benchmark that is run as a program."""
    return main(sys.modules["__main__"])
