"""Descent: steps on all examples, on a few, or on one; their noise, their step size, and other optimizers.

The gradient of a batch drawn at random is that of all examples plus noise of variance tr Σ / size (Robbins & Monro
1951; Bottou, Curtis & Nocedal 2018, section 4). A network of one hidden layer learns the digits that scikit-learn ships
by batch, mini-batch and stochastic gradient descent, which are compared by epochs, by examples seen and by the time
that one network takes on this computer. Every learning rate is chosen: all rates from 1e-4 to 1e2 are trained in one
call of `jaxnet.ensemble.train`, the best one is taken by one half of the networks, and judged by the other half. So are
those of the optimizers of optax beside plain descent. The cost is the mean cross-entropy of all examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments import _descent_figures as figures
from experiments._descent_runs import (
    BATCH,
    METHODS,
    MINI_BATCH,
    NET,
    OPTIMIZERS,
    PLAIN,
    STOCHASTIC,
    Noise,
    Settings,
    Sweep,
    Tuned,
    epochs_to,
    examples,
    first_epoch,
    last_cost,
    noise_of,
    seconds_per_epoch,
    starts,
    sweeps,
    tuned,
)
from experiments.claims import mean_of
from experiments.common import (
    Claim,
    Result,
    Verdict,
    above,
    check_at_least,
    console,
    estimate,
    main,
    network_agreement,
    verdict,
)

SIZES = (1, 4, 16, 64, 256)


def run(settings: Settings, *, progress: bool = False) -> Result:
    """The three ways to descend, their noise, and the optimizers."""
    check_at_least(settings, repeats=1, per_decade=1, epochs=1, batch_epochs=1, batches=1, batch_size=1)
    if settings.batch_epochs < settings.epochs:
        raise ValueError(f"batch_epochs is {settings.batch_epochs}, expected at least the {settings.epochs} epochs")
    data = examples(settings.batch_size)
    n, rates = len(data.x), settings.rates
    init_key, order_key, first_key, noise_key = jax.random.split(jax.random.key(settings.seed), 4)
    params = starts(init_key, settings, data)
    judged = jax.tree.map(lambda leaf: leaf[settings.repeats :], params)
    one = jax.tree.map(lambda leaf: leaf[0], params)

    def tell(what: str) -> None:
        if progress:
            console.print(f"[dim]{what} ...")

    sizes = dict(zip(METHODS, (n, settings.batch_size, 1), strict=True))
    epochs = {name: settings.batch_epochs if name == BATCH else settings.epochs for name in METHODS}
    methods, chosen, first, seconds, by_optimizer = {}, {}, {}, {}, {}
    for name, size in sizes.items():
        tell(f"{name} gradient descent")
        names = tuple(OPTIMIZERS) if name == MINI_BATCH else (PLAIN,)
        found = sweeps(order_key, params, data, names, settings, epochs=epochs[name], batch_size=size)
        methods[name], chosen[name] = found[PLAIN], tuned(found[PLAIN], partial(epochs_to, settings.target), rates)
        seconds[name] = seconds_per_epoch(order_key, one, data, size, settings.epochs)
        if name == MINI_BATCH:
            by_optimizer = found
        if name != BATCH:  # whose first epoch is one step
            first[name] = first_epoch(first_key, judged, data, chosen[name].rate, size)
    best = {name: tuned(found, last_cost, rates) for name, found in by_optimizer.items()}
    tell("noise")
    noises = {
        name: noise_of(noise_key, some, data, SIZES, settings.batches)
        for name, some in (("start", judged), ("end", chosen[MINI_BATCH].params))
    }

    claims = (
        *three_ways(chosen, seconds, settings),
        *noise(noises),
        rates_by_batch(methods, settings),
        *optimizers(by_optimizer, best, settings),
    )
    arrivals = epochs_of(chosen, settings)
    numbers: dict[str, Any] = {
        **{f"{name}: learning rate": one.rate for name, one in chosen.items()},
        **{f"{name}: epochs to the target": estimate(epochs) for name, epochs in arrivals.items()},
        **{f"{name}: starts that never get there": text for name, text in missed(arrivals, chosen).items()},
        **{f"{name}: seconds per epoch": estimate(found) for name, found in seconds.items()},
        **{f"{name}: best learning rate for the last cost": one.rate for name, one in best.items()},
        **{f"{name}: cost after {settings.epochs} epochs": estimate(one.costs[:, -1]) for name, one in best.items()},
        "rates": rates.tolist(),
        "costs by rate": {name: found.costs[..., -1] for name, found in {**methods, **by_optimizer}.items()},
        "noise": {name: found._asdict() for name, found in noises.items()},
        "gradient_agreement": network_agreement(one, data, NET),
    }
    drawn = {
        "methods": figures.methods(chosen, first, seconds, n, settings.target),
        "rates": figures.rates(methods, by_optimizer, rates, settings.epochs),
        "noise": figures.noise(noises, SIZES),
        "optimizers": figures.optimizers(best),
    }
    return Result(numbers, drawn, claims)


def epochs_of(chosen: Mapping[str, Tuned], settings: Settings) -> dict[str, np.ndarray]:
    """The epochs that each way takes to the target."""
    return {name: epochs_to(settings.target, one.costs) for name, one in chosen.items()}


def missed(epochs: Mapping[str, np.ndarray], chosen: Mapping[str, Tuned]) -> dict[str, str]:
    """How many starts of each way never are at the target, and what they count as, where there are any."""
    most = {name: one.costs.shape[1] for name, one in chosen.items()}
    return {
        name: f"{int((found > most[name]).sum())} of {len(found)} never, counted as {most[name] + 1}"
        for name, found in epochs.items()
        if (found > most[name]).any()
    }


def three_ways(chosen: Mapping[str, Tuned], seconds: Mapping[str, np.ndarray], settings: Settings) -> tuple[Claim, ...]:
    """What an epoch, and a second, buys by steps on all examples, on a few, and on one."""
    epochs = epochs_of(chosen, settings)
    fewer = [mean_of(np.log10(epochs[BATCH] / epochs[name])) for name in (MINI_BATCH, STOCHASTIC)]
    some_arrived = any((epochs[name] <= chosen[name].costs.shape[1]).any() for name in METHODS)
    times = {name: epochs[name] * np.median(seconds[name]) for name in METHODS}
    faster = mean_of(np.log10(np.minimum(times[BATCH], times[STOCHASTIC]) / times[MINI_BATCH]))
    never = {name: f", {text}" for name, text in missed(epochs, chosen).items()}
    return (
        Claim(
            "Steps on few examples need far fewer passes over the data than steps on all of them.",
            above(0.0, min(one.low for one in fewer), min(one.high for one in fewer)) if some_arrived else Verdict.OPEN,
            f"Epochs until the cost is {settings.target:g}: "
            + ", ".join(f"{name} {found.mean():.3g}{never.get(name, '')}" for name, found in epochs.items())
            + f"; fewer by a factor of 10 to the {fewer[0]:.2f} (mini-batch) and {fewer[1]:.2f} (stochastic).",
        ),
        Claim(
            "In time, mini-batches are first: they need few passes, and use the processor better than single examples.",
            above(0.0, faster.low, faster.high) if some_arrived else Verdict.OPEN,
            "Seconds until then, one network on this computer: "
            + ", ".join(f"{name} {found.mean():.2g}{never.get(name, '')}" for name, found in times.items())
            + f"; the better of the other two takes longer by a factor of 10 to the {faster:.2f}.",
        ),
    )


def noise(found: Mapping[str, Noise]) -> tuple[Claim, ...]:
    """How the noise of a batch depends on its size, and on how far training has come."""
    slopes = mean_of(np.polyfit(np.log(SIZES), np.log(found["start"].measured.T), 1)[0])
    exact = slopes.low > -1.05 and slopes.high < -0.95
    start, end = (one.variance / one.signal for one in (found["start"], found["end"]))
    grown = mean_of(np.log10(end / start))
    return (
        Claim(
            "The noise in a batch's gradient is that of one example divided by the size of the batch.",
            verdict(True if exact else False if slopes.low > -0.95 or slopes.high < -1.05 else None),
            f"At the start, ‖g − G‖² falls as the size ({SIZES[0]} to {SIZES[-1]}) to the power {slopes:.3f}.",
        ),
        Claim(
            "The nearer training comes to its end, the more of a batch's gradient is noise.",
            above(0.0, grown.low, grown.high),
            f"Noise scale tr Σ / ‖G‖², the batch of as much noise as signal: {start.mean():.2g} examples at the start, "
            f"{end.mean():.2g} at the end; grown by a factor of 10 to the {grown:.1f}.",
        ),
    )


def rates_by_batch(found: Mapping[str, Sweep], settings: Settings) -> Claim:
    """Whether single examples ask for smaller steps."""
    best = {name: settings.rates[np.argmin(found[name].costs[..., settings.epochs - 1], axis=1)] for name in METHODS}
    ratio = mean_of(np.log10(best[BATCH] / best[STOCHASTIC]))
    return Claim(
        "The noisier the gradient, the smaller the best learning rate.",
        above(0.0, ratio.low, ratio.high),
        f"Lowest cost after {settings.epochs} epochs at rates of "
        + ", ".join(f"{10 ** np.log10(found).mean():.2g} ({name})" for name, found in best.items())
        + f"; from single examples to all of them it grows by a factor of 10 to the {ratio:.2f}.",
    )


def optimizers(found: Mapping[str, Sweep], best: Mapping[str, Tuned], settings: Settings) -> tuple[Claim, ...]:
    """What the optimizers gain over plain descent, and what a rate that is not tuned loses."""
    rates = settings.rates
    logs = {name: last_cost(one.costs) for name, one in best.items()}
    gains = {name: mean_of(logs[PLAIN] - one) for name, one in logs.items() if name != PLAIN}
    at = int(np.argmin(np.abs(np.log10(rates / best[PLAIN].rate * 10))))  # a tenth of the best rate
    untuned = last_cost(found[PLAIN].costs[settings.repeats :, at]) - logs[PLAIN]
    spread = np.ptp(np.array([*logs.values()]), axis=0)
    more = mean_of(untuned - spread)
    return (
        Claim(
            "Every optimizer does better than plain descent, each at its best learning rate.",
            above(0.0, min(one.low for one in gains.values()), min(one.high for one in gains.values())),
            f"After {settings.epochs} epochs the cost is lower than that of plain descent by a factor of 10 to the "
            + ", ".join(f"{one:.2f} ({name})" for name, one in gains.items())
            + ".",
        ),
        Claim(
            "A rate ten times too small costs plain descent more than the choice of the optimizer does.",
            above(0.0, more.low, more.high),
            f"Powers of ten in the cost: {untuned.mean():.2f} by the rate, {spread.mean():.2f} from the worst to the "
            f"best optimizer; difference {more:.2f}.",
        ),
    )


FULL: dict[str, Any] = {"repeats": 8, "per_decade": 2, "epochs": 40, "batch_epochs": 500, "batches": 400}

if __name__ == "__main__":
    raise SystemExit(main("descent", run, Settings, FULL, __doc__))
