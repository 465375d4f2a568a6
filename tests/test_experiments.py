"""The experiments, with small settings: that their claims hold, and what they print and write."""

import json
import math
import subprocess
import sys

import pytest

from experiments import __main__ as everything
from experiments import chain_rule, digits, xor
from experiments.common import _plain, present


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
def test_the_main_job(tmp_path, capsys):
    assert everything.main(everything.Settings(output=tmp_path)) == 0
    printed = capsys.readouterr().out
    assert printed.count("agrees") == 6
    found = json.loads((tmp_path / "digits.json").read_text())
    assert found["numbers"]["test_accuracy"] >= 0.97
    assert found["settings"]["seed"] == 0
    assert found["versions"]["jax"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "chain_rule.json", "chain_rule_lecture.png", "chain_rule_two_paths.png", "chain_rule_network.png",
        "xor.json", "xor_cost.png", "xor_boundary.png",
        "digits.json", "digits_cost.png", "digits_weights.png", "digits_confusion.png",
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
