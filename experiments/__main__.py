"""Run experiments, all or those named, and write numbers, figures and a page of all claims, ``results/index.html``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Annotated

import tyro
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments import MODULES, gallery, records
from experiments.common import RESULTS, SKIPPED, Missing, agreed, console, show_claims, timed


@dataclass(frozen=True)
class Settings:
    """What is common to all experiments."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = MODULES
    """Which to run."""
    full: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The thorough versions, which take minutes each."""
    output: Path = RESULTS
    """Folder for the page, the numbers and the figures."""


def main(settings: Settings) -> int:
    """Run them; the worst of their exit statuses, in which a skipped one does not count."""
    if unknown := set(settings.names) - set(MODULES):
        console.print(f"no experiment {', '.join(sorted(unknown))}: there are {', '.join(MODULES)}", soft_wrap=True)
        return 2
    try:
        records.make_folder(settings.output)
    except OSError as error:
        console.print(f"[bold red]cannot write there:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    modules = {name: import_module(f"experiments.{name}") for name in settings.names}
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    statuses = []
    # Figures are drawn while the next experiment runs: in another process, because Python does one thing at a time, and
    # in a new one, because JAX's threads do not survive a fork.
    with Progress(*columns, console=console) as bar, ProcessPoolExecutor(1, get_context("spawn")) as painter:
        task = bar.add_task("", total=len(modules))
        drawn: Callable[[], int] = int  # before the first there is nothing to write: 0
        try:
            for name, module in modules.items():
                bar.update(task, description=name)
                previous, drawn = drawn, outcome(name, module, settings, painter)
                statuses.append(previous())
                gallery.write(settings.output)
                bar.advance(task)
        finally:  # whoever interrupts an experiment has the ones before it
            statuses.append(drawn())
            gallery.write(settings.output)
    console.print(f"wrote {settings.output / gallery.PAGE}", soft_wrap=True)
    return max((status for status in statuses if status != SKIPPED), default=0)


def outcome(name: str, module: ModuleType, settings: Settings, painter: Executor) -> Callable[[], int]:
    """Run an experiment, and have its figures drawn; what then writes what became of it and returns the exit status."""
    given = module.Settings(**module.FULL if settings.full else {}, output=settings.output)

    def failed(error: Exception) -> int:
        console.print_exception()
        reason = f"{type(error).__name__}: {error}"
        records.save_reason(name, module.run, given, records.Outcome.FAILED, reason)
        return 2

    console.rule(f"[bold]{name}")
    try:
        result = timed(module.run, given, progress=False)
        drawing = painter.submit(records.draw, settings.output, name, result.figures)
    except Missing as missing:
        console.print(f"skipped: {escape(str(missing))}", soft_wrap=True)
        records.save_reason(name, module.run, given, records.Outcome.SKIPPED, str(missing))
        return lambda: SKIPPED
    except Exception as error:  # whatever it is, the others shall run
        status = failed(error)
        return lambda: status
    show_claims(result)

    def drawn() -> int:
        try:
            drawing.result()
        except Exception as error:
            return failed(error)
        records.save_numbers(name, module.run, given, result)
        return 0 if agreed(result) else 1

    return drawn


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings, description=__doc__)))
