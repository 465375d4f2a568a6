"""The experiments, with small settings: that their claims hold, and what they print and write."""

import functools
import json
import math
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tyro
from matplotlib.figure import Figure

import jaxnet
from experiments import (
    MODULES,
    _beyond_claims,
    _beyond_examples,
    beyond_gradient,
    chain_rule,
    descent,
    digits,
    minima,
    records,
    saturation,
    shared_hidden,
    symmetry,
    xor,
)  # fmt: skip
from experiments import __main__ as everything
from experiments.common import Missing, Result, Verdict, above, every, initial, interval, main, present


def test_the_chain_rule_number_by_number():
    numbers, figures, claims = chain_rule.run(chain_rule.Settings())
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
    assert [claim.verdict for claim in claims] == ["holds"] * 4


def test_wrong_derivatives_are_no_chain_rule():
    wrong = {name: {"gradient": 53.0} for name in "abc"}
    assert chain_rule.lecture_claim(chain_rule.Settings(), wrong).verdict == "does not hold"
    with jax.enable_x64(True):
        paths = jaxnet.graph.trace(lambda x: x**2 * 2 * x)(1.5).paths(0)
    assert chain_rule.sum_claim(1.5, paths).verdict == "does not hold"


@pytest.mark.promotes
def test_digits_are_learned():
    numbers, figures, claims = digits.run(digits.Settings(hidden=32, epochs=12, repeats=2))
    assert numbers["test_accuracy"] > 0.93
    assert len(numbers["test_accuracies"]) == 2
    assert numbers["gradient_agreement"]["float64"]["relative_error"] < 1e-12
    assert numbers["examples"] == {"training": 1294, "validation": 144, "test": 359}
    assert set(figures) == {"cost", "weights", "confusion"}
    assert numbers["test_accuracy_without_hidden_layer"]["mean"] > 0.9
    assert [claim.verdict for claim in claims] == [
        above(bound, *interval(values))
        for bound, values in (
            (0.95, numbers["test_accuracies"]),
            (0, numbers["test_accuracies"] - numbers["test_accuracy_without_hidden_layer"]["values"]),
        )
    ]


@pytest.mark.slow
@pytest.mark.promotes
def test_what_lies_beyond_the_gradient():
    settings = beyond_gradient.Settings(
        hidden=16, repeats=2, epochs=8, noise_multipliers=(0.0, 64.0), private_steps=20, starts=4
    )
    numbers, figures, claims = beyond_gradient.run(settings)

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
    verdicts = {claim.text: claim.verdict for claim in claims}
    assert len(verdicts) == len(claims) == 10
    assert (
        verdicts["After training, 10 of 1,210 eigenvalues of the Hessian hold more than half of its trace."] == "holds"
    )
    assert claims[-2].evidence.startswith("XOR: 100% of 4 starts arrive")


def test_claims_beyond_the_gradient_follow_the_numbers():
    noise = np.random.default_rng(0).normal(0, 0.001, 8)

    def verdicts(claims):
        return [claim.verdict for claim in claims]

    assert verdicts(_beyond_claims.mislabelled(0.99 + noise, 0.5 + noise)) == ["holds", "does not hold"]
    assert verdicts(_beyond_claims.noise_scale((3.0, 1.5, 6.0), 100, 10 + noise, 0.97 + noise, 0.95 - noise)) == [
        "not enough evidence",
        "holds",
        "does not hold",
    ]
    assert verdicts(_beyond_claims.tangent_kernel(0.6 + noise, 0.5 - noise)) == ["does not hold"]
    down = {"0": 0.9 + noise, "1": 0.8 - noise, "2": 0.7 + noise}
    assert verdicts(_beyond_claims.private(down)) == ["holds"]
    assert verdicts(_beyond_claims.private(down | {"2": 0.81 + noise})) == ["does not hold"]
    arrived = {"XOR": {"Levenberg-Marquardt": [True] * 20, "gradient descent": [True, False] * 10}}
    assert verdicts(_beyond_claims.second_order(arrived)) == ["holds", "not enough evidence"]


def test_the_growth_of_the_noise_scale():
    noise, signal = np.array([[1.0, 2.0]] * 5), np.array([[0.5, 0.1]] * 5)
    assert _beyond_examples.growth(noise, signal) == pytest.approx((10, 10, 10))
    ratio, low, high = _beyond_examples.growth(noise * np.linspace(0.8, 1.2, 5)[:, None] ** [1, 3], signal)
    assert low < 10 < high
    assert ratio == pytest.approx(math.sqrt(low * high))
    assert math.isnan(_beyond_examples.growth(noise[:1], signal[:1])[1])


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


@pytest.mark.slow
@pytest.mark.promotes
def test_the_gallery_with_default_settings(tmp_path):
    names = ("chain_rule", "xor", "digits", "mnist")  # the others take minutes, and have tests of their own
    assert everything.main(everything.Settings(names, output=tmp_path)) == 0
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in names}
    for name, document in found.items():
        assert document["outcome"] in ("done", "skipped"), name
        for figure in document.get("figures", ()):
            assert (tmp_path / f"{figure['file']}.png").exists()
            assert figure["alt"]
    assert found["digits"]["numbers"]["test_accuracy"] >= 0.97
    assert found["digits"]["settings"]["seed"] == 0
    assert found["digits"]["versions"]["jax"]
    assert (tmp_path / "index.html").stat().st_size < 8e6


@pytest.fixture
def small(monkeypatch):
    """Three experiments in the place of all: one that runs, one whose data is missing, one that breaks."""

    def missing(settings, *, progress):
        raise Missing("the files are not here")

    def broken(settings, *, progress):
        raise ZeroDivisionError("by nothing")

    given = functools.partial(xor.Settings, epochs=2, classifiers=10)
    runs = {"xor": xor.run, "digits": missing, "chain_rule": broken}
    for name, run in runs.items():
        module = SimpleNamespace(Settings=given, FULL={"epochs": 3}, run=run)
        monkeypatch.setitem(sys.modules, f"experiments.{name}", module)


def outcomes(folder):
    return {path.stem: json.loads(path.read_text())["outcome"] for path in folder.glob("*.json")}


@pytest.mark.usefixtures("small")
def test_an_experiment_that_breaks_does_not_lose_the_others(tmp_path, capsys):
    settings = everything.Settings(("chain_rule", "xor", "digits"), output=tmp_path)
    assert everything.main(settings) == 2
    printed = capsys.readouterr().out
    assert printed.count("agrees") == 2
    assert "skipped: the files are not here" in printed
    assert "ZeroDivisionError" in printed
    assert outcomes(tmp_path) == {"chain_rule": "failed", "xor": "done", "digits": "skipped"}
    page = (tmp_path / "index.html").read_text()
    assert "ZeroDivisionError: by nothing" in page
    assert "the files are not here" in page


@pytest.mark.usefixtures("small")
def test_an_interruption_does_not_lose_the_experiments_before(tmp_path, monkeypatch):
    def interrupted(settings, *, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["experiments.digits"], "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        everything.main(everything.Settings(("xor", "digits"), output=tmp_path))
    assert outcomes(tmp_path) == {"xor": "done"}
    assert "experiments.xor" in (tmp_path / "index.html").read_text()


@pytest.mark.usefixtures("small")
def test_some_experiments_and_their_thorough_versions(tmp_path):
    assert everything.main(everything.Settings(("xor", "digits"), full=True, output=tmp_path)) == 0
    assert json.loads((tmp_path / "xor.json").read_text())["settings"]["epochs"] == 3
    assert everything.main(everything.Settings(("digits",), output=tmp_path)) == 0  # skipped is not failed
    assert outcomes(tmp_path) == {"xor": "done", "digits": "skipped"}


@pytest.mark.usefixtures("small")
def test_bad_requests_for_the_gallery(tmp_path, capsys):
    assert everything.main(everything.Settings(("xnor",), output=tmp_path)) == 2
    assert "no experiment xnor: there are chain_rule, xor" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert everything.main(everything.Settings(("xor",), output=tmp_path / "file")) == 2
    assert "File exists" in capsys.readouterr().out


def test_missing_data_leaves_earlier_results_alone(tmp_path, capsys):
    def run(settings, *, progress):
        raise Missing("the files are not here")

    assert present("it", run, xor.Settings(output=tmp_path)) == 3
    assert "it is skipped: the files are not here" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


def test_a_disagreement_is_shown_and_returned(tmp_path, capsys):
    def run(settings, *, progress):
        numbers, figures, _ = xor.run(settings)
        numbers["gradient_agreement"]["float32"]["holds"] = False
        return Result(numbers, figures)

    assert present("xor", run, xor.Settings(epochs=2, classifiers=10, output=tmp_path)) == 1
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
        (saturation, {"batch_size": 0}, "batch_size is 0, expected at least 1"),
        (descent, {"batch_size": 0}, "batch_size is 0, expected at least 1"),
        (shared_hidden, {"committee": 1}, "committee is 1, expected 2 members or more"),
        (symmetry, {"digits_epochs": 0}, "digits_epochs is 0, expected at least 1"),
        (beyond_gradient, {"batch_size": 5000}, "batch_size is 5000, expected at most the 1438 training examples"),
        (xor, {"learning_rate": float("nan")}, "learning_rate is nan, expected a finite number"),
        (saturation, {"learning_rates": (1.0, float("inf"))}, "learning_rates is inf, expected a finite number"),
        (symmetry, {"perturbations": ()}, "perturbations is empty, expected at least one value"),
        (symmetry, {"perturbations": (-1.0,)}, "perturbations is (-1.0,), expected numbers > 0"),
        (symmetry, {"examples": 1798}, "examples is 1798, expected at most the 1797 digits that there are"),
        (saturation, {"epochs": -1}, "epochs is -1, expected at least 0"),
        (minima, {"hidden": (4, 2)}, "hidden is (4, 2), expected rising numbers of hidden units"),
        (minima, {"learning_rate": 0.0}, "learning_rate is 0.0, and scale 1.0; expected numbers > 0"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(experiment, change, message, tmp_path, capsys):
    assert present("it", experiment.run, experiment.Settings(output=tmp_path, **change)) == 2
    assert message in capsys.readouterr().out.replace("\n", " ")


def test_numbers_out_of_range_are_one_line_and_status_2(tmp_path, capsys):
    def run(settings, *, progress):
        return Result({"square": 10.0**settings.epochs**settings.hidden}, {})

    assert present("it", run, xor.Settings(epochs=10, hidden=3, output=tmp_path)) == 2
    assert "with these settings a number leaves the range of floats" in capsys.readouterr().out.replace("\n", " ")


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert present("xor", xor.run, xor.Settings(output=tmp_path / "file")) == 2
    assert "File exists" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nothing can be written into")
def test_a_folder_that_cannot_be_written_into_is_noticed_at_once(capsys):
    def run(settings, *, progress):
        raise AssertionError("this may take long")

    assert present("xor", run, xor.Settings(output=Path("/proc/self"))) == 2
    assert everything.main(everything.Settings(("xor",), output=Path("/proc/self"))) == 2
    assert capsys.readouterr().out.count("/proc/self") == 2


def test_an_interrupted_run_leaves_the_last_result(tmp_path, monkeypatch):
    settings = xor.Settings(epochs=2, classifiers=10, output=tmp_path)
    result = xor.run(settings)
    records.save("xor", xor.run, settings, result)
    before = (tmp_path / "xor.json").read_text()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(next(iter(result.figures.values()))), "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        records.save("xor", xor.run, settings, result)
    assert (tmp_path / "xor.json").read_text() == before


def test_a_mean_that_is_not_finite():
    assert records.rows({"a": {"mean": math.inf, "standard_error": 1.0, "values": []}}) == [("a", "– ± 1")]


@pytest.mark.promotes
def test_no_epochs_at_all():
    assert "cost" not in xor.run(xor.Settings(epochs=0, classifiers=10)).figures
    assert set(digits.run(digits.Settings(epochs=0, repeats=1)).figures) == {"weights", "confusion"}


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "experiments.xor", "--hidden", "3", "--epochs", "9", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "agrees" in done.stdout
    assert len(json.loads((tmp_path / "xor.json").read_text())["numbers"]["V"]) == 3
    shown = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, check=True).stdout
    assert "--learning-rate" in shown


def test_initial_weights_drawn_in_one_program_are_those_of_the_library():
    key, how = jax.random.key(3), {"scale": np.array([0.5, 1.0, 2.0])}
    found, expected = (draw(key, 3, (4, 5, 2), **how) for draw in (initial, jaxnet.ensemble.init))
    assert jaxnet.check.compare(found, expected)


def test_json_has_no_numbers_that_are_not_finite():
    assert records.plain({"a": [float("nan"), 1.0], "b": (float("inf"),)}) == {"a": [None, 1.0], "b": [None]}


def test_what_tables_show():
    numbers = {
        "test_accuracy": 0.12345,
        "estimate": {"mean": 1.0, "standard_error": 0.02, "values": np.ones(3)},
        "share": {"share": 0.5, "low": 0.25, "high": 0.75, "trials": 8},
        "V": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "count": 3,
        "not reached": math.inf,
        "history": {"cost": np.zeros(100)},
        "curve": np.zeros(100),
        "gradient_agreement": {},
    }
    assert records.rows(numbers) == [
        ("test accuracy", "0.1235"), ("estimate", "1 ± 0.02"), ("share", "0.5 (0.25 to 0.75, of 8)"),
        ("V", "1, 2; 3, 4"), ("count", "3"), ("not reached", "–"),
    ]  # fmt: skip


@dataclass(frozen=True)
class Odd:
    """Settings of all kinds."""

    many: tuple[float, ...] = (1.0, 2.0)
    """Numbers."""
    flag: bool = False
    """On or off."""
    other: bool = True
    """On or off."""
    maybe: int | None = 3
    """A number or none."""
    words: str = ""
    """Some words."""
    output: Path = Path()
    """Not part of it."""


@pytest.mark.parametrize("settings", [Odd(), Odd((0.5, 3.0), True, False, None, "two words")])
def test_the_command_gives_the_settings_again(settings, monkeypatch):
    given = []

    def run(settings, *, progress):
        given.append(settings)
        raise Missing

    program, *arguments = shlex.split(records.command("odd", settings))[2:]
    assert program == "experiments.odd"
    monkeypatch.setattr(sys, "argv", ["odd", *arguments])
    main("odd", run, Odd, {}, "")
    assert given == [settings]


def test_thorough_versions_are_settings_and_can_be_run_again():
    for name in MODULES:
        module = import_module(f"experiments.{name}")
        settings = module.Settings(**module.FULL)
        arguments = shlex.split(records.command(name, settings))[3:]
        assert tyro.cli(module.Settings, args=arguments) == settings


def test_figures_in_words():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.set(title="cost", xlabel="epoch", ylabel="J")
    right.set(title="hidden\nspace")
    figure.suptitle("XOR")
    assert records.described(figure) == "XOR; cost: J against epoch; hidden space"
    figure.set_label("Said better.")
    assert records.described(figure) == "Said better."


def test_verdicts():
    assert [above(0.5, *bounds) for bounds in ((0.6, 0.8), (0.4, 0.6), (0.2, 0.5), (math.nan, math.nan))] == [
        "holds", "not enough evidence", "does not hold", "not enough evidence",
    ]  # fmt: skip
    assert every(Verdict.HOLDS, Verdict.OPEN) == "not enough evidence"
    assert every(Verdict.OPEN, Verdict.FAILS, Verdict.HOLDS) == "does not hold"
    assert every() == "not enough evidence"
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert interval([1.0]) == (-math.inf, math.inf)
