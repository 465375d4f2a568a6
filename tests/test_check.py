from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from jaxnet.check import check_gradient, check_vjp, compare


def test_agreement_is_true_and_disagreement_names_the_entry():
    tree = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.zeros(2)}
    assert compare(tree, tree)
    wrong = tree | {"w": tree["w"].at[1, 0].add(0.5)}
    report = compare(wrong, tree)
    assert not report
    bad = report.leaves[1]
    assert (bad.path, bad.index, bad.actual, bad.expected) == ("['w']", (1, 0), 3.5, 3.0)
    assert bad.relative_error == report.relative_error == 0.125
    with pytest.raises(AssertionError, match=r"FAIL \['w'\]  relative error 1.25e-01 .* \[1, 0\]: 3.5, expected 3"):
        report.raise_if_failed()


def test_tolerance_is_that_of_the_coarser_dtype(x64):
    exact = jnp.array([1.0])
    assert not compare(exact + 1e-9, exact)
    assert compare(exact + 1e-9, exact.astype(jnp.float32))
    assert compare(exact + 1e-3, exact, tolerance=1e-2)


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([0.0], [0.0], 0.0),
        ([1.0], [0.0], np.inf),
        ([np.nan, 1.0], [0.0, 1.0], np.nan),
        ([0.0], [np.nan], np.nan),
        ([np.nan], [np.nan], np.nan),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.inf], [-np.inf], np.inf),
        ([1.0], [np.inf], np.inf),
    ],
)
def test_zeros_nan_and_infinities(actual, expected, error):
    report = compare(jnp.array(actual), jnp.array(expected))
    np.testing.assert_equal(report.relative_error, error)
    assert bool(report) == (error == 0)


def test_float64_is_compared_as_float64_in_32_bit_mode():
    assert not compare(np.array([1.0]), np.array([1.0 + 1e-9]))


def test_bad_comparisons():
    with pytest.raises(ValueError, match="actual has the structure"):
        compare([jnp.ones(2)], (jnp.ones(2),))
    with pytest.raises(ValueError, match=r"actual\[0\] has shape \(3,\), expected \(2,\)"):
        compare([jnp.ones(3)], [jnp.ones(2)])
    with pytest.raises(TypeError, match=r"actual\[0\] has dtype complex64, expected real numbers"):
        compare([np.ones(2, np.complex64)], [jnp.ones(2)])
    with pytest.raises(ValueError, match="no arrays"):
        compare((), ())
    with pytest.raises(ValueError, match=r"expected\[0\] is empty"):
        compare([jnp.ones(0)], [jnp.ones(0)])


# ----------------------------------------------------------------------------------------------------------------------
# check_gradient: planted errors


class Affine(NamedTuple):
    w: Any
    b: Any


def layer(params, x):
    """A smooth function with a square weight, (3, 3), and a bias."""
    return jnp.sum(jnp.tanh(params.w @ x + params.b) ** 3)


def layer_gradient(params, x):
    t = jnp.tanh(params.w @ x + params.b)
    delta = 3 * t**2 * (1 - t**2)
    return Affine(jnp.outer(delta, x), delta)


PARAMS = Affine(jnp.array([[0.5, -1.0, 0.3], [0.2, 0.8, -0.6], [-0.4, 0.1, 0.9]]), jnp.array([0.3, -0.2, 0.7]))
X = jnp.array([1.0, -0.5, 2.0])


def check_layer(change, **options):
    return check_gradient(layer, lambda params, x: change(layer_gradient(params, x)), (PARAMS, X), **options)


def test_a_right_gradient_holds_for_every_witness():
    report = check_gradient(layer, layer_gradient, (PARAMS, X))
    assert report
    assert report.diagnosis == ""
    assert [witness.holds for witness in report.witnesses] == [True] * 9
    assert "order 2.0" in report["Taylor remainder"].note
    assert report["automatic"].worst.tolerance == pytest.approx(1e-12, rel=0.1)
    assert report["central differences"].worst.tolerance < 1e-9
    assert report["complex step"].worst.relative_error < 1e-14
    assert report["lower precision"].note == "float32 against float64"
    report.raise_if_failed()
    assert not jax.config.read("jax_enable_x64")


EVERY = {"automatic", "central differences", "complex step", "Taylor remainder", "dot product", "nearby points"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: Affine(2 * g.w, 2 * g.b), "is off by a factor of 2, in every leaf"),
        (lambda g: Affine(g.w / 2, g.b / 2), "is off by a factor of 1/2, in every leaf"),
        (lambda g: Affine(g.w / 7, g.b), "is off by a factor of 1/7 in .w"),
        (lambda g: Affine(g.w.T, g.b), "is transposed in .w"),
        (lambda g: Affine(g.w, 0 * g.b), "is zero, as if forgotten, in .b"),
        (lambda g: Affine(g.w, -g.b), "has the wrong sign, a factor of -1, in .b"),
        (lambda g: Affine(-g.w, -g.b), "has the wrong sign, a factor of -1, in every leaf"),
        (lambda g: Affine(g.w, g.b.at[1].multiply(-1)), "has the wrong sign in 1 of 3 entries in .b"),
        (lambda g: Affine(g.w.at[0].set(0), g.b), "is zero in 3 of 9 entries where it should not be in .w"),
        (lambda g: Affine(g.w * (1 + 1e-6), g.b * (1 + 1e-6)), "is off by a factor of 1 + 1e-06, in every leaf"),
        (lambda g: Affine(g.w, g.b + 0.5), "is off by a constant, 0.5, in .b"),
        (lambda g: Affine(g.w + 0.1 * PARAMS.w.astype(g.w.dtype), g.b), "is off by 0.1 times the argument (a penalty"),
        (lambda g: Affine(g.w, g.b.at[2].add(0.25)), "differs in 1 of 3 entries, by up to 0.25"),
        (lambda g: Affine(g.w, g.b * jnp.nan), "is not finite in 3 of 3 entries in .b"),
    ],
)
def test_a_planted_error_is_found_and_described(change, says):
    report = check_layer(change)
    assert not report
    assert set(report.disagreeing) >= EVERY - {"Taylor remainder"}
    assert report.diagnosis.startswith("the gradient under test is wrong: it ")
    assert says in report.diagnosis
    with pytest.raises(AssertionError, match="FAIL automatic"):
        report.raise_if_failed()


def test_leaves_that_changed_places_are_named():
    def f(p):
        return jnp.sum(jnp.sin(p["a"])) + jnp.sum(p["b"] ** 3)

    report = check_gradient(f, lambda p: {"a": 3 * p["b"] ** 2, "b": jnp.cos(p["a"])}, ({"a": X, "b": X[::-1] + 1},))
    assert "is that of ['b'] in ['a']; is that of ['a'] in ['b']" in report.diagnosis


def relu_sum(x):
    return jnp.sum(jax.nn.relu(x) * jnp.arange(1, 4).astype(x.dtype))


def relu_gradient(active):
    return jnp.where(active, jnp.arange(1.0, 4.0), 0)


def test_the_other_branch_at_a_kink_is_described():
    x = jnp.array([1.0, 0.0, -1.0])
    report = check_gradient(relu_sum, lambda x: relu_gradient(x >= 0), (x,))
    assert set(report.disagreeing) == {"automatic", "dot product"}
    assert "wrong at a kink: at [1] the slopes of f are 0 and 2 on its two sides" in report.diagnosis
    assert "2 where automatic differentiation has 0" in report.diagnosis
    right = check_gradient(relu_sum, lambda x: relu_gradient(x > 0), (x,))
    assert right
    assert "a kink at 1 entries" in right["central differences"].note
    assert right["Taylor remainder"].holds is None


def test_a_value_off_both_sides_of_a_kink_contradicts_the_values_too():
    x = jnp.array([1.0, 0.0, -1.0])
    report = check_gradient(relu_sum, lambda x: jnp.array([1, -3, 0], x.dtype), (x,))
    assert "central differences" in report.disagreeing
    assert "neither side, -3" in report.diagnosis


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9])
def test_a_kink_nearby_is_no_alarm(distance):
    x = jnp.array([1.0, distance, -distance])
    assert check_gradient(relu_sum, lambda x: relu_gradient(x > 0), (x,))


def test_a_wrong_branch_beside_the_kink():
    def wrong(x):
        return relu_gradient(x > 0.1)

    report = check_gradient(relu_sum, wrong, (jnp.array([1.0, 0.05, -1.0]),))
    assert "is zero in 1 of 3 entries where it should not be" in report.diagnosis


def test_a_gradient_that_changes_from_run_to_run():
    random = np.random.default_rng(0)
    report = check_layer(lambda g: jax.tree.map(lambda leaf: leaf * (1 + 1e-9 * random.random()), g))
    assert "same bits" in report.disagreeing
    assert report.diagnosis.startswith("not deterministic: the gradient changes from run to run")


def test_a_function_that_changes_from_run_to_run():
    random = np.random.default_rng(0)
    report = check_gradient(lambda x: jnp.sum(x**2) + random.random(), lambda x: 2 * x, (X,))
    assert "same bits" in report.disagreeing
    assert report.diagnosis.startswith("not deterministic: f changes from run to run")


def test_a_gradient_right_at_one_point_only():
    with jax.enable_x64(True):
        frozen = jax.tree.map(np.asarray, layer_gradient(*jax.tree.map(lambda leaf: leaf.astype(float), (PARAMS, X))))

    def constant(params, x):
        return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), frozen, params)

    report = check_gradient(layer, constant, (PARAMS, X))
    assert report.disagreeing == ("nearby points",)
    assert "right at this point only, and wrong at points nearby" in report.diagnosis


def test_a_gradient_wrong_at_one_point_only():
    def doubled_at_zero(x):
        return jnp.where(x == 0, jnp.cos(x) * 2, jnp.cos(x))

    report = check_gradient(lambda x: jnp.sum(jnp.sin(x)), doubled_at_zero, (jnp.array([0.0, 1.0]),))
    assert "differs in 1 of 2 entries" in report.diagnosis
    assert "at points nearby it is right" in report.diagnosis


@jax.custom_vjp
def square(x):
    return x * x


square.defvjp(lambda x: (x * x, x), lambda x, bar: (bar * x,))


def sum_of_squares(x):
    return jnp.sum(square(x))


def test_a_wrong_rule_inside_f_is_told_from_a_wrong_gradient():
    report = check_gradient(sum_of_squares, lambda x: 2 * x, (X,))
    assert set(report.disagreeing) == {"automatic", "nearby points"}
    assert report["central differences"].holds
    assert report["complex step"].holds
    assert report["Taylor remainder"].holds
    assert report["dot product"].holds
    assert "Jv by central differences" in report["dot product"].note
    assert report.diagnosis.startswith("automatic differentiation is wrong, and so likely a custom derivative rule")
    assert report.diagnosis.endswith("automatic differentiation is off by a factor of 1/2")


def test_a_gradient_that_shares_the_wrong_rule():
    report = check_gradient(sum_of_squares, jax.grad(sum_of_squares), (X,))
    assert report["automatic"].holds
    assert "agree with each other, but not with the values of f" in report.diagnosis
    assert "the gradient is off by a factor of 1/2" in report.diagnosis


def test_both_wrong_in_different_ways():
    report = check_gradient(sum_of_squares, lambda x: 6 * x, (X,))
    assert "both wrong, in different ways" in report.diagnosis
    assert (
        "the gradient is off by a factor of 3; automatic differentiation is off by a factor of 1/2" in report.diagnosis
    )


def test_a_difference_too_small_for_values():
    report = check_gradient(
        layer, lambda p, x: jax.tree.map(lambda g: g * (1 + 1e-11), layer_gradient(p, x)), (PARAMS, X)
    )
    assert not report["automatic"].holds
    assert "too small for the values of f to show" in report.diagnosis


def test_a_gradient_that_loses_precision():
    def cancels(x):  # 1 + x / 2, but in float32 with a loss
        return 1 + ((1e4 + x) - 1e4) / 2

    report = check_gradient(lambda x: x + x**2 / 4, cancels, (jnp.float32(0.3),))
    assert report.disagreeing == ("lower precision",)
    assert "loses precision (float32 against float64)" in report.diagnosis


def test_a_gradient_that_jit_changes():
    def sees_tracers(x):
        return 2 * x * (3 if isinstance(x, jax.core.Tracer) else 1)

    report = check_gradient(lambda x: jnp.sum(x**2), sees_tracers, (X,))
    assert report.disagreeing == ("jit, vmap, eager",)
    assert "jit and vmap changes its values" in report.diagnosis


# ----------------------------------------------------------------------------------------------------------------------
# check_gradient: what else it is given


def test_functions_of_numpy():
    report = check_gradient(lambda x: float(np.sum(np.asarray(x) ** 3)), lambda x: 3 * np.asarray(x) ** 2, (X,))
    assert report
    skipped = {witness.name for witness in report.witnesses if witness.holds is None}
    assert skipped == {"automatic", "complex step", "jit, vmap, eager", "nearby points"}
    wrong = check_gradient(lambda x: float(np.sum(np.asarray(x) ** 3)), lambda x: np.asarray(x) ** 2, (X,))
    assert wrong.diagnosis == "the gradient under test is wrong: it is off by a factor of 1/3"


def test_many_entries_are_sampled_with_a_bounded_number_of_values():
    count = 0

    def f(x):
        nonlocal count
        count += 1
        return float(np.sum(np.sin(np.asarray(x))))

    x = jnp.linspace(0, 3, 3000).reshape(30, 100)
    report = check_gradient(f, lambda x: np.cos(np.asarray(x)), (x,))
    assert report
    assert report["central differences"].note == "48 of 3000 entries, sampled, and 4 directions"
    assert count < 1100
    assert not check_gradient(f, lambda x: 1.01 * np.cos(np.asarray(x)), (x,))


def test_every_leaf_of_many_entries_is_visited():
    params = {name: jnp.ones(40) for name in "abcde"} | {"small": jnp.ones(())}
    report = check_gradient(lambda p: sum(jnp.sum(jnp.sin(leaf)) for leaf in p.values()),
                            lambda p: jax.tree.map(jnp.cos, p), (params,))  # fmt: skip
    assert report
    paths = {leaf.path for leaf in report["central differences"].leaves}
    assert paths == {*(f"[{name!r}]" for name in params), "along a direction"}


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda x: jnp.sum(jnp.abs(x) ** 3), "'abs', which has no complex derivative"),
        (lambda x: jnp.sum(jnp.where(x > 0, x, x**2)), "no complex derivative"),
        (lambda x: jnp.sum(jax.lax.erf(x)), "does not run on complex numbers"),
    ],
)
def test_where_the_complex_step_is_not_allowed(f, reason):
    report = check_gradient(f, jax.grad(f), (X,))
    assert report
    assert report["complex step"].holds is None
    assert reason in report["complex step"].note


def test_linear_and_constant_functions():
    assert check_gradient(lambda x: 3 * jnp.sum(x), lambda x: 3 * jnp.ones_like(x), (X,))
    report = check_gradient(lambda x: jnp.sum(x) * 0 + 1, jnp.zeros_like, (X,))
    assert report
    assert "linear" in report["Taylor remainder"].note
    assert not check_gradient(lambda x: jnp.sum(x) * 0 + 1, jnp.ones_like, (X,))


def test_cubic_at_a_flat_point():
    assert check_gradient(lambda x: jnp.sum(x**3), lambda x: 3 * x**2, (jnp.zeros(3),))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_coarse_dtypes_are_checked_against_float64(dtype):
    report = check_gradient(lambda x: jnp.sum(jnp.sin(x)), jnp.cos, (X.astype(dtype),))
    assert report
    assert report["lower precision"].note == f"{dtype} against float64"
    assert report["automatic"].worst.tolerance < 1e-11


def test_functions_that_insist_on_their_dtype():
    weights = jnp.array([1.0, 2.0, 3.0])  # float32: strict promotion forbids the product with float64
    report = check_gradient(lambda x: weights @ jnp.sin(x), lambda x: weights * jnp.cos(x), (X,))
    assert report
    assert "run in one dtype only: float64 raises" in report["lower precision"].note
    assert report["automatic"].worst.tolerance < 3e-5
    assert not check_gradient(lambda x: weights @ jnp.sin(x), lambda x: weights * jnp.cos(x) * 1.001, (X,))


def test_f_that_hides_float32_inside():
    def f(x):
        return jnp.sum(jnp.sin(x.astype(jnp.float32))).astype(x.dtype)

    assert check_gradient(f, lambda x: jnp.cos(x.astype(jnp.float32)).astype(x.dtype), (X,))


def test_x64_is_restored_also_after_an_error():
    def fails(x):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        check_gradient(lambda x: jnp.sum(x), fails, (X,))
    assert jnp.ones(1).dtype == jnp.float32
    with jax.enable_x64(True):
        assert check_gradient(lambda x: jnp.sum(x**2), lambda x: 2 * x, (jnp.ones(3),))
        assert jnp.ones(1).dtype == jnp.float64


def test_several_arguments_and_the_table():
    report = check_gradient(lambda a, n, b: jnp.sum(a**n * b), lambda a, n, b: (n * a ** (n - 1) * b, 3 * a**n),
                            (X, 2, X + 3), argnums=(0, 2))  # fmt: skip
    assert report.diagnosis == "the gradient under test is wrong: it is off by a factor of 3 in [1]"
    table = str(report)
    assert "FAIL automatic            [1] relative error 6.67e-01 (at most" in table
    assert "ok   same bits            three runs of f and of the gradient" in table
    assert table.endswith(report.diagnosis)
    with pytest.raises(KeyError, match="no witness of this report: automatic, central"):
        report["nobody"]


def test_the_library_itself():
    params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    x, y = jaxnet.data.xor()
    assert check_gradient(jaxnet.cost, lambda *args: jaxnet.backprop(*args)[1], (params, x, y))
    assert check_vjp(jaxnet.forward, lambda p, x, u: jax.vjp(jaxnet.forward_with_backprop, p, x)[1](u), (params, x))


def test_the_key_chooses_the_directions():
    one, two, again = (check_layer(lambda g: g, key=jax.random.key(seed))["dot product"].worst for seed in (1, 2, 1))
    assert one == again != two


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "args is a list, expected the tuple", lambda: check_gradient(jnp.sum, jnp.ones_like, [X])),
        (ValueError, "argnums is 1, expected positions", lambda: check_gradient(
            jnp.sum, jnp.ones_like, (X,), argnums=1)),
        (TypeError, r"args\[0\]\['n'\] is an array of int32", lambda: check_gradient(
            jnp.sum, jnp.ones_like, ({"n": jnp.arange(3)},))),
        (ValueError, "hold no numbers", lambda: check_gradient(jnp.sum, jnp.ones_like, (jnp.ones(0),))),
        (ValueError, r"f\(\*args\) has shape \(3,\), expected a scalar; .* check_vjp", lambda: check_gradient(
            jnp.sin, jnp.cos, (X,))),
        (TypeError, r"f\(\*args\) is a str, expected", lambda: check_gradient(lambda x: "a", jnp.cos, (X,))),
        (TypeError, r"f\(\*args\) is an array of int32", lambda: check_gradient(
            lambda x: jnp.sum(x).astype(int), jnp.cos, (X,))),
        (ValueError, r"structure .* pass lambda \*args: gradient\(\*args\)\[1\]", lambda: check_gradient(
            jnp.sum, lambda x: (1.0, x), (X,))),
        (ValueError, r"gradient\(\*args\).w has shape \(2, 3\), expected \(3, 2\); is it transposed", lambda:
            check_gradient(lambda p: jnp.sum(p.w), lambda p: Affine(p.w.T, p.b), (Affine(jnp.ones((3, 2)), X),))),
        (TypeError, r"gradient\(\*args\) is an array of int32", lambda: check_gradient(
            jnp.sum, lambda x: jnp.arange(3), (X,))),
        (TypeError, "key is a int, expected a typed key", lambda: check_gradient(jnp.sum, jnp.ones_like, (X,), key=3)),
        (ValueError, r"f\(\*args\) holds no arrays", lambda: check_vjp(lambda x: (), lambda x, u: (x,), (X,))),
    ],
)  # fmt: skip
def test_bad_arguments(error, message, call):
    with pytest.raises(error, match=message):
        call()


# ----------------------------------------------------------------------------------------------------------------------
# check_vjp


def affine(w, x):
    return {"y": w @ x, "z": jnp.sin(x)}


def affine_vjp(w, x, bar):
    return jnp.outer(bar["y"], x), w.T @ bar["y"] + jnp.cos(x) * bar["z"]


def test_vjp_of_several_arguments():
    args = (PARAMS.w, X)
    report = check_vjp(affine, affine_vjp, args)
    assert report
    assert report["linearity"].holds
    assert report["dot product"].note == "Jv by forward differentiation"
    assert check_vjp(affine, lambda *a: affine_vjp(*a)[1], args, argnums=1)
    wrong = check_vjp(affine, lambda w, x, bar: (jnp.outer(x, bar["y"]), affine_vjp(w, x, bar)[1]), args)
    assert wrong.diagnosis == "the gradient under test is wrong: it is transposed in [0]"


def test_vjp_that_is_not_linear():
    report = check_vjp(jnp.sin, lambda x, bar: (jnp.cos(x) * bar * bar,), (X,))
    assert "linearity" in report.disagreeing
    assert "f_vjp is not linear in the cotangent" in report.diagnosis


# ----------------------------------------------------------------------------------------------------------------------
# No false alarm


def unit_terms(count, z, a, c, b):
    """Smooth functions of z (n,), each with its gradient by hand; a (6, n), c (6,) and b (6,) are at random.

    The first nine are analytic programs; the last two cannot run on complex numbers.
    """
    az, t, after = a @ z, jnp.tanh(a @ z + c), jnp.roll(z, -1)
    bell = jnp.exp(-jnp.sum((z - 0.5) ** 2) / 2)
    bend, root = after - z**2, jnp.sqrt(1 + jnp.sum(z**2))
    total, near = jnp.sum(z), jnp.sum(z) * 1.001
    ones = jnp.ones_like(z)
    terms = [
        (jnp.sum(az**2) / 2 + c @ az, a.T @ (az + c)),
        (c @ jnp.sin(az), a.T @ (c * jnp.cos(az))),
        (jnp.sum(t**2), a.T @ (2 * t * (1 - t**2))),
        (bell, (0.5 - z) * bell),
        (jnp.sum(z**2 / (1 + after**2)), 2 * z / (1 + after**2) - jnp.roll(2 * after * z**2 / (1 + after**2) ** 2, 1)),
        (jnp.sum(bend**2 + (1 - z) ** 2 / 100), -4 * z * bend - (1 - z) / 50 + jnp.roll(2 * bend, 1)),
        (root, z / root),
        ((1e3 + total) ** 2 - (1e3 + near) ** 2, (2 * (1e3 + total) - 2.002 * (1e3 + near)) * ones),  # cancels
        (jnp.sum((az - b) ** 2) / 2, a.T @ (az - b)),  # cancels too: b is almost az
    ]
    if count == ANALYTIC:
        return terms
    return [
        *terms,
        (jax.nn.logsumexp(az), a.T @ jax.nn.softmax(az)),
        (c @ jax.nn.softplus(az), a.T @ (c * jax.nn.sigmoid(az))),
    ]


def scaled(x, s):
    return jnp.concatenate([(leaf / scale).ravel() for leaf, scale in zip(*map(jax.tree.leaves, (x, s)), strict=True)])


def random_function(count, x, s, weights, a, c, b):
    terms = unit_terms(count, scaled(x, s), a, c, b)
    return sum(weights[i] * value for i, (value, _) in enumerate(terms))


def random_gradient(count, x, s, weights, a, c, b):
    terms = unit_terms(count, scaled(x, s), a, c, b)
    flat = sum(weights[i] * gradient for i, (_, gradient) in enumerate(terms))
    start, found = 0, []
    for scale in jax.tree.leaves(s):
        found.append(flat[start : start + scale.size].reshape(scale.shape) / scale)
        start += scale.size
    return jax.tree.unflatten(jax.tree.structure(s), found)


ANALYTIC, ALL = 9, 11
FUNCTIONS = {count: partial(random_function, count) for count in (ANALYTIC, ALL)}
GRADIENTS = {count: partial(random_gradient, count) for count in (ANALYTIC, ALL)}
COMPILED = {count: (jax.jit(FUNCTIONS[count]), jax.jit(GRADIENTS[count])) for count in FUNCTIONS}
# Few kinds, so that nearly all cases find their compiled code.
KINDS = [(ANALYTIC, {"w": (2, 3), "b": (2,)}), (ALL, [(), (3,), {"deep": (2, 2)}]), (ANALYTIC, ((1,),))]


def random_case(seed):
    """A random function, its gradient, and arguments of every scale: weights and scales over twelve decades."""
    random = np.random.default_rng(seed)
    decades = lambda low, high, shape=(): 10.0 ** random.uniform(low, high, shape)  # noqa: E731
    count, shapes = KINDS[seed % 3]
    is_shape = lambda node: isinstance(node, tuple) and all(isinstance(size, int) for size in node)  # noqa: E731
    s = jax.tree.map(lambda shape: decades(-4, 4) * decades(-1, 1, shape), shapes, is_leaf=is_shape)
    z = jax.tree.map(
        lambda shape: random.standard_normal(shape) * (random.random(shape) < 0.9), shapes, is_leaf=is_shape
    )
    n = sum(leaf.size for leaf in jax.tree.leaves(s))
    a, c = random.standard_normal((6, n)), random.standard_normal(6)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(z)])
    b = a @ (flat * (1 + decades(-8, 0) * random.standard_normal(n)))
    weights = np.zeros(count)
    chosen = random.choice(count, random.integers(1, 4), replace=False)
    weights[chosen] = decades(-6, 6) * decades(-2, 2, len(chosen)) * random.choice([-1, 1], len(chosen))
    args = (jax.tree.map(np.multiply, z, s), s, weights, a, c, b)
    pair = (FUNCTIONS[count], GRADIENTS[count]) if seed % 100 == 0 else COMPILED[count]
    return *pair, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), args)


@pytest.mark.optimized
@pytest.mark.parametrize(
    "cases",
    [range(100), *(pytest.param(range(i, i + 900), marks=pytest.mark.slow) for i in range(100, 10_000, 900))],
    ids=str,
)
def test_no_false_alarm(cases):
    alarms, heard = [], Counter()
    for seed in cases:
        f, gradient, args = random_case(seed)
        report = check_gradient(f, gradient, args, key=jax.random.key(seed))
        heard.update(witness.name for witness in report.witnesses if witness.holds is not None)
        heard["sharp"] += max(leaf.tolerance for leaf in report["automatic"].leaves) < 1e-8
        if not report:
            alarms.append(f"seed {seed}:\n{report}")
    assert not alarms, "\n".join([f"{len(alarms)} of {len(cases)}", *alarms[:5]])
    # The proof would be empty if witnesses did not speak, or tolerated anything.
    assert heard["sharp"] > 0.95 * len(cases)
    assert all(heard[name] > 0.95 * len(cases) for name in EVERY - {"complex step"})
    assert heard["complex step"] > 0.4 * len(cases)


@pytest.mark.optimized
@pytest.mark.parametrize("seed", range(15))
def test_every_planted_error_in_random_functions_is_found(seed):
    f, gradient, args = random_case(seed)
    factor = [2.0, 0.5, -1.0, 0.0, 1 + 1e-6][seed % 5]
    report = check_gradient(f, lambda *args: jax.tree.map(lambda g: g * factor, gradient(*args)), args)
    assert "automatic" in report.disagreeing
    assert report.diagnosis.startswith("the gradient under test is wrong")


def test_a_position_named_twice():
    with pytest.raises(ValueError, match=r"argnums is \(0, 0\), which names a position twice"):
        check_gradient(lambda a: jnp.sum(a), lambda a: (a, a), (jnp.ones(2),), argnums=(0, 0))


def test_real_powers_of_negative_numbers_leave_the_real_numbers(dtype):
    def f(w):
        return jnp.sum(w ** jnp.array([2.0, 3.0], dtype))

    report = check_gradient(f, jax.grad(f), (jnp.array([-1.0, -2.0], dtype),))
    assert report
    assert report["complex step"].note.startswith("f leaves the real numbers")


def test_a_function_that_is_not_finite_is_no_referee():
    report = check_gradient(lambda w: jnp.nan * jnp.sum(w), lambda w: w * jnp.nan, (jnp.ones(3),))
    assert report.diagnosis == "f itself is not finite around here, so there is nothing to hold a gradient against"
