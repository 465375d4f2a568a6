"""The experiment on saturation, with small settings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from experiments import _saturation_runs as runs
from experiments import saturation
from experiments.common import Verdict

pytestmark = pytest.mark.promotes


@pytest.mark.slow
def test_deep_networks_learn_from_a_narrow_band_of_scales(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNET_DATA", str(tmp_path))  # no MNIST
    settings = saturation.Settings(depth=3, per_decade=1, repeats=3, output=tmp_path)
    numbers, figures, claims = saturation.run(settings)
    assert [claim.verdict for claim in claims] == [Verdict.OPEN, *[Verdict.HOLDS] * 4]
    assert "JAXNET_DATA" in claims[0].evidence
    assert all(found["holds"] for found in numbers["gradient_agreement"].values())
    assert set(figures) == {"grid", "layers"}
    grid = numbers["grid"]
    for name in ("squared error", "cross-entropy"):
        norms = grid["norms"][name][:, :, 3]  # (depths, repeats, layers) at scale 1
        assert np.isnan(norms[0, :, 1:-1]).all()
        assert not np.isnan(norms[-1]).any()
        assert (np.diff(norms[-1], axis=-1) > 0).all()  # larger from layer to layer
        assert (grid["saturated"][name][..., 0] == 0).all()
        assert (grid["saturated"][name][..., -1] > 0.9).all()
    assert grid["accuracy"]["cross-entropy"][0, :, 3].min() > 0.9  # one hidden layer, scale 1
    assert grid["accuracy"]["cross-entropy"][-1, :, 0].max() < 0.3  # three of them, scale 1e-3
    assert not any(tmp_path.iterdir())


def test_the_published_norms(mnist_folder):
    readings = saturation.norms_by_reading(jax.random.key(0), runs.mnist_images(), 20)
    assert saturation.published(readings).verdict == Verdict.HOLDS
    assert saturation.deviation(readings["squared error, hidden layers only, pixels from 0 to 1"]) > 4
    assert saturation.deviation(readings["cross-entropy, hidden layers only, pixels from 0 to 255"]) > 4
    wrong = {saturation.READING: [2 * norms for norms in readings[saturation.READING]]}
    assert saturation.published(wrong).verdict == Verdict.FAILS


def test_what_a_start_is_like():
    net = jaxnet.Network()
    params = jaxnet.init(jax.random.key(0), (3, 5, 4, 2), scheme="normal")
    x = jax.random.normal(jax.random.key(1), (7, 3))
    data = jaxnet.data.Data(x, jnp.ones((7, 2)))
    norms, _ = runs.start_of(params, data, net)
    grads = jax.grad(jaxnet.cost)(params, *data, net)
    assert norms == pytest.approx([float(np.linalg.norm(layer.bias)) for layer in grads], rel=1e-5)
    certain = tuple(layer._replace(bias=layer.bias + 100) for layer in params)
    assert runs.start_of(certain, data, net).saturated == 1


def test_nielsens_default():
    first, last = runs.default_start(jax.random.key(0), 200, (100, 30, 10))
    assert float(first.weight.std()) == pytest.approx(1 / 10, rel=0.02)
    assert float(last.weight.std()) == pytest.approx(1 / math.sqrt(30), rel=0.02)
    assert float(first.bias.std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("name", "least"), [("depth", 2), ("per_decade", 1), ("repeats", 1), ("published_starts", 2)])
def test_bad_settings(name, least):
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least {least}"):
        saturation.run(saturation.Settings(**{name: 0}))
