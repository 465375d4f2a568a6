"""The experiment on descent, with small settings."""

import jax
import numpy as np
import pytest

import jaxnet
from experiments import _descent_runs as runs
from experiments import descent
from experiments.common import Verdict

pytestmark = pytest.mark.promotes


@pytest.mark.slow
def test_few_passes_by_small_batches_and_noise_by_one_over_their_size():
    settings = descent.Settings(repeats=2, per_decade=1, epochs=4, batch_epochs=30, target=0.3, batches=50)
    numbers, figures, claims = descent.run(settings)
    verdicts = [claim.verdict for claim in claims]
    assert len(verdicts) == 7
    assert verdicts[0] == Verdict.HOLDS
    assert verdicts[2] != Verdict.FAILS
    assert numbers["batch: epochs to the target"]["mean"] > 5 * numbers["mini-batch: epochs to the target"]["mean"]
    noise = numbers["noise"]["start"]
    expected = noise["variance"][:, None] / np.array(descent.SIZES)
    assert noise["measured"] == pytest.approx(expected, rel=0.3)
    assert all(found["holds"] for found in numbers["gradient_agreement"].values())
    assert set(figures) == {"methods", "rates", "noise", "optimizers"}


def test_members_of_a_sweep_train_by_their_own_optimizer_at_their_own_rate():
    settings = runs.Settings(repeats=1, per_decade=1)
    data = runs.examples(64)
    data = jaxnet.data.Data(*(array[:256] for array in data))
    params = runs.starts(jax.random.key(0), settings, data)
    key, names = jax.random.key(1), tuple(runs.OPTIMIZERS)
    found = runs.sweeps(key, params, data, names, settings, epochs=2, batch_size=64)
    for (name, of_name), start, rate in zip(found.items(), (0, 1, 0, 1, 0), (4, 3, 4, 2, 1), strict=True):
        alone = jaxnet.train(
            jax.random.split(key, 2)[start],
            jax.tree.map(lambda leaf, start=start: leaf[start], params),
            data,
            net=runs.NET,
            optimizer=runs.OPTIMIZERS[name](settings.rates[rate]),
            epochs=2,
            batch_size=64,
        )
        ended = jax.tree.map(lambda leaf, at=(start, rate): leaf[at], of_name.params)
        assert jaxnet.check.compare(ended, jax.tree.map(np.asarray, alone.params)), name
        assert of_name.costs[start, rate, -1] == pytest.approx(float(jaxnet.cost(ended, *data, runs.NET)), rel=1e-4)


def test_the_rate_is_chosen_by_one_half_and_judged_by_the_other():
    costs = np.array([[[1.0], [2.0]], [[5.0], [3.0]]])  # two runs, two rates, one epoch
    chosen = runs.tuned(runs.Sweep(costs, np.zeros((2, 2))), runs.last_cost, np.array([0.1, 0.2]))
    assert chosen.rate == 0.1
    assert chosen.costs.tolist() == [[5.0]]


def test_epochs_to_a_target():
    costs = np.array([[3.0, 1.0, 2.0], [3.0, 3.0, 3.0]])
    assert runs.epochs_to(1.0, costs).tolist() == [2, 4]


@pytest.mark.parametrize("name", ["repeats", "per_decade", "epochs", "batch_epochs", "batches"])
def test_bad_settings(name):
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        descent.run(descent.Settings(**{name: 0}))


def test_who_never_arrives_is_no_evidence():
    settings = descent.Settings(epochs=3, batch_epochs=5, target=0.0)
    lengths = dict(zip(descent.METHODS, (5, 3, 3), strict=True))
    chosen = {name: runs.Tuned(0.1, np.ones((2, length)), None) for name, length in lengths.items()}
    claims = descent.three_ways(chosen, dict.fromkeys(descent.METHODS, np.ones(3)), settings)
    assert [claim.verdict for claim in claims] == ["not enough evidence"] * 2
