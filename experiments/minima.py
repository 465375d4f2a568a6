"""Minima: how often gradient descent reaches the global minimum, and what the places are where it does not.

Thousands of networks of logistic units learn XOR, and the parity of three bits, by batch gradient descent on squared
error. The end points are counted by cost level and, in float64, by the gradient's norm and the Hessian's eigenvalues:
true minimum, saddle, plateau with saturated units, or still descending. XOR with two hidden units is said to have no
finite local minimum (Sprinkhuizen-Kuyper & Boers 1996, Hamey 1998): Newton's method on ∇J = 0 looks for its finite
stationary points, and longer training, in float32 and float64, tells what the apparent ones are. Networks are told
apart modulo symmetries, units permuted and signs flipped. The cost surface is shown on filter-normalised slices (Li et
al. 2018), and on straight paths between solutions before and after matching units (Ainsworth et al. 2023).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxnet
from experiments import _minima_census as census
from experiments import _minima_figures as figures
from experiments._minima_census import NET, SOLVED, end_points, on_level
from experiments._minima_claims import Found, claims
from experiments._minima_surface import cost_slice, paths
from experiments._minima_training import Descent, Settings, descend_each, longer, narrowed, parity
from experiments.common import (
    Result,
    check_at_least,
    console,
    initial,
    main,
    network_agreement,
    quickly_compiled,
    share,
)
from jaxnet.data import Data
from jaxnet.ensemble import EnsembleResult


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Train all networks, count where they end, and look at the cost surface there."""
    check_at_least(settings, members=1, parity_members=1, epochs=1, longer=1, looked_at=1, searches=1, pairs=1)
    if sorted(set(settings.hidden)) != list(settings.hidden):
        raise ValueError(f"hidden is {settings.hidden}, expected rising numbers of hidden units")
    if not settings.learning_rate > 0 or not settings.scale > 0:
        raise ValueError(f"learning_rate is {settings.learning_rate}, and scale {settings.scale}; expected numbers > 0")
    key, data, narrow = jax.random.key(settings.seed), jaxnet.data.xor(), settings.hidden[0]

    def widest(inputs: int, hidden: tuple[int, ...], members: int) -> Any:
        sizes = inputs, max(hidden), 1
        return jax.tree.map(np.asarray, initial(key, members, sizes, scheme="normal", scale=settings.scale))

    widest_for_xor = widest(2, settings.hidden, settings.members)
    widest_for_parity = widest(3, settings.parity_hidden, settings.parity_members)
    starts = {hidden: narrowed(widest_for_xor, hidden) for hidden in settings.hidden}
    scales = np.geomspace(0.1, 10, settings.members)
    rescaled = jax.tree.map(
        lambda leaf: leaf * scales.astype(leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1)) / settings.scale,
        starts[narrow],
    )
    runs = [
        *(Descent(start, data) for start in starts.values()),
        *(Descent(narrowed(widest_for_parity, hidden), parity()) for hidden in settings.parity_hidden),
        Descent(rescaled, data),
        Descent(jax.tree.map(lambda leaf: leaf[: settings.looked_at], starts[narrow]), data, jnp.float64),
    ]
    results = descend_each(settings, runs, progress=progress)
    for_xor, (*for_parity, by_scale, in_float64) = results[: len(starts)], results[len(starts) :]
    networks, costs = {}, {}
    for hidden, result in zip(starts, for_xor, strict=True):
        networks[hidden], costs[hidden] = jax.tree.map(np.asarray, result.params), _last_costs(result)
    in_parity = dict(zip(settings.parity_hidden, map(_last_costs, for_parity), strict=True))
    solved = {hidden: cost < SOLVED for hidden, cost in costs.items()}

    def some(hidden: int, chosen: np.ndarray, most: int = settings.looked_at) -> Any:
        return jax.tree.map(lambda leaf: leaf[np.flatnonzero(chosen)[:most]], networks[hidden])

    stuck = [] if solved[narrow].all() else [some(narrow, ~solved[narrow])]
    onwards = [Descent(one, data, dtype, settings.longer) for one in stuck for dtype in (jnp.float32, jnp.float64)]
    trained_on = descend_each(settings, onwards, progress=progress)
    if progress:
        console.print("[dim]the census, and the cost surface ...")
    with jax.enable_x64(True):
        exact = Data(*(array.astype(jnp.float64) for array in data))
        ends = {hidden: end_points(some(hidden, ~of), exact) for hidden, of in solved.items() if not of.all()}
        zeros = jaxnet.init(key, (2, narrow, 1), scheme="zeros", dtype=jnp.float64)
        found = Found(
            costs=costs,
            shares={
                "XOR": {hidden: share(int(of.sum()), len(of)) for hidden, of in solved.items()},
                "parity of 3 bits": {h: share(int(np.sum(of < SOLVED)), len(of)) for h, of in in_parity.items()},
            },
            ends=ends,
            kinds={hidden: census.kinds(of, settings.learning_rate * settings.epochs) for hidden, of in ends.items()},
            types=census.types(end_points(some(narrow, solved[narrow]), exact)),
            stationary=census.stationary_points(key, settings.searches, narrow, exact),
            at_zero=quickly_compiled(census.at_point)(zeros, exact),
            longer={
                jnp.dtype(one.dtype).name: longer(one, result) for one, result in zip(onwards, trained_on, strict=True)
            },
            in_both=(solved[narrow][: settings.looked_at], _last_costs(in_float64) < SOLVED),
            paths={
                hidden: paths(some(hidden, of, 2 * settings.pairs), exact)
                for hidden, of in solved.items()
                if of.sum() > 1
            },
        )
        slices = _slices(key, networks[narrow], costs[narrow], exact)
    plotted = {
        "levels": figures.levels(costs, scales, _last_costs(by_scale)),
        "census": figures.census(found, settings.epochs),
    }
    if slices:
        plotted["surface"] = figures.surface(slices)
    if found.paths:
        plotted["paths"] = figures.between(found.paths)
    numbers = _numbers(found) | {"gradient_agreement": network_agreement(zeros, data, NET)}
    return Result(numbers, plotted, claims(found, settings))


def _last_costs(result: EnsembleResult) -> np.ndarray:
    return result.history["cost"][:, -1]


def _slices(key: Array, params: Any, costs: np.ndarray, data: Data) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Slices about one network of each cost level that there is."""
    found = {}
    on = on_level(costs)
    for index, (name, level) in enumerate(census.LEVELS.items()):
        if (on == index).any():
            member = int(np.flatnonzero(on == index)[0])
            network = jax.tree.map(lambda leaf, k=member: jnp.asarray(leaf[k], jnp.float64), params)
            surface, along = cost_slice(key, network, data, reach=1.5, points=121)
            title = "a solution" if level == 0 else f"on the level {name}"
            found[title] = np.asarray(surface), np.asarray(along)
    return found


def _numbers(found: Found) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for task, of in found.shares.items():
        numbers |= {f"{task}, {hidden} hidden units: global minimum": counted for hidden, counted in of.items()}
    for hidden, of in found.ends.items():
        on, which = on_level(of.cost), found.kinds[hidden]
        numbers[f"XOR, {hidden} hidden units: end points looked at"] = len(which)
        numbers[f"XOR, {hidden} hidden units: census"] = {
            name: {
                "end points": int(np.sum(on == level)),
                **{kind: int(np.sum((on == level) & (which == index))) for index, kind in enumerate(census.KINDS)},
                "gradient norm": _median(of.point.gradient_norm[on == level]),
                "smallest eigenvalues": _median(of.point.eigenvalues[on == level]),
            }
            for level, name in [*enumerate(census.LEVELS), (-1, "elsewhere")]
            if (on == level).any()
        }
    numbers["kinds of solution"], numbers["kinds of solution modulo symmetries"] = found.types
    numbers["stationary points found"] = len(found.stationary.cost)
    numbers["stationary points, costs"] = sorted(set(np.round(found.stationary.cost, 4).tolist()))
    numbers["all weights zero: cost"] = float(found.at_zero[0])
    numbers["all weights zero: gradient norm"] = float(found.at_zero[1].gradient_norm)
    for dtype, of in found.longer.items():
        numbers[f"trained on in {dtype}: share not at the global minimum"] = np.mean(of.cost >= SOLVED, axis=0)
    for hidden, of in found.paths.items():
        before, after = of.barriers
        numbers[f"XOR, {hidden} hidden units: barrier, median"] = float(np.median(before))
        numbers[f"XOR, {hidden} hidden units: barrier after matching, median"] = float(np.median(after))
    return numbers


def _median(values: Any) -> Any:
    """The median of each column, the first five of them."""
    return np.median(values, axis=0).ravel()[:5].tolist()


FULL: dict[str, Any] = {
    "epochs": 10_000,
    "parity_members": 20_000,
    "parity_hidden": (2, 3, 4, 8, 16),
    "looked_at": 5000,
    "searches": 20_000,
    "pairs": 1000,
}

if __name__ == "__main__":
    raise SystemExit(main("minima", run, Settings, FULL, __doc__))
