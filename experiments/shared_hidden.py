"""A shared hidden layer: several outputs that use the same hidden units, and several classifiers that answer together.

Five yes-or-no questions about a digit (even? 5 or more? does it have a loop? prime? a multiple of 3?) are answered by
five outputs of one hidden layer, and by five networks of one output each with at least as many parameters in all; all
learn from the digits that scikit-learn ships, and are tested on examples not trained on (multi-task learning: Caruana
1997). Which output uses which hidden unit is seen by holding one unit at its mean and counting the answers that turn
wrong. Then small classifiers of the ten digits form a committee: they differ by their initial weights alone, or also by
the examples that each is trained on (Breiman 1996), and the average of their outputs is compared with them. For squared
error the average is better by exactly the spread of the members about it (Krogh & Vedelsby 1995). All is repeated with
other splits; intervals are over the repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments import _shared_figures as figures
from experiments._shared_runs import (
    ANSWERS,
    ATTRIBUTES,
    Committee,
    Settings,
    Sharing,
    ablation,
    answers,
    committee,
    compare,
    split,
)
from experiments.claims import mean_of
from experiments.common import (
    Claim,
    Result,
    above,
    check_at_least,
    estimate,
    main,
    network_agreement,
    two_at_a_time,
    verdict,
)
from jaxnet.data import Data

WEIGHTS, EXAMPLES = "other initial weights", "other weights and examples"
NEEDED = 0.01
"""A unit is needed by an output that loses so much accuracy without it."""


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Shared against separate layers, the ablation matrix, and the committees."""
    check_at_least(settings, repeats=1, epochs=1, committee=1, batch_size=1)
    if settings.committee == 1:
        raise ValueError("committee is 1, expected 2 members or more, whose errors may agree")
    if not settings.units:
        raise ValueError("units is empty, expected at least one number of hidden units")
    if not 0 < settings.drawn < 1:
        raise ValueError(f"drawn is {settings.drawn}, expected a number between 0 and 1")
    split_key, *keys = jax.random.split(jax.random.key(settings.seed), 3 + len(settings.units))
    parts = split(split_key, settings.repeats, settings.batch_size)
    comparisons = {
        units: partial(compare, key, parts, units, settings)
        for units, key in zip(settings.units, keys[2:], strict=True)
    }
    sharing = two_at_a_time(comparisons, "shared or separate", progress=progress)
    largest = sharing[settings.units[-1]]
    effects = ablation(largest.params, parts)
    kinds = {
        WEIGHTS: partial(committee, keys[0], parts, 1.0, settings),
        EXAMPLES: partial(committee, keys[1], parts, settings.drawn, settings),
    }
    committees = two_at_a_time(kinds, "committees", progress=progress)

    claims = (shared_or_separate(sharing, settings), several_outputs(effects), *together(committees))
    one = jax.tree.map(lambda leaf: leaf[0], largest.params)
    rows = parts.training[0]
    numbers: dict[str, Any] = {
        **{
            f"{name}, {units} units a question: accuracy": estimate(accuracy.mean(axis=1))
            for units, found in sharing.items()
            for name, accuracy in (("shared", found.shared), ("separate", found.separate))
        },
        **{
            f"committee of {name}: {key}": value
            for name, one in committees.items()
            for key, value in summary(one).items()
        },
        "questions": list(ATTRIBUTES),
        "accuracy by question": {
            units: {"shared": found.shared, "separate": found.separate} for units, found in sharing.items()
        },
        "ablation": effects.tolist(),
        "gradient_agreement": network_agreement(one, Data(parts.data.x[rows], answers(parts.data.y)[rows]), ANSWERS),
    }
    drawn = {
        "accuracy": figures.accuracy(sharing, settings),
        "ablation": figures.ablation(effects[0]),
        "committee": figures.committees(committees),
    }
    return Result(numbers, drawn, claims)


def summary(one: Committee) -> dict[str, Any]:
    """A committee in numbers."""
    return {
        "accuracy of members": estimate(one.right.mean(axis=(1, 2))),
        "accuracy of the best member": estimate(one.right.mean(axis=2).max(axis=1)),
        "accuracy of the average": estimate(one.averages()[:, -1]),
        "correlation of errors": estimate(one.correlations()),
    }


def shared_or_separate(sharing: Mapping[int, Sharing], settings: Settings) -> Claim:
    """Whether outputs gain by sharing a hidden layer."""
    gains = {units: mean_of((found.shared - found.separate).mean(axis=1)) for units, found in sharing.items()}
    return Claim(
        "Outputs that share a hidden layer answer better than separate networks of the same size in all.",
        above(0.0, min(one.low for one in gains.values()), min(one.high for one in gains.values())),
        "; ".join(
            f"{settings.shared_units(units)} shared units against {len(ATTRIBUTES)} times {units}: accuracy "
            f"{found.shared.mean():.1%} and {found.separate.mean():.1%}, difference {gains[units]:.1%}"
            for units, found in sharing.items()
        )
        + ".",
    )


def several_outputs(effects: np.ndarray) -> Claim:
    """Whether a hidden unit serves more than one output."""
    needed = (effects >= NEEDED).sum(axis=1)  # (repeats, units): outputs that need the unit
    share = mean_of((needed >= 2).mean(axis=1))
    return Claim(
        "Most hidden units serve several outputs.",
        above(0.5, share.low, share.high),
        f"{share:.0%} of the {effects.shape[2]} units are needed by two or more of the {effects.shape[1]} outputs, "
        f"on average by {needed.mean():.1f}: without the unit, that output loses {NEEDED:.0%} of accuracy or more.",
    )


def together(committees: Mapping[str, Committee]) -> tuple[Claim, ...]:
    """What classifiers gain by answering together, and how that depends on the correlation of their errors."""
    averages = {name: one.averages()[:, -1] for name, one in committees.items()}
    bests = {name: one.right.mean(axis=2).max(axis=1) for name, one in committees.items()}
    best = {name: mean_of(averages[name] - bests[name]) for name in committees}
    gains = {name: averages[name] - one.right.mean(axis=(1, 2)) for name, one in committees.items()}
    correlations = {name: one.correlations() for name, one in committees.items()}
    less = mean_of(correlations[WEIGHTS] - correlations[EXAMPLES])
    more = mean_of(gains[EXAMPLES] - gains[WEIGHTS])
    low, high = (min(getattr(one, bound) for one in (less, more)) for bound in ("low", "high"))
    alike = [mean_of(one) for one in correlations.values()]
    gap = max(
        float(np.abs(members - average - spread).max())
        for members, average, spread in (one.squared_errors() for one in committees.values())
    )
    return (
        Claim(
            "The average of several classifiers is better than the best of them.",
            above(0.0, min(one.low for one in best.values()), min(one.high for one in best.values())),
            "; ".join(
                f"{name}: members {one.right.mean():.1%}, best {bests[name].mean():.1%}, average "
                f"{averages[name].mean():.1%}, better than the best by {best[name]:.1%}"
                for name, one in committees.items()
            )
            + ".",
        ),
        Claim(
            "The members fail on the same examples more often than by chance.",
            above(0.0, min(one.low for one in alike), min(one.high for one in alike)),
            "Correlation of two members' errors: "
            + ", ".join(f"{one:.2f} with {name}" for one, name in zip(alike, correlations, strict=True))
            + ".",
        ),
        Claim(
            "Members that see other examples fail on less similar ones, and gain more by answering together.",
            above(0.0, low, high),
            f"The correlation of errors is lower by {less:.3f}; the average gains over its members "
            + " and ".join(f"{gain.mean():.1%} ({name})" for name, gain in gains.items())
            + f", more by {more:.1%}.",
        ),
        Claim(
            "In squared error, the average is better than its members by exactly their spread about it.",
            verdict(gap < 1e-12),
            f"The two sides differ by {gap:.0e} at the most.",
        ),
    )


FULL: dict[str, Any] = {"units": (1, 2, 3, 4, 6, 8), "repeats": 40, "epochs": 100, "committee": 20}

if __name__ == "__main__":
    raise SystemExit(main("shared_hidden", run, Settings, FULL, __doc__))
