"""MNIST: how images are moved, what the verdicts follow from, and the claims on the real images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import write_digits_as_mnist

import jaxnet
from experiments import mnist
from experiments.common import Missing, Verdict, present, share


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Digits of 8x8 pixels in MNIST's files: 1,200 to train on, 597 to test with."""
    data = tmp_path / "data"
    write_digits_as_mnist(data, 255, slice(0, 1200), slice(1200, None))
    monkeypatch.setenv("JAXNET_DATA", str(data))


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_images_are_moved_to_all_places_and_not_changed(pixels):
    image = np.zeros((9, 9), np.float32)
    image[4, 3], image[5, 3] = 0.25, 0.75
    moved = np.asarray(mnist.shifted(jax.random.key(0), jnp.tile(image.ravel(), (500, 1)), pixels)).reshape(-1, 9, 9)
    span = range(-pixels, pixels + 1)
    expected = {np.roll(image, (down, across), (0, 1)).tobytes() for down in span for across in span}
    assert {one.tobytes() for one in moved} == expected


def test_zeros_come_in_at_the_edges():
    moved = np.asarray(mnist.shifted(jax.random.key(0), jnp.ones((100, 16)), 1))
    assert set(moved.sum(axis=1)) == {9.0, 12.0, 16.0}


def test_each_step_moves_images_anew_and_no_shift_is_plain_backprop():
    params = jaxnet.init(jax.random.key(0), (16, 3, 2))
    x, y = jax.random.uniform(jax.random.key(1), (5, 16)), jnp.zeros((5, 2))
    gradient = mnist.shifting(1)
    first, again, other = (gradient(params, x, y, jaxnet.Network(), key=jax.random.key(i))[0] for i in (0, 0, 1))
    assert first == again != other
    assert mnist.shifting(0) is jaxnet.backprop


@pytest.mark.promotes
def test_it_learns(small):
    settings = mnist.Settings(hidden=32, epochs=8, batch_size=20, learning_rate=0.02, held_out=100, linear_epochs=1)
    numbers, figures, claims = mnist.run(settings)
    assert numbers["test_accuracy"] > 0.8
    assert numbers["examples"] == {"training": 1100, "held out": 100, "test": 597}
    assert numbers["gradient_agreement"]["float64"]["holds"]
    assert set(figures) == {"weights", "confusion", "errors", "cost"}
    assert len(claims) == 2


@pytest.mark.parametrize(
    ("right", "linear", "verdicts"),
    [
        (9900, 9200, (Verdict.HOLDS, Verdict.HOLDS)),
        (9845, 9540, (Verdict.OPEN, Verdict.OPEN)),
        (9700, 9300, (Verdict.FAILS, Verdict.FAILS)),
    ],
)
def test_verdicts_follow_from_the_intervals(right, linear, verdicts):
    claims = mnist.claims_of(mnist.Settings(), share(right, 10_000), share(linear, 10_000), 1.0)
    assert tuple(claim.verdict for claim in claims) == verdicts


def test_without_the_data_it_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXNET_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(Missing, match="MNIST is not here: JAXNET_DATA is .*nowhere, not a folder"):
        mnist.run(mnist.Settings())
    assert present("mnist", mnist.run, mnist.Settings(output=tmp_path)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": 0}, "held_out is 0, expected 1 to 1199"),
        ({"shift": -1}, "shift is -1, expected at least 0"),
        ({"hidden": 0}, "sizes[1] is 0, expected a positive integer"),
    ],
)
def test_settings_that_cannot_be(small, change, message, tmp_path, capsys):
    assert present("mnist", mnist.run, mnist.Settings(**{"held_out": 100, "output": tmp_path} | change)) == 2
    assert message in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.promotes
def test_a_small_network_on_the_real_images(mnist_folder):
    numbers, _, claims = mnist.run(mnist.Settings(hidden=32, epochs=1, linear_epochs=1))
    assert 0.9 < numbers["test_accuracy"] < 0.97
    assert claims[0].verdict == Verdict.FAILS


@pytest.mark.slow
@pytest.mark.promotes
def test_the_published_accuracy_is_reached(mnist_folder):
    numbers, _, claims = mnist.run(mnist.Settings())
    assert numbers["test_accuracy"] >= mnist.PUBLISHED
    assert [claim.verdict for claim in claims] == [Verdict.HOLDS] * 2
