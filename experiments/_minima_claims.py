"""What `experiments.minima` claims, and what its numbers say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax import Array

from experiments._minima_census import KINDS, SOLVED, EndPoints, Stationary, on_level
from experiments._minima_surface import Paths
from experiments._minima_training import Longer, Settings
from experiments.common import Claim, Verdict, above, share, verdict
from jaxnet.curvature import StationaryPoint


class Found(NamedTuple):
    """What was found. Mappings are by number of hidden units for XOR, unless said otherwise.

    ``costs``: at the end of training. ``shares``: that reach the global minimum, by task. ``ends``, ``kinds``: of
    networks that do not. ``types``: of solutions, as trained and modulo symmetries; they, ``stationary``, ``at_zero``,
    ``longer`` (by dtype) and ``in_both`` (solved in float32, and from the same start in float64) are of the fewest
    hidden units.
    """

    costs: Mapping[int, np.ndarray]
    shares: Mapping[str, Mapping[int, dict[str, float]]]
    ends: Mapping[int, EndPoints]
    kinds: Mapping[int, np.ndarray]
    types: tuple[int, int]
    stationary: Stationary
    at_zero: tuple[Array, StationaryPoint]
    longer: Mapping[str, Longer]
    in_both: tuple[np.ndarray, np.ndarray]
    paths: Mapping[int, Paths]


def _percent(found: Mapping[str, float]) -> str:
    return f"{found['share']:.2%} (95 % interval {found['low']:.2%} to {found['high']:.2%}, of {found['trials']})"


def claims(found: Found, settings: Settings) -> tuple[Claim, ...]:
    """Each claim, with its verdict."""
    return (
        *(_wider(task, of) for task, of in found.shares.items() if len(of) > 1),
        _zeros(found),
        *_levels(found),
        _no_minimum(found, settings.hidden[0]),
        *_longer(found, settings),
        _precision(found),
        _modulo_symmetries(found, settings.hidden[0]),
        *_barriers(found),
    )


def _wider(task: str, shares: Mapping[int, dict[str, float]]) -> Claim:
    narrow, *wide = shares
    lead = [
        True
        if shares[h]["low"] > shares[narrow]["high"]
        else False
        if shares[h]["high"] < shares[narrow]["low"]
        else None
        for h in wide
    ]
    return Claim(
        f"More hidden units than {narrow} reach the global minimum of {task} more often.",
        verdict(True if all(lead) else False if False in lead else None),
        "; ".join(f"{hidden} hidden units: {_percent(of)}" for hidden, of in shares.items()) + ".",
    )


def _zeros(found: Found) -> Claim:
    cost, point = float(found.at_zero[0]), found.at_zero[1]
    return Claim(
        "All weights zero are a stationary point of XOR, of squared error 1/4.",
        verdict(abs(cost - 0.25) < 1e-15 and float(point.gradient_norm) < 1e-15),
        f"Cost {cost}, ‖∇J‖ = {float(point.gradient_norm):.0e}; of the Hessian's {len(point.eigenvalues)} eigenvalues "
        f"{int(point.index)} are negative and {int(point.nullity)} zero: to second order flat.",
    )


def _levels(found: Found) -> tuple[Claim, ...]:
    descending = KINDS.index("still descending")
    at_rest = {hidden: of.cost[found.kinds[hidden] != descending] for hidden, of in found.ends.items()}
    costs = np.concatenate([*at_rest.values(), np.empty(0)])
    if not len(costs):
        return ()
    on = share(int(np.sum(on_level(costs) > 0)), len(costs))
    return (
        Claim(
            "From initial weights of this scale, networks for XOR that come to rest short of the global minimum do so "
            "at costs of 1/8, 1/6 or 1/4.",
            above(0.99, on["low"], on["high"]),
            f"Within 0.005 of these: {_percent(on)}.",
        ),
    )


def _no_minimum(found: Found, hidden: int) -> Claim:
    index = found.stationary.point.index
    ended = found.kinds.get(hidden, np.empty(0, int))
    minima = int(np.sum(ended == KINDS.index("local minimum")))
    counts = ", ".join(f"{np.sum(ended == i)} {kind}" for i, kind in enumerate(KINDS) if np.any(ended == i))
    enough = None if not len(index) else bool(np.all(index > 0) and minima == 0)
    return Claim(
        f"XOR with {hidden} hidden units has no finite local minimum: stationary points with an error are saddles.",
        verdict(enough),
        f"Of {len(index)} found by {found.stationary.searches} searches, {np.sum(index > 0)} have a direction of "
        f"descent. Of {len(ended)} networks not at the global minimum, {minima} are at a local minimum ({counts}).",
    )


def _longer(found: Found, settings: Settings) -> tuple[Claim, ...]:
    if not found.longer:
        return ()
    of, hidden = found.longer["float64"], settings.hidden[0]
    freed = of.cost[:, -1] < SOLVED
    escaped = share(freed.sum(), len(freed))
    falls = (of.cost[:, -1] < of.cost[:, 0]) & (of.norms[1] > of.norms[0])
    away = share(int(falls[~freed].sum()), max(1, int(np.sum(~freed))))
    return (
        Claim(
            f"Most networks with {hidden} hidden units that look stuck get free in {settings.longer} times the steps.",
            above(0.5, escaped["low"], escaped["high"]),
            f"At the global minimum after {settings.longer} × {settings.epochs} more steps in float64: "
            f"{_percent(escaped)}.",
        ),
        Claim(
            "What looks like a local minimum lies at infinity: the cost still falls, and the weights still grow.",
            verdict(None) if freed.all() else above(0.95, away["low"], away["high"]),
            f"True of {_percent(away)} of those that stay; their ‖θ‖ went from {np.median(of.norms[0]):.1f} to "
            f"{np.median(of.norms[1]):.1f} (medians).",
        ),
    )


def _precision(found: Found) -> Claim:
    single, double = found.in_both
    gained, lost = int(np.sum(double & ~single)), int(np.sum(single & ~double))
    lead = share(gained, max(1, gained + lost))
    return Claim(
        "Float64 reaches the global minimum from starts from which float32 does not.",
        above(0.5, lead["low"], lead["high"]) if gained + lost else verdict(False if single.any() else None),
        f"Of {len(single)} starts, {single.sum()} get there in float32 and {double.sum()} in float64: {gained} in "
        f"float64 only, {lost} in float32 only.",
    )


def _modulo_symmetries(found: Found, hidden: int) -> Claim:
    raw, modulo = found.types
    return Claim(
        "Most solutions of XOR that look different are the same but for the order and the signs of hidden units.",
        verdict(2 * modulo < raw if raw > 1 else None),
        f"By what their {hidden} hidden units say yes to: {raw} kinds of solution; modulo symmetries: {modulo}.",
    )


def _barriers(found: Found) -> tuple[Claim, ...]:
    barriers = {hidden: of.barriers for hidden, of in found.paths.items()}
    lower = {hidden: share(int(np.sum(after < before)), len(before)) for hidden, (before, after) in barriers.items()}
    if not lower:
        return ()
    leads = [above(0.5, of["low"], of["high"]) for of in lower.values()]
    gone = {hidden: np.mean(after < SOLVED) for hidden, (_, after) in barriers.items()}
    return (
        Claim(
            "Matching hidden units, in order and sign, lowers the barrier on the straight path between solutions.",
            next((lead for lead in (Verdict.FAILS, Verdict.OPEN) if lead in leads), Verdict.HOLDS),
            "Lower, median barrier before and after, share without one after: "
            + "; ".join(
                f"{hidden} hidden units {lower[hidden]['share']:.0%}, {np.median(before):.3f} and "
                f"{np.median(after):.3f}, {gone[hidden]:.0%}"
                for hidden, (before, after) in barriers.items()
            )
            + ".",
        ),
    )
