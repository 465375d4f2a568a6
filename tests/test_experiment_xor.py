"""XOR: that no line separates, what a third feature does, and the gates that hidden units play."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from experiments import xor
from experiments._xor_logic import GATES, gate, impossibility, residual, separator
from experiments.common import Verdict

POINTS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
SMALL = {"classifiers": 300, "classifier_epochs": 100}


@pytest.mark.parametrize("outputs", GATES, ids=GATES.values())
def test_a_function_of_two_bits_has_a_line_or_a_proof_that_there_is_none(outputs):
    y = np.array(outputs)
    plane, multipliers = separator(POINTS, y), impossibility(POINTS, y)
    if gate(y) in ("x₁ XOR x₂", "x₁ XNOR x₂"):
        assert plane is None
        assert multipliers is not None
        assert multipliers.min() >= 0
        assert multipliers.sum() == pytest.approx(1)
        assert residual(POINTS, y, multipliers) < 1e-12
    else:
        assert multipliers is None
        assert plane is not None
        assert np.all((POINTS @ plane[:2] + plane[2] > 0) == (y == 1))


def test_multipliers_that_prove_nothing_have_a_residual():
    assert residual(POINTS, np.array([0, 0, 0, 1]), np.full(4, 0.25)) > 0.1


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        ([0.1, 0.7, 0.9, 1.0], "x₁ OR x₂"),
        ([0.9, 0.7, 0.9, 0.1], "x₁ NAND x₂"),
        ([0.0, 0.0, 0.6, 0.1], "x₁ AND NOT x₂"),
        ([0.9, 0.9, 0.1, 0.1], "NOT x₁"),
    ],
)
def test_names_of_gates(outputs, name):
    assert gate(np.array(outputs)) == name


def test_the_names_are_what_they_say():
    """Each name, read as Python on the bits, has the outputs that it names."""
    operators = {"AND": "and", "OR": "or", "NOT": "not"}
    for outputs, name in GATES.items():
        if name.split()[1:2] in (["XOR"], ["XNOR"], ["NOR"], ["NAND"]):
            expected = [
                {"XOR": a != b, "XNOR": a == b, "NOR": not (a or b), "NAND": not (a and b)}[name.split()[1]]
                for a, b in POINTS
            ]
        else:
            code = " ".join(operators.get(word, word.capitalize() if word.isupper() else word) for word in name.split())
            expected = [bool(eval(code, {"a": bool(a), "b": bool(b)})) for a, b in POINTS]
        assert list(map(bool, outputs)) == expected


def test_claims_hold():
    numbers, figures, claims = xor.run(xor.Settings(**SMALL))
    assert [claim.verdict for claim in claims] == [Verdict.HOLDS] * 4
    counts = numbers["classifiers_by_most_points_right"]
    assert sum(counts.values()) == 300
    assert counts["4"] == 0 < counts["3"]
    assert numbers["multipliers"] == pytest.approx([0.25] * 4)
    assert numbers["product_accuracy"] == 1
    assert set(figures) == {"functions", "product", "units", "cost", "boundary"}


def test_a_network_that_is_not_trained_does_not_solve_it():
    settings = xor.Settings(epochs=1, learning_rate=1e-3, hidden=3, **SMALL)
    numbers, _, claims = xor.run(settings)
    assert [claim.verdict for claim in claims[:2]] == [Verdict.HOLDS] * 2
    assert [claim.verdict for claim in claims[2:]] == [Verdict.FAILS] * 2
    assert numbers["gates"]["output"] is None  # of three hidden units
    assert len(numbers["gates"]["hidden"]) == 3


def test_gates_of_a_network_made_by_hand():
    """OR and NAND, combined by AND."""
    hidden = jaxnet.Layer(jnp.array([[20.0, 20.0], [-20.0, -20.0]]), jnp.array([-10.0, 30.0]))
    output = jaxnet.Layer(jnp.array([[20.0, 20.0]]), jnp.array([-30.0]))
    logic = xor.gates_of((hidden, output), jaxnet.data.xor(), jaxnet.Network())
    assert logic.hidden == ["x₁ OR x₂", "x₁ NAND x₂"]
    assert logic.output == "h₁ AND h₂"
    assert logic.solves
    wrong = jaxnet.Layer(output.weight, jnp.array([-10.0]))
    logic = xor.gates_of((hidden, wrong), jaxnet.data.xor(), jaxnet.Network())
    assert logic.output == "h₁ OR h₂"
    assert not logic.solves
