"""The harness of the benchmarks, their report and page, and each of them in its quick form."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from test_gallery import Reader, chromium, seen  # noqa: F401  a fixture among them

from benchmarks import MODULES, __main__, ensembles, gradients, harness, page, report
from benchmarks.harness import Ratio
from benchmarks.report import Bar, Report, Table, forest

ROOT = Path(__file__).parents[1]
PEAKS = {"matmul float32": 2e11, "matmul float64": 1e11, "copy": 1e10}
LONG = "a_name_without_any_space_" * 12


@pytest.fixture
def benchmark_module(monkeypatch):
    """A benchmark that measures nothing, with texts that could break a page."""
    module = ModuleType("benchmarks.gradients", 'Claims that 1 < 2 & "so on".\n\nIn `code`, and in words.')
    module.Settings = report.Settings

    def measure(settings, peaks):
        assert peaks == PEAKS
        ratios = [Ratio(0.5, 0.4, 0.6), Ratio(1.0, 0.9, 1.1), None]
        table = Table("<b>Times</b>", ("sizes", "over usual"), [("2-2-1", str(ratios[0])), (LONG, "1")], "a note")
        bars = [Bar("as `fast`", "0.5", True), Bar(LONG, "1 < 2", False)]
        figure = forest(["a", "b", "c"], {"ours": ratios, "theirs": ratios}, "ratio of times")
        return Report([table], bars, {"ratios": figure}, {"ratio": ratios[0], "nan": float("nan")}, [f"a note: {LONG}"])

    module.measure = measure
    monkeypatch.setattr(report, "peaks", lambda *_: PEAKS)
    return module


def test_contenders_take_turns():
    calls = []
    seconds, first = harness.interleave({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert "".join(calls) == "abababab"
    assert set(seconds) == set(first) == {"a", "b"}
    assert all(len(values) == 3 for values in seconds.values())


def test_a_contender_runs_untimed_after_a_rest(monkeypatch):
    monkeypatch.setattr(harness, "SETTLE", 0.001)
    calls = []

    def run():
        time.sleep(0.002)
        calls.append("a")

    harness.interleave({"a": run}, 3, rest=0.001, warm=False)
    assert len(calls) == 6


def test_results_that_differ_are_not_compared():
    programs = {"a": lambda x: x, "b": lambda x: x * (1 + 1e-6), "c": lambda x: x * 1.01}
    harness.must_agree("it", programs, "a", ["b"], (np.ones(2),))
    with pytest.raises(RuntimeError, match="it: c differs from a by 1.0e-02"):
        harness.must_agree("it", programs, "a", ["b", "c"], (np.ones(2),))


@pytest.mark.parametrize("options", [{}, {"drawn_from": 16}, {"drawn_from": 16, "own_order": True}])
def test_the_usual_ensemble_ends_where_ours_does(options):
    case = ensembles.Case((2, 3, 1), 8, 4, 32, 1.0, **options)
    with jax.numpy_rank_promotion("allow"):
        usual = ensembles.usual(case)()
    assert harness.distance(ensembles.ours(case)().params, usual) < 1e-5


def test_without_a_first_call():
    calls = []
    _, first = harness.interleave({"a": lambda: calls.append("a")}, 2, warm=False)
    assert calls == ["a", "a"]
    assert first == {}


def test_ratio_and_verdict():
    slow, fast = np.array([2.0, 2.1, 1.9, 2.0]), np.array([1.0, 1.1, 0.9, 1.0])
    assert harness.ratio(slow, fast).verdict == "slower"
    assert harness.ratio(fast, slow).verdict == "faster"
    assert harness.ratio(fast, fast[::-1]).verdict == "no difference"
    assert harness.ratio(fast[:1], slow[:1]).verdict == "not known"
    found = harness.ratio(slow, fast)
    assert found.low <= found.value == 2 <= found.high
    assert str(Ratio(2, 1.5, 2.5)) == "2.00 [1.50, 2.50]"
    assert str(Ratio(543.2, 500, 600)) == "543 [500, 600]"


def test_geometric_mean():
    assert harness.geometric_mean([0.5, 2.0]) == pytest.approx(1)


def test_peaks_of_this_machine():
    found = harness.peaks(64, 2)
    assert found.keys() == PEAKS.keys()
    assert all(np.isfinite(value) and value > 0 for value in found.values())


def test_present_writes_everything(benchmark_module, tmp_path, capsys):
    report.present(benchmark_module, report.Settings(output=tmp_path))
    document = json.loads((tmp_path / "benchmarks" / "gradients.json").read_text())
    assert document["numbers"] == {"ratio": {"value": 0.5, "low": 0.4, "high": 0.6}, "nan": None}
    assert document["command"].startswith("python -m benchmarks.gradients")
    assert {"processor", "cores", "devices", "python", "jax", "jaxlib", "numpy", "optax", "jaxnet"} <= set(
        document["machine"]
    )
    assert document["peaks"] == PEAKS
    assert document["dtype"] == "float32"
    assert (tmp_path / "benchmarks" / "gradients_ratios.png").exists()
    printed = capsys.readouterr().out
    assert "reached: as `fast`: 0.5" in printed
    assert "200 GFLOP/s in float32" in printed
    read = Reader((tmp_path / page.PAGE).read_text(encoding="utf-8"))
    assert "<b>Times</b>" in read.text
    assert "missed" in read.text


def test_json_is_all_that_is_printed(benchmark_module, tmp_path, capsys):
    report.present(benchmark_module, report.Settings(json=True, output=tmp_path))
    assert json.loads(capsys.readouterr().out)["benchmark"] == "gradients"


@pytest.mark.parametrize("width", [375, 1280])
def test_page_in_a_browser(chromium, benchmark_module, tmp_path, width):  # noqa: F811
    report.present(benchmark_module, report.Settings(output=tmp_path))
    shown = seen(chromium, (tmp_path / page.PAGE).read_text(encoding="utf-8"), tmp_path, width, "dark")
    assert shown.width == shown.page == width
    assert shown.beyond == shown.missing == shown.faint == shown.said == []


def test_settings():
    assert report.Settings(quick=True).rounds == 3
    with pytest.raises(ValueError, match="rounds is 0, expected at least 1"):
        report.Settings(rounds=0)


def test_unknown_names(capsys):
    assert __main__.main(__main__.Settings(names=("gradient",))) == 2
    assert "no benchmark gradient: there are gradients" in capsys.readouterr().out


def test_a_failure_leaves_the_others(benchmark_module, tmp_path, monkeypatch, capsys):
    broken = ModuleType("benchmarks.graph", "It fails.")
    broken.Settings, broken.measure = report.Settings, lambda *_: 1 / 0
    modules = {"graph": broken, "gradients": benchmark_module}
    monkeypatch.setattr(__main__, "import_module", lambda name: modules[name.partition(".")[2]])
    assert __main__.main(__main__.Settings(names=("graph", "gradients"), output=tmp_path)) == 1
    assert (tmp_path / "benchmarks" / "gradients.json").exists()
    assert "graph failed" in capsys.readouterr().out


def test_a_gradients_case():
    with jax.numpy_rank_promotion("allow"):  # the usual form is written as most people write it
        row = gradients.measure_case(gradients.Case((2, 2, 1), 4), 2)
    assert row["programs"].keys() == {"by hand", "autodiff", "usual"}
    assert row["ratios"].keys() == {"autodiff", "usual", "examples first"}
    assert all(len(values) == 2 for values in row["seconds"].values())
    assert row["flops"] == 2 * 4 * (3 * 6 - 4)


def test_every_module_has_its_parts():
    for name in MODULES:
        module = importlib.import_module(f"benchmarks.{name}")
        assert module.__doc__
        assert issubclass(module.Settings, report.Settings)
        assert callable(module.measure)


@pytest.mark.parametrize("name", ["benchmarks", *(f"benchmarks.{name}" for name in MODULES)])
@pytest.mark.slow
def test_help(name):
    done = subprocess.run(
        [sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert "--quick" in done.stdout
    assert "--json" in done.stdout


@pytest.mark.parametrize("name", ["gradients", "training", "scaling", "import_time", "graph"])
@pytest.mark.slow
def test_quick(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", "--output", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    document = json.loads(done.stdout)
    assert document["benchmark"] == name
    assert document["tables"]
    assert document["bars"]
