"""Run benchmarks, all or those named: tables, ``results/benchmarks/*.json``, figures, ``results/benchmarks.html``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from benchmarks import MODULES, report
from benchmarks.report import RESULTS, Flag, console


@dataclass(frozen=True)
class Settings:
    """What is common to all benchmarks."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = MODULES
    """Which to run."""
    quick: Flag = False
    """Few cases in three turns: under two minutes for all."""
    json: Flag = False
    """Print the results as JSON, one document after the other, instead of tables."""
    output: Path = RESULTS
    """Folder for the page; numbers and figures go into its folder benchmarks."""


def main(settings: Settings) -> int:
    """Run them; 1 if one of them failed, 2 if a name is not one of theirs."""
    if unknown := set(settings.names) - set(MODULES):
        console.print(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(MODULES)}", soft_wrap=True)
        return 2
    status = 0
    for name in settings.names:
        module = import_module(f"benchmarks.{name}")
        try:
            report.present(module, module.Settings(quick=settings.quick, json=settings.json, output=settings.output))
        except Exception as error:  # whatever it is, the others shall run
            console.print_exception()
            console.print(f"[bold red]{name} failed:[/] {escape(str(error))}", soft_wrap=True)
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings, description=__doc__)))
