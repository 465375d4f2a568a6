"""Run every experiment with its default settings and write numbers and figures into ``results/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments import beyond_gradient, chain_rule, digits, xor
from experiments.common import RESULTS, present

MODULES = {"chain_rule": chain_rule, "xor": xor, "digits": digits, "beyond_gradient": beyond_gradient}


@dataclass(frozen=True)
class Settings:
    """What is common to all experiments."""

    output: Path = RESULTS
    """Folder for the numbers and figures."""


def main(settings: Settings) -> int:
    """Run them all; the worst of their exit statuses."""
    return max(present(name, module.run, module.Settings(output=settings.output)) for name, module in MODULES.items())


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings, description=__doc__)))
