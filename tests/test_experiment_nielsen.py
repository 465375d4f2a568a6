"""The published training curves: the program against one written per example in NumPy, and the published numbers."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers import write_digits_as_mnist

from experiments import nielsen
from experiments._nielsen_published import RECIPES, published
from experiments.common import Verdict, present


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Digits of 8x8 pixels in MNIST's files: 60 to train on, 40 to test with."""
    data = tmp_path / "data"
    images, labels = write_digits_as_mnist(data, 16, slice(0, 60), slice(60, 100))
    monkeypatch.setenv("JAXNET_DATA", str(data))
    x, y = images[:100].reshape(100, 64, 1) / 256, np.eye(10)[labels[:100], :, None]
    return list(zip(x, y, strict=True))


def program(examples, sizes, n, *, large, etas, lmbda, batch, quadratic, epochs, seed):
    """The book's program, example by example; costs and counts of the test and the training images."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    randn = np.random.randn
    training, test = examples[:n], examples[60:]

    def s(z):
        return 1 / (1 + np.exp(-z))

    def feed(x):
        activations = [x]
        for w, b in zip(weights, biases, strict=True):
            activations.append(s(w @ activations[-1] + b))
        return activations

    def total(data):
        value, right = 0.0, 0
        for x, y in data:
            a = feed(x)[-1]
            if quadratic:
                value += 0.5 * np.sum((a - y) ** 2) / len(data)
            else:
                value += np.sum(-y * np.log(a) - (1 - y) * np.log(1 - a)) / len(data)
            right += np.argmax(a) == np.argmax(y)
        return value + 0.5 * lmbda / len(data) * sum(np.sum(w**2) for w in weights), right

    for eta in etas:
        biases = [randn(units, 1) for units in sizes[1:]]
        weights = [randn(b, a) / np.sqrt(a) for a, b in pairwise(sizes)]
        if large:
            biases = [randn(units, 1) for units in sizes[1:]]
            weights = [randn(b, a) for a, b in pairwise(sizes)]
        history = []
        for _ in range(epochs):
            for i in reversed(range(1, n)):
                j = int(random.random() * (i + 1))
                training[i], training[j] = training[j], training[i]
            for start in range(0, n, batch):
                part = training[start : start + batch]
                sums = [np.zeros_like(array) for array in weights + biases]
                for x, y in part:
                    activations = feed(x)
                    delta = activations[-1] - y
                    if quadratic:
                        delta = delta * activations[-1] * (1 - activations[-1])
                    for k in reversed(range(len(weights))):
                        sums[k] += delta @ activations[k].T
                        sums[len(weights) + k] += delta
                        delta = weights[k].T @ delta * activations[k] * (1 - activations[k])
                for k, w in enumerate(weights):
                    w *= 1 - eta * lmbda / n
                    w -= eta / len(part) * sums[k]
                    biases[k] -= eta / len(part) * sums[len(weights) + k]
            history.append((*total(test), *total(training)))
        yield np.array(history).T


@pytest.mark.parametrize(
    ("cost", "initialisation", "sizes"),
    [("cross_entropy", "large", (64, 8, 10)), ("quadratic", "default", (64, 7, 6, 10))],
)
def test_it_is_the_published_program(small, cost, initialisation, sizes):
    settings = nielsen.Settings(
        figure="overfitting",
        sizes=sizes,
        images=50,
        initialisation=initialisation,
        eta=(0.3, 1.0),
        lmbda=0.2,
        batch=8,  # the last batch has 2
        cost=cost,
        epochs=3,
        seed=7,
    )
    numbers, figures, claims = nielsen.run(settings)
    expected = program(
        small,
        sizes,
        50,
        large=initialisation == "large",
        etas=(0.3, 1.0),
        lmbda=0.2,
        batch=8,
        quadratic=cost == "quadratic",
        epochs=3,
        seed=7,
    )
    for curves, (costs, correct, training_costs, training_correct) in zip(
        numbers["overfitting: curves"].values(), expected, strict=True
    ):
        np.testing.assert_allclose(curves["evaluation_cost"], costs, rtol=1e-12)
        np.testing.assert_array_equal(curves["evaluation_correct"], correct)
        np.testing.assert_allclose(curves["training_cost"], training_costs, rtol=1e-12)
        np.testing.assert_array_equal(curves["training_correct"], training_correct)
    assert claims[0].verdict == Verdict.OPEN  # nothing is published for these settings
    assert set(figures) == {"overfitting"}
    assert numbers["gradient_agreement"]["float64"]["holds"]


def test_the_first_epochs_alone_are_those_of_the_whole(small):
    """Networks later in the program see the random numbers that all epochs before them have drawn."""
    settings = nielsen.Settings(
        figure="multiple_eta", sizes=(64, 5, 10), images=60, measure=("training_cost",), evaluation="test"
    )
    whole, first = (
        nielsen.run(replace(settings, examples=examples)).numbers["multiple_eta: curves"] for examples in (None, 120)
    )
    for eta in ("0.025", "0.25", "2.5"):
        assert (len(first[eta]["training_cost"]), len(whole[eta]["training_cost"])) == (2, 30)
        np.testing.assert_array_equal(first[eta]["training_cost"], whole[eta]["training_cost"][:2])


def test_overfitting_comes_out_as_published(mnist_folder):
    numbers, _, (same, fits) = nielsen.run(nielsen.Settings(figure="overfitting", examples=6000))
    assert same.verdict == fits.verdict == Verdict.HOLDS
    # Without the folder of whole curves beside the data, five epochs are known.
    known = min(6, len(published("overfitting", None)[0]["training_cost"]))
    assert known in (5, 6)
    assert numbers["overfitting: epochs equal to the published ones"].startswith(f"{known} of")
    assert list(numbers["overfitting: curves"]["0.5"]["evaluation_correct"][:5]) == [5887, 6505, 6970, 7271, 7433]


def test_other_numbers_than_published_are_noticed(mnist_folder, monkeypatch):
    monkeypatch.setitem(RECIPES, "overfitting", replace(RECIPES["overfitting"], eta=(0.5000001,)))
    assert nielsen.run(nielsen.Settings(figure="overfitting", examples=5000)).claims[0].verdict == Verdict.FAILS


def test_the_first_learning_rate_comes_out_as_published(mnist_folder):
    numbers, _, (same,) = nielsen.run(nielsen.Settings(figure="multiple_eta", eta=(0.025,), examples=50_000))
    assert numbers["multiple_eta: curves"]["0.025"]["training_cost"] == pytest.approx(0.87809508908378, rel=1e-12)
    assert numbers["multiple_eta: epochs equal to the published ones"] == "1 of 1"
    assert same.verdict == Verdict.OPEN  # one epoch is not five


@pytest.mark.slow
def test_each_learning_rate_comes_out_as_published_or_rounding_decides(mnist_folder):
    claims = nielsen.run(nielsen.Settings(figure="multiple_eta")).claims
    assert [claim.verdict for claim in claims] == [Verdict.HOLDS] * 3


def test_whole_curves_are_read_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNET_DATA", str(tmp_path / "data"))
    (table,) = published("overfitting", None)
    assert [len(curve) for curve in table.values()] == [5] * 4
    (tmp_path / "reference").mkdir()
    assert published("multiple_eta", None)[2].keys() == {"training_cost"}
    (tmp_path / "reference" / "nielsen_overfitting.json").write_text("[[], [], [0.5, 0.25], [3]]")
    for reference in (None, tmp_path / "reference"):
        (curves,) = published("overfitting", reference)
        assert curves["training_cost"].tolist() == [0.5, 0.25]
        assert curves.keys() == {"training_cost", "training_correct"}
    with pytest.raises(FileNotFoundError):
        published("multiple_eta", tmp_path / "reference")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 61}, "images is 61, expected 1 to 60"),
        ({"evaluation": "validation"}, "evaluation is validation, but there are no more than 60 training images"),
        ({"eta": ()}, "eta is empty, expected at least one value"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"batch": 0}, "batch is 0, expected at least 1"),
        ({"sizes": (784, 30, 10)}, "but the first layer expects 784"),
    ],
)
def test_settings_that_cannot_be(small, change, message, tmp_path, capsys):
    settings = nielsen.Settings(
        **{"figure": "overfitting", "sizes": (64, 5, 10), "images": 50, "output": tmp_path} | change
    )
    assert present("nielsen", nielsen.run, settings) == 2
    assert message in capsys.readouterr().out.replace("\n", " ")
