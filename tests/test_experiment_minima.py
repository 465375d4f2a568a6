"""Where gradient descent ends on XOR: the census, the symmetries it counts modulo, and the cost surface."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from experiments import _minima_census as census
from experiments import _minima_surface as surface
from experiments import _minima_symmetries as symmetries
from experiments import minima
from experiments.common import Verdict
from jaxnet.network import Layer

SMALL = minima.Settings(
    members=300, hidden=(2, 4), parity_members=100, parity_hidden=(2,), epochs=1000, longer=2, searches=100, pairs=30
)


@pytest.mark.slow
@pytest.mark.promotes
def test_where_networks_end():
    numbers, figures, claims = minima.run(SMALL)
    two, four = (numbers[f"XOR, {hidden} hidden units: global minimum"]["share"] for hidden in (2, 4))
    assert 0.6 < two < 0.85 < 0.97 < four
    assert set(numbers["XOR, 2 hidden units: census"]) <= {"1/8", "1/6", "1/4", "elsewhere"}
    assert numbers["XOR, 2 hidden units: census"]["1/8"]["plateau, units saturated"] > 20
    assert numbers["kinds of solution modulo symmetries"] == 2 < numbers["kinds of solution"]
    assert numbers["stationary points found"] > 10
    assert numbers["all weights zero: cost"] == 0.25
    barriers = [numbers[f"XOR, 4 hidden units: barrier{matched}, median"] for matched in ("", " after matching")]
    assert barriers[1] < barriers[0] / 2
    assert all(found["holds"] for found in numbers["gradient_agreement"].values())
    assert set(figures) == {"levels", "census", "surface", "paths"}
    verdicts = {claim.text.split(":")[0]: claim.verdict for claim in claims}
    assert verdicts["XOR with 2 hidden units has no finite local minimum"] == Verdict.HOLDS
    assert verdicts["More hidden units than 2 reach the global minimum of XOR more often."] == Verdict.HOLDS
    assert verdicts["What looks like a local minimum lies at infinity"] != Verdict.FAILS
    freed = "Most networks with 2 hidden units that look stuck get free in 2 times the steps."
    assert verdicts[freed] == Verdict.FAILS


@pytest.mark.slow
def test_nothing_on_a_level_and_no_two_solutions():
    settings = replace(SMALL, members=4, scale=0.01, hidden=(2, 3), parity_members=2, epochs=1, longer=1, looked_at=4)
    numbers, figures, claims = minima.run(replace(settings, searches=2, pairs=1))
    assert numbers["kinds of solution"] == 0
    assert "paths" not in figures
    verdicts = {claim.text.split(" ")[0]: claim.verdict for claim in claims}
    assert verdicts["Float64"] == verdicts["Most"] == Verdict.OPEN


# ----------------------------------------------------------------------------------------------------------------------
# Symmetries


def changed(params, order, signs):
    """The network with its units in another order, some of them with h → 1 − h: w h = w − w (1 − h), written out."""
    (weight, threshold), (W, bias) = (map(np.array, layer) for layer in params)
    for unit, sign in enumerate(signs):
        if sign < 0:
            bias += W[:, unit]
            weight[unit], threshold[unit], W[:, unit] = -weight[unit], -threshold[unit], -W[:, unit]
    order = list(order)
    return Layer(*map(jnp.asarray, (weight[order], threshold[order]))), Layer(*map(jnp.asarray, (W[:, order], bias)))


def equivalents(params):
    hidden = len(params[0].bias)
    for order in itertools.permutations(range(hidden)):
        for signs in itertools.product((1, -1), repeat=hidden):
            yield changed(params, order, signs)


def test_all_equivalent_networks_have_one_canonical_form_and_the_same_outputs(x64):
    params = jaxnet.init(jax.random.key(0), (3, 3, 2), scheme="normal")
    x = jax.random.normal(jax.random.key(1), (7, 3))
    expected = symmetries.canonical(params)
    assert (expected[1].weight[0] > 0).all()
    assert (jnp.diff(expected[1].weight[0]) > 0).all()
    found = list(equivalents(params))
    assert len(found) == 2**3 * 6
    for network in found:
        np.testing.assert_allclose(jaxnet.forward(network, x), jaxnet.forward(params, x), rtol=1e-13)
        form = symmetries.canonical(network)
        np.testing.assert_allclose(jaxnet.forward(form, x), jaxnet.forward(params, x), rtol=1e-13)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), form, expected)


def test_coordinates_and_back(x64):
    params = jaxnet.init(jax.random.key(0), (2, 4, 3), scheme="normal")
    back = symmetries.network(*symmetries.coordinates(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), back, params)


def test_matching_finds_the_nearest_of_all_equivalent_networks(x64):
    params, other = (jaxnet.init(jax.random.key(seed), (2, 3, 1), scheme="normal") for seed in (0, 1))

    def distance(network):
        return sum(
            float(jnp.sum((a - b) ** 2))
            for a, b in zip(symmetries.coordinates(network), symmetries.coordinates(other), strict=True)
        )

    matched = symmetries.match(params, other)
    assert distance(matched) == pytest.approx(min(map(distance, equivalents(params))), rel=1e-12)
    x = jaxnet.data.xor().x.astype(jnp.float64)
    np.testing.assert_allclose(jaxnet.forward(matched, x), jaxnet.forward(params, x), rtol=1e-13)


# ----------------------------------------------------------------------------------------------------------------------
# The census


def xor64():
    return jaxnet.data.Data(*(array.astype(jnp.float64) for array in jaxnet.data.xor()))


def ends(*networks):
    return census.end_points(jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks), jaxnet.data.xor())


@pytest.mark.promotes
def test_kinds_of_end_points(x64):
    """One of each kind that XOR has, at a place where it is known."""
    gates = Layer(jnp.array([[20.0, 20.0], [20.0, 20.0]]), jnp.array([-10.0, -30.0]))  # OR, AND
    solved = (gates, Layer(jnp.array([[20.0, -20.0]]), jnp.array([-10.0])))
    # Outputs 0, 2/3, 2/3, 2/3, all that OR allows: logit ln 2 where OR says yes; the other unit always says no.
    alone = Layer(jnp.array([[20.0, 20.0], [0.0, 0.0]]), jnp.array([-10.0, -30.0]))
    plateau = (alone, Layer(jnp.array([[30.0, 0.0]]), jnp.array([np.log(2) - 30])))
    moving = jaxnet.init(jax.random.key(0), (2, 2, 1), scheme="normal")
    found = census.stationary_points(jax.random.key(0), 20, 2, jaxnet.data.xor())
    theta = found.theta[np.argmin(found.point.eigenvalues[:, 0])]
    saddle = jax.flatten_util.ravel_pytree(moving)[1](jnp.asarray(theta))
    points = ends(solved, plateau, moving, saddle)
    kinds = [census.KINDS[kind] for kind in census.kinds(points, 20_000.0)]
    assert kinds == ["global minimum", "plateau, units saturated", "still descending", "saddle"]
    assert points.cost[1] == pytest.approx(1 / 6, abs=1e-3)
    assert [*census.LEVELS][census.on_level(points.cost)[1]] == "1/6"


@pytest.mark.promotes
def test_a_true_minimum_is_called_one():
    positive = jaxnet.curvature.StationaryPoint(
        eigenvalues=np.array([[0.1, 1.0]]),
        tolerance=np.array([1e-15]),
        index=np.array([0]),
        nullity=np.array([0]),
        gradient_norm=np.array([1e-9]),
        displacement=np.array([1e-8]),
        stationary=np.array([True]),
    )
    point = census.EndPoints(np.array([0.2]), positive, np.array([True]), np.zeros((1, 2, 4)), np.zeros((1, 2, 4)))
    assert census.KINDS[census.kinds(point, 1e4)[0]] == "local minimum"


def test_types_count_modulo_order_and_sign(x64):
    params = jaxnet.init(jax.random.key(3), (2, 3, 1), scheme="normal", scale=3.0)
    raw, modulo = census.types(ends(*equivalents(params)))
    assert modulo == 1
    assert raw >= 8


@pytest.mark.promotes
def test_stationary_points_are_stationary_by_automatic_differentiation(x64):
    data = xor64()
    found = census.stationary_points(jax.random.key(1), 50, 2, data)
    _, unravel = jax.flatten_util.ravel_pytree(jaxnet.init(jax.random.key(0), (2, 2, 1)))
    assert 5 < len(found.theta) <= found.searches == 50
    for theta, cost, lowest in zip(found.theta, found.cost, found.point.eigenvalues[:, 0], strict=True):

        def cost_at(theta):
            return jaxnet.cost(unravel(theta), *data)

        assert cost_at(theta) == pytest.approx(cost)
        assert cost > 0.01
        assert np.abs(jax.grad(cost_at)(jnp.asarray(theta))).max() < 1e-10
        assert np.linalg.eigvalsh(jax.hessian(cost_at)(jnp.asarray(theta)))[0] == pytest.approx(lowest, abs=1e-12)


# ----------------------------------------------------------------------------------------------------------------------
# The cost surface


def test_directions_are_as_long_as_each_units_weights(x64):
    params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="normal", scale=4.0)
    direction = surface._filter_normalised(jax.random.key(1), params)
    for own, random in zip(*map(jaxnet.to_augmented, (params, direction)), strict=True):
        np.testing.assert_allclose(jnp.linalg.norm(own, axis=1), jnp.linalg.norm(random, axis=1), rtol=1e-14)
    costs, along = surface.cost_slice(jax.random.key(2), params, xor64(), reach=1.0, points=5)
    assert along[2] == 0
    assert costs[2, 2] == pytest.approx(float(jaxnet.cost(params, *xor64())))


@pytest.mark.promotes
def test_no_barrier_between_equivalent_networks(x64):
    params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="normal", scale=4.0)
    other = changed(params, (2, 0, 1), (1, -1, 1))
    found = surface.paths(jax.tree.map(lambda *leaves: jnp.stack(leaves), other, params), jaxnet.data.xor())
    before, after = found.barriers
    assert before[0] > 0.01
    assert abs(after[0]) < 1e-14
    np.testing.assert_allclose(found.after, found.after[0, 0], rtol=1e-12)
    ends = [float(jaxnet.cost(network, *xor64())) for network in (other, params)]
    np.testing.assert_allclose(found.before[0, [0, -1]], ends, rtol=1e-12)


def test_parity():
    x, y = minima.parity(3)
    assert {tuple(map(int, (*word, *odd))) for word, odd in zip(x.tolist(), y.tolist(), strict=True)} == {
        (a, b, c, a ^ b ^ c) for a in (0, 1) for b in (0, 1) for c in (0, 1)
    }


@pytest.mark.promotes
@pytest.mark.parametrize("name", ["members", "longer", "pairs"])
def test_bad_settings(name):
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        minima.run(minima.Settings(**{name: 0}))
