"""Run every experiment with its default settings and write numbers and figures into ``results/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments import digits, xor
from experiments.common import RESULTS, console, present


@dataclass(frozen=True)
class Settings:
    """What is common to all experiments."""

    output: Path = RESULTS
    """Folder for the numbers and figures."""


def main(settings: Settings) -> bool:
    """Run them all; whether the gradient by hand agreed with the automatic one in each."""
    agreed = [
        present(name, module.run, module.Settings(output=settings.output))
        for name, module in {"xor": xor, "digits": digits}.items()
    ]
    if not all(agreed):
        console.print("[bold red]the gradient by hand and the automatic one differ: see above")
    return all(agreed)


if __name__ == "__main__":
    raise SystemExit(not main(tyro.cli(Settings, description=__doc__)))
