"""The experiment on shared hidden layers, with small settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from experiments import _shared_runs as runs
from experiments import shared_hidden
from experiments.common import Verdict

pytestmark = pytest.mark.promotes


@pytest.mark.slow
def test_sharing_helps_and_so_does_answering_together():
    settings = shared_hidden.Settings(units=(4,), repeats=3, epochs=15, committee=4)
    numbers, figures, claims = shared_hidden.run(settings)
    assert len(claims) == 6
    assert claims[0].verdict == Verdict.HOLDS
    assert claims[5].verdict == Verdict.HOLDS  # Krogh & Vedelsby's identity
    name = "committee of other weights and examples"
    assert numbers[f"{name}: accuracy of the average"]["mean"] > numbers[f"{name}: accuracy of members"]["mean"] + 0.01
    assert 0 < numbers[f"{name}: correlation of errors"]["mean"] < 1
    assert np.shape(numbers["ablation"]) == (3, 5, 18)
    assert all(found["holds"] for found in numbers["gradient_agreement"].values())
    assert set(figures) == {"accuracy", "ablation", "committee"}


def test_equal_size():
    for units in (1, 2, 4, 8):
        sizes = [(64, runs.Settings().shared_units(units), 5)], [(64, units, 1)] * 5
        shared, separate = (sum((a + 1) * h + (h + 1) * o for a, h, o in nets) for nets in sizes)
        assert shared <= separate < shared + 70


def test_answers():
    y = np.asarray(runs.answers(jaxnet.data.one_hot(np.array([7, 0]), 10)))
    assert y.tolist() == [[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]]


def test_ablation_is_that_of_a_network_without_the_unit():
    parts = runs.split(jax.random.key(0), 1, 32)
    params = jaxnet.ensemble.init(jax.random.key(1), 1, (64, 3, 5), scale=3.0)
    found = runs.ablation(params, parts)
    first, last = jax.tree.map(lambda leaf: leaf[0], params)
    x, y = np.asarray(parts.data.x), np.asarray(runs.answers(parts.data.y)) > 0.5
    mean = jax.nn.sigmoid(x[parts.training[0]] @ first.weight[1] + first.bias[1]).mean()
    without = last._replace(weight=last.weight.at[:, 1].set(0.0), bias=last.bias + mean * last.weight[:, 1])
    rows = parts.test[0]

    def accuracy(params):
        return ((np.asarray(jaxnet.forward(params, jnp.asarray(x[rows]), runs.ANSWERS)) > 0.5) == y[rows]).mean(axis=0)

    assert found[0, :, 1] == pytest.approx(accuracy((first, last)) - accuracy((first, without)), abs=0.004)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 0}, "repeats is 0, expected at least 1"),
        ({"committee": 0}, "committee is 0, expected at least 1"),
        ({"units": ()}, "units is empty"),
        ({"drawn": 1.0}, "drawn is 1.0, expected a number between 0 and 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        shared_hidden.run(shared_hidden.Settings(**change))
