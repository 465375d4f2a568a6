import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.check import compare


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


def test_bad_comparisons():
    with pytest.raises(ValueError, match="actual has the structure"):
        compare([jnp.ones(2)], (jnp.ones(2),))
    with pytest.raises(ValueError, match=r"actual\[0\] has shape \(3,\), expected \(2,\)"):
        compare([jnp.ones(3)], [jnp.ones(2)])
    with pytest.raises(ValueError, match="no arrays"):
        compare((), ())
    with pytest.raises(ValueError, match=r"expected\[0\] is empty"):
        compare([jnp.ones(0)], [jnp.ones(0)])
