"""XOR: no linear classifier solves it; a third feature x₁ x₂ does, and so does a hidden layer of logistic units.

That no line separates is shown twice: a linear program has no solution, with multipliers that prove it (by Gordan's
theorem of the alternative, 1873), and of thousands of linear classifiers trained side by side none ever gets more than
three of the four points right (Minsky & Papert 1969). With the product x₁ x₂ as third feature the program has a
solution and training finds one. The lecture's network h = s₁(V x), ŷ = s(W h), trained by batch gradient descent on
the mean of ‖ŷ − y‖² with the gradient by hand, solves it as logic does: each hidden unit plays a gate that a line can
play, and the output combines them (Rumelhart, Hinton & Williams 1986).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxnet
from experiments import _xor_figures as pictures
from experiments._xor_logic import GATES, gate, impossibility, residual, separator
from experiments.common import RESULTS, Claim, Result, main, network_agreement, verdict
from jaxnet import ensemble, plots
from jaxnet.data import Data


@dataclass(frozen=True)
class Settings:
    """What to train."""

    hidden: int = 2
    """Hidden units."""
    seed: int = 0
    """Seed of the initial weights."""
    scale: float = 1.0
    """Factor on the initial weights, which are standard normal."""
    learning_rate: float = 4.0
    """Step size of gradient descent."""
    epochs: int = 5000
    """Steps, each on all four points."""
    classifiers: int = 10_000
    """Linear classifiers trained side by side; learning rate and initial scale are 1/10 to 10 times those above."""
    classifier_epochs: int = 1000
    """Their steps."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


class Logic(NamedTuple):
    """The gates that a network plays."""

    hidden: list[str]  # of each hidden unit, in x₁ and x₂
    output: str | None  # in h₁ and h₂, where these are all there is
    sureness: float  # the smallest distance of a hidden unit's activation from 1/2, at the four points
    solves: bool  # whether it is XOR when each hidden unit is rounded to its gate


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Prove that no line separates, and train: a network, linear classifiers, and one with a third feature."""
    net, data = jaxnet.Network(), jaxnet.data.xor()
    optimizer = optax.sgd(settings.learning_rate)
    weights_key, linear_key, order_key, classifiers_key = jax.random.split(jax.random.key(settings.seed), 4)
    params = jaxnet.init(weights_key, (2, settings.hidden, 1), scheme="normal", scale=settings.scale)
    linear, with_three = (
        jaxnet.init(linear_key, sizes, scheme="normal", scale=settings.scale) for sizes in ((2, 1), (3, 1))
    )
    with_product = Data(jnp.column_stack([data.x, jnp.prod(data.x, axis=1)]), data.y)
    trained, straight, raised = (
        jaxnet.train(
            order_key,
            start,
            given,
            net=net,
            optimizer=optimizer,
            epochs=settings.epochs,
            metrics={"accuracy": jaxnet.accuracy},
            progress=progress,
        )
        for start, given in ((params, data), (linear, data), (with_three, with_product))
    )
    counts = most_right(classifiers_key, data, settings, progress)
    logic = gates_of(trained.params, data, net)
    planes = {gate(np.array(outputs)): separator(np.asarray(data.x), np.array(outputs)) for outputs in GATES}
    x, y = (np.asarray(array, float) for array in (data.x, data.y.ravel()))
    proof = impossibility(x, y)
    product_plane = separator(np.asarray(with_product.x, float), y)
    outputs = np.asarray(jaxnet.forward(trained.params, data.x, net)).ravel()
    numbers = {
        "cost": float(jaxnet.cost(trained.params, *data, net)),
        "accuracy": float(jaxnet.accuracy(trained.params, *data, net)),
        "linear_cost": float(jaxnet.cost(straight.params, *data, net)),
        "linear_accuracy": float(jaxnet.accuracy(straight.params, *data, net)),
        "linear_program": "infeasible" if separator(x, y) is None else "feasible",
        "multipliers": proof,
        "classifiers_by_most_points_right": {str(right): int(count) for right, count in enumerate(counts)},
        "functions_of_two_bits_without_a_line": [name for name, plane in planes.items() if plane is None],
        "product_accuracy": float(jaxnet.accuracy(raised.params, *with_product, net)),
        "product_plane": product_plane,
        "gates": logic._asdict(),
        "outputs": {str(point): output for point, output in zip(data.x.tolist(), outputs.tolist(), strict=True)},
        "V": jaxnet.to_augmented(trained.params)[0],
        "W": jaxnet.to_augmented(trained.params)[1],
        "history": trained.history,
        "stopped_at": trained.not_finite,
        "gradient_agreement": network_agreement(params, data, net),
    }
    claims = (
        *impossible(counts, None if proof is None else residual(x, y, proof), separator(x, y), planes),
        Claim(
            "With the product x₁ x₂ as third feature, a plane separates, and a linear classifier learns it.",
            verdict(product_plane is not None and numbers["product_accuracy"] == 1),
            f"The linear program has a solution; training gets {4 * numbers['product_accuracy']:.0f} of 4 right."
            if product_plane is not None
            else "The linear program has no solution.",
        ),
        Claim(
            "With a hidden layer XOR is solved, and as logic: each hidden unit plays a gate, the output combines them.",
            verdict(numbers["accuracy"] == 1 and logic.solves),
            f"{4 * numbers['accuracy']:.0f} of 4 right, cost {numbers['cost']:.1g}; "
            + ", ".join(f"h{_subscript(i)} = {name}" for i, name in enumerate(logic.hidden, 1))
            + (f", ŷ = {logic.output}" if logic.output else "")
            + f"; each hidden unit rounded to its gate, the output is {'' if logic.solves else 'not '}right.",
        ),
    )
    curves = {
        f"{settings.hidden} hidden units": trained.history["cost"],
        "no hidden layer": straight.history["cost"],
        "no hidden layer, but x₁ x₂ as third feature": raised.history["cost"],
    }
    tables = {name: (np.array(outputs), planes[name]) for outputs in GATES for name in (gate(np.array(outputs)),)}
    figures = {
        "functions": pictures.functions(tables),
        "product": pictures.product(np.asarray(jaxnet.to_augmented(raised.params)[0]).ravel(), y),
        "units": units_figure(trained.params, data, net, logic),
    }
    if settings.epochs:
        figures["cost"] = plots.cost_curves(curves, ylabel="cost: mean of ‖ŷ − y‖²", title="XOR by gradient descent")
    if settings.hidden >= 2:
        figures["boundary"] = plots.boundary_and_hidden_space(
            trained.params, *data, net, title=f"XOR, {settings.hidden} hidden units"
        )
    return Result(numbers, figures, claims)


def most_right(key: Array, data: Data, settings: Settings, progress: bool) -> np.ndarray:
    """How many linear classifiers got 0, 1, ..., 4 points right when they were at their best, start included."""
    weights_key, rates_key, order_key = jax.random.split(key, 3)
    n = settings.classifiers
    factors = jnp.exp(jax.random.uniform(rates_key, (2, n), minval=jnp.log(0.1), maxval=jnp.log(10.0)))
    params = ensemble.init(weights_key, n, (2, 1), scheme="normal", scale=settings.scale * factors[0])
    result = ensemble.train(
        order_key,
        params,
        data,
        optimizer=optax.sgd,
        hyperparams={"learning_rate": settings.learning_rate * factors[1]},
        epochs=settings.classifier_epochs,
        metrics={"accuracy": jaxnet.accuracy},
        progress=progress,
    )
    start = jax.vmap(jaxnet.accuracy, (0, None, None))(params, *data)
    best = np.max(np.column_stack([start, result.history["accuracy"]]), axis=1)
    return np.bincount(np.rint(best * len(data.x)).astype(int), minlength=len(data.x) + 1)


def impossible(
    counts: np.ndarray, proof_residual: float | None, plane: np.ndarray | None, planes: dict[str, np.ndarray | None]
) -> tuple[Claim, Claim]:
    """That no linear classifier solves XOR, and that nearly all other functions of two bits are linear."""
    proved = plane is None and proof_residual is not None and proof_residual < 1e-12
    best = int(np.flatnonzero(counts).max())
    without = [name for name, plane in planes.items() if plane is None]
    return (
        Claim(
            "No linear classifier gets more than 3 of the 4 points of XOR right.",
            verdict(proved and best <= 3),
            f"The linear program is {'infeasible' if plane is None else 'feasible'}"
            + (f", multipliers prove it (to {proof_residual:.0e})" if proof_residual is not None else "")
            + f"; of {counts.sum():,} linear classifiers trained, {counts[best]:,} got {best} right at their best, "
            "none more.",
        ),
        Claim(
            "Of the sixteen functions of two bits, XOR and its opposite are the only ones that no line computes.",
            verdict(without == ["x₁ XOR x₂", "x₁ XNOR x₂"]),
            f"The linear program has no solution for {', '.join(without) or 'none'}.",
        ),
    )


def gates_of(params: Any, data: Data, net: jaxnet.Network) -> Logic:
    """The gate that each hidden unit plays, and the output in terms of two of them."""
    hidden = np.asarray(jaxnet.signals(params, *data, net).activations[1])
    rounded = np.round(hidden)
    outputs = np.asarray(jaxnet.forward(params[1:], rounded, net)).ravel()
    of_two = None
    if hidden.shape[1] == 2:
        of_two = gate(np.asarray(jaxnet.forward(params[1:], data.x, net)).ravel(), "h₁", "h₂")
    solves = bool(np.all((outputs > 0.5) == (np.asarray(data.y).ravel() > 0.5)))
    return Logic([gate(unit) for unit in hidden.T], of_two, float(np.abs(hidden - 0.5).min()), solves)


def units_figure(params: Any, data: Data, net: jaxnet.Network, logic: Logic) -> Any:
    """The figure of the first seven hidden units and the output."""
    axis = jnp.linspace(-0.5, 1.5, 201)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)
    hidden_net = jaxnet.Network(output=net.hidden)

    def of(params: Any, net: jaxnet.Network) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(jaxnet.forward(params, grid, net)), np.asarray(jaxnet.forward(params, data.x, net))

    over_plane, at_points = of(params[:1], hidden_net)
    hidden = [
        (f"h{_subscript(i + 1)}: {name}", over_plane[..., i], at_points[:, i])
        for i, name in enumerate(logic.hidden[:7])
    ]
    over_plane, at_points = of(params, net)
    output = (f"output: {logic.output or gate(at_points.ravel())}", over_plane[..., 0], at_points[:, 0])
    return pictures.units(hidden, output, np.asarray(data.y).ravel())


def _subscript(i: int) -> str:
    return str(i).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


FULL: dict[str, Any] = {"epochs": 50_000, "classifiers": 100_000, "classifier_epochs": 10_000}

if __name__ == "__main__":
    raise SystemExit(main("xor", run, Settings, FULL, __doc__))
