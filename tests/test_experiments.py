"""The experiments, with small settings: that their claims hold, and what they print and write."""

import json
import math
import subprocess
import sys
from statistics import NormalDist

import jax
import numpy as np
import pytest

import jaxnet
from experiments import __main__ as everything
from experiments import _beyond_examples, beyond_gradient, chain_rule, digits, xor
from experiments.common import _plain, present

pytestmark = pytest.mark.no_cover  # the library's lines are the other tests' to reach, and counting them takes time


@pytest.mark.promotes
def test_xor_is_solved_by_a_hidden_layer_and_by_no_line(tmp_path):
    numbers, figures = xor.run(xor.Settings(output=tmp_path))
    assert numbers["accuracy"] == 1
    assert numbers["cost"] < 1e-3
    assert numbers["linear_accuracy"] <= 0.75
    assert numbers["linear_cost"] == pytest.approx(0.25, abs=1e-3)
    assert all(found["holds"] for found in numbers["gradient_agreement"].values())
    assert set(figures) == {"cost", "boundary"}
    assert set(xor.run(xor.Settings(hidden=1, epochs=2)).figures) == {"cost"}
    assert not any(tmp_path.iterdir())  # run is pure


def test_the_chain_rule_number_by_number():
    numbers, figures = chain_rule.run(chain_rule.Settings())
    lecture, two_paths, network = (numbers[name] for name in ("lecture", "two_paths", "network"))
    assert [float(lecture["nodes"][name]["gradient"]) for name in "abcuvf"] == [54, 54, 54, 54, 18, 1]
    assert lecture["paths"] == ["a → u → v → f:  1 · 3 · 18 = 54"]
    x = 1.5
    assert float(two_paths["sum"]) == pytest.approx(2 * x * math.sin(x) + x**2 * math.cos(x), rel=1e-14)
    assert len(two_paths["paths"]) == len(network["paths"]) == 2  # one for each hidden unit
    assert all(all(found["witnesses"].values()) for found in (lecture, two_paths, network))
    assert numbers["network: relative error against jaxnet.backprop"] < 1e-12
    assert numbers["holds"]
    assert set(figures) == {"lecture", "two_paths", "network"}


@pytest.mark.promotes
def test_digits_are_learned():
    numbers, figures = digits.run(digits.Settings(hidden=32, epochs=12, repeats=2))
    assert numbers["test_accuracy"] > 0.93
    assert len(numbers["test_accuracies"]) == 2
    assert numbers["gradient_agreement"]["float64"]["relative_error"] < 1e-12
    assert numbers["examples"] == {"training": 1294, "validation": 144, "test": 359}
    assert set(figures) == {"cost", "weights", "confusion"}


@pytest.mark.promotes
def test_what_lies_beyond_the_gradient():
    settings = beyond_gradient.Settings(
        hidden=16, repeats=2, epochs=8, noise_multipliers=(0.0, 64.0), private_steps=20, starts=4
    )
    numbers, figures = beyond_gradient.run(settings)

    def mean(name):
        assert len(numbers[name]["values"]) == 2
        return numbers[name]["mean"]

    assert mean("mislabelled: AUC by gradient norm") > 0.97
    assert mean("mislabelled: AUC by gradient similarity") > 0.9
    assert mean("mislabelled: flipped labels whose strongest opponents are of the true class") > 0.7
    assert numbers["noise_scale: at the end"] > 2 * numbers["noise_scale: at the start"]
    assert mean("noise_scale: adaptive batch at the end") > 100
    assert (
        numbers["spectrum: smallest eigenvalue at the start"]
        < -0.1
        < 1
        < numbers["spectrum: largest eigenvalue at the end"]
    )
    assert 0.5 < numbers["spectrum: share of the 10 largest in the trace at the end"] < 1
    assert mean("kernel: alignment with the labels at the end") > mean("kernel: alignment with the labels at the start")
    clipped, noisy = (
        next(
            found["mean"]
            for name, found in numbers.items()
            if name.startswith(f"private: accuracy, noise multiplier {sigma}")
        )
        for sigma in (0, 64)
    )
    assert noisy < clipped - 0.2 < mean("private: accuracy, plain")
    for problem in ("XOR", "regression"):
        assert numbers[f"second_order: {problem}, Levenberg-Marquardt: starts that reach 1e-12"] == "4 of 4"
        assert numbers[f"second_order: {problem}, gradient descent: final cost, median"] > 1e-6
    assert all(found["holds"] for found in numbers["gradient_agreement"].values())
    assert set(figures) == {"mislabelled", "noise_scale", "spectrum", "kernel", "private", "second_order"}


@pytest.mark.parametrize(
    ("hits", "area", "precision"),
    [([1, 1, 0, 0], 1, 1), ([0, 0, 1, 1], 0, (1 / 3 + 2 / 4) / 2), ([1, 0, 1, 0], 3 / 4, (1 + 2 / 3) / 2)],
)
def test_areas_of_a_ranking(hits, area, precision):
    assert _beyond_examples.areas_of(np.array(hits, bool)) == pytest.approx((area, precision))


@pytest.mark.promotes
def test_flipped_labels_all_differ_and_are_as_many_as_asked_for():
    y = jaxnet.data.digits().y
    given, flipped = _beyond_examples.flip(jax.random.key(0), y, 0.1)
    assert flipped.sum() == round(0.1 * len(y))
    assert (given.sum(axis=1) == 1).all()
    assert ((given != y).any(axis=1) == flipped).all()


def test_what_private_training_spends():
    pytest.importorskip("dp_accounting")
    # Forty Gaussian mechanisms are one of 1/√40 of the noise: Balle & Wang 2018, theorem 8.
    mu, spent = math.sqrt(40) / 16, _beyond_examples.epsilon(16.0, 40)
    cdf = NormalDist().cdf
    delta = cdf(mu / 2 - spent / mu) - math.exp(spent) * cdf(-mu / 2 - spent / mu)
    assert delta == pytest.approx(_beyond_examples.DELTA, rel=0.05)
    assert _beyond_examples.epsilon(0.0, 40) == math.inf
    assert _beyond_examples.epsilon(1.0, 0) == 0


@pytest.mark.promotes
def test_the_main_job(tmp_path, capsys):
    assert everything.main(everything.Settings(output=tmp_path)) == 0
    printed = capsys.readouterr().out
    assert printed.count("agrees") == 8
    found = json.loads((tmp_path / "digits.json").read_text())
    assert found["numbers"]["test_accuracy"] >= 0.97
    assert found["settings"]["seed"] == 0
    assert found["versions"]["jax"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "chain_rule.json", "chain_rule_lecture.png", "chain_rule_two_paths.png", "chain_rule_network.png",
        "xor.json", "xor_cost.png", "xor_boundary.png",
        "digits.json", "digits_cost.png", "digits_weights.png", "digits_confusion.png",
        "beyond_gradient.json", "beyond_gradient_mislabelled.png", "beyond_gradient_noise_scale.png",
        "beyond_gradient_spectrum.png", "beyond_gradient_kernel.png", "beyond_gradient_private.png",
        "beyond_gradient_second_order.png",
    }  # fmt: skip


def test_a_disagreement_is_shown_and_returned(tmp_path, capsys):
    def run(settings, *, progress):
        numbers, figures = xor.run(settings)
        numbers["gradient_agreement"]["float32"]["holds"] = False
        return xor.Result(numbers, figures)

    assert present("xor", run, xor.Settings(epochs=2, output=tmp_path)) == 1
    assert "DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("experiment", "change", "message"),
    [
        (xor, {"hidden": 0}, "sizes[1] is 0, expected a positive integer"),
        (xor, {"epochs": -1}, "epochs is -1, expected an integer >= 0"),
        (digits, {"l2": -1.0}, "l2 is -1.0, expected a number >= 0"),
        (digits, {"batch_size": 5000}, "batch_size is 5000, but the data has 1294 examples"),
        (digits, {"repeats": 0}, "repeats is 0, expected at least 1"),
        (beyond_gradient, {"repeats": 0}, "repeats is 0, expected at least 1"),
        (beyond_gradient, {"flipped": 1.0}, "flipped is 1.0, expected a number between 0 and 1"),
        (beyond_gradient, {"epochs": 0}, "epochs is 0, expected at least 1"),
        (beyond_gradient, {"batch_size": 5000}, "batch_size is 5000, expected at most the 1438 training examples"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(experiment, change, message, tmp_path, capsys):
    assert present("it", experiment.run, experiment.Settings(output=tmp_path, **change)) == 2
    assert message in capsys.readouterr().out.replace("\n", " ")


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert present("xor", xor.run, xor.Settings(output=tmp_path / "file")) == 2
    assert "File exists" in capsys.readouterr().out


@pytest.mark.promotes
def test_no_epochs_at_all():
    assert set(xor.run(xor.Settings(epochs=0)).figures) == {"boundary"}
    assert set(digits.run(digits.Settings(epochs=0, repeats=1)).figures) == {"weights", "confusion"}


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "experiments.xor", "--hidden", "3", "--seed", "7", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "agrees" in done.stdout
    assert len(json.loads((tmp_path / "xor.json").read_text())["numbers"]["V"]) == 3
    shown = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, check=True).stdout
    assert "--learning-rate" in shown


def test_json_has_no_numbers_that_are_not_finite():
    assert _plain({"a": [float("nan"), 1.0], "b": (float("inf"),)}) == {"a": [None, 1.0], "b": [None]}
