"""What holds of the whole code: who differentiates, who imports whom, and what is public."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxnet"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module imports only from rows above its own.
ROWS = [
    {"_colours", "_numeric", "_one_function", "_sharding", "_validate"},
    {"activations"},
    {"losses"},
    {"network"},
    {"_products"},
    {"backprop"},
    {"per_example"},
    {"check"},
    {"graph"},
    {"data"},
    {"curvature"},
    {"kernel"},
    {"optimizers"},
    {"steps"},
    {"_loop", "_progress"},
    {"_arguments"},
    {"training"},
    {"ensemble"},
    {"plots"},
]
ROW = {module: i for i, row in enumerate(ROWS) for module in row}

DIFFERENTIATION = {
    "grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacobian", "jacfwd", "jacrev", "hessian",
    "fwd_and_bwd",
}  # fmt: skip
# The referee, and nothing else; `check` is the referee's home.
ALLOWED = {("backprop", "autodiff")}
REFEREES = {"check"}


def room(path):
    """The module of a file: its name, or that of the package it is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def differentiating_functions(tree):
    """Names of the top-level definitions that use JAX's differentiation, by attribute or import."""
    for statement in tree.body:
        name = getattr(statement, "name", "the module itself")
        for node in ast.walk(statement):
            used = (isinstance(node, ast.Attribute) and node.attr in DIFFERENTIATION and _rooted_in_jax(node)) or (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").partition(".")[0] == "jax"
                and DIFFERENTIATION & {alias.name for alias in node.names}
            )
            if used:
                yield name


def _rooted_in_jax(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in ("jax", "api")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_autodiff_is_the_referee_never_the_player(path):
    if room(path) in REFEREES:
        return
    found = {(path.stem, name) for name in differentiating_functions(ast.parse(path.read_text()))}
    assert found <= ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "def f(): return jax.grad(g)",
        "from jax import vjp",
        "f = jax.experimental.jet.jvp(g)",
        "from jax import grad as d",
    ],
)
def test_the_walk_finds_what_it_should(code):
    assert list(differentiating_functions(ast.parse(code)))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_import_only_from_rows_above(path):
    here = room(path)
    if here == "__init__":
        return
    assert here in ROW, f"{here} has no row: put it where it belongs"
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module != "jaxnet" else [f"jaxnet.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, _, module = name.partition(".")
            assert package not in ("experiments", "benchmarks", "tests")
            module = module.partition(".")[0]
            if package == "jaxnet" and module != here:
                assert ROW[module] < ROW[here]


def test_importing_jaxnet_is_light():
    """Neither figures nor estimators nor data sets load before they are used."""
    code = "import sys, jaxnet; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "sklearn", "orbax", "torch", "rich", "pooch", "tyro", "scipy.stats"} & set(loaded)


def public_objects():
    yield from ((name, getattr(jaxnet, name)) for name in jaxnet.__all__)
    for module in (
        "activations", "check", "curvature", "data", "ensemble", "graph", "kernel", "losses", "optimizers",
        "per_example", "plots",
    ):  # fmt: skip
        module = importlib.import_module(f"jaxnet.{module}")
        yield from ((f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__)


@pytest.mark.parametrize(
    ("name", "value"), list(public_objects()), ids=lambda value: value if type(value) is str else ""
)
def test_public_things_are_documented(name, value):
    if inspect.isfunction(value) or inspect.isclass(value):
        assert inspect.getdoc(value)


def test_every_public_definition_is_listed():
    for path in MODULES:
        if path.stem == "__init__" or path.stem.startswith("_") or path.parent.name == "rules":  # registered, not named
            continue
        module = importlib.import_module(".".join(("jaxnet", *path.relative_to(PACKAGE).with_suffix("").parts)))
        defined = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", None) == module.__name__
            and (inspect.isfunction(value) or inspect.isclass(value))
        }
        # Public to the other modules of the package, not to its users.
        internal = {
            "add_penalty", "backprop_as_sums", "backward_pass", "both_passes", "check_kind", "check_network",
            "checked_members", "contract", "cost_of", "forward_pass", "in_structure_of", "losses_of", "on_vectors",
            "output_cotangents", "output_delta", "per_member", "second_derivative", "shares_of",
            "takes_key", "times_curvature",
        }  # fmt: skip
        assert defined - internal <= set(module.__all__), path


def test_version_is_in_the_changelog():
    assert f"## {jaxnet.__version__}" in (ROOT / "CHANGELOG.md").read_text()
