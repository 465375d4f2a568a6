"""Curvature by hand against its definitions by automatic differentiation, and its own invariants."""

from dataclasses import replace
from types import SimpleNamespace

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ACTIVATIONS, OUTPUTS_AND_LOSSES, assert_close, name_of, problem
from hypothesis import given, settings
from jax.flatten_util import ravel_pytree

import jaxnet
from jaxnet import Layer, Network, activations, curvature, losses

TOLERANCE = 1e-10
# A network deep enough for every term with each activation, and a shallow one with each end.
NETS = [Network(h, *OUTPUTS_AND_LOSSES[i], l2=0.1) for i, h in enumerate(ACTIVATIONS.values())]
ENDS = [Network(activations.tanh, *end, l2=0.1) for end in OUTPUTS_AND_LOSSES]
SIZES = (3, 4, 3, 5, 2)

# Compiled once for all tests that share shapes; the checks of arguments run without.
STATIC = {"spectrum": ("steps", "probes"), "trace_estimate": "probes"}
compiled = SimpleNamespace(
    **{
        name: jax.jit(getattr(curvature, name), static_argnames=STATIC.get(name))
        for name in curvature.__all__
        if name.islower()
    }
)


def flat(tree):
    return ravel_pytree(tree)[0]


def case(net, *, sizes=SIZES, n=4, dtype="float64", seed=1, scale=1.0):
    params, x, y = problem(sizes, net, n=n, dtype=dtype, seed=seed, scale=scale)
    v, *_ = problem(sizes, net, dtype=dtype, seed=seed + 1)
    return params, x, y, v, jax.random.uniform(jax.random.key(seed), (n,), dtype)


def kind(net):
    return net.hidden, net.output, net.loss


def l2_matrix(params, net):
    return jnp.diag(flat([Layer(net.l2 * jnp.ones_like(w), jnp.zeros_like(b)) for w, b in params]))


def by_definition(params, x, y, net, weights):
    """(Hessian, Gauss-Newton, Fisher, empirical Fisher), each as a matrix."""
    theta, unravel = ravel_pytree(params)
    shares = weights / weights.sum()
    hessian = jax.hessian(lambda t: jaxnet.cost(unravel(t), x, y, net, weights))(theta)
    to_loss = net if net.loss.link is None else replace(net, output=activations.identity)
    jacobians = jax.vmap(jax.jacrev(lambda t, x: jaxnet.forward(unravel(t), x, to_loss)), (None, 0))(theta, x)
    z = jaxnet.forward(params, x, to_loss)
    bends = jax.vmap(jax.hessian(net.loss.value))(z, y)
    ggn = jnp.einsum("n,nka,nkl,nlb->ab", shares, jacobians, bends, jacobians)
    predicted = expected_squares(net, z)
    fisher = jnp.einsum("n,nka,nkl,nlb->ab", shares, jacobians, predicted, jacobians)
    each = jax.vmap(jax.grad(lambda t, x, y: jaxnet.cost(unravel(t), x, y, replace(net, l2=0.0))), (None, 0, 0))
    gradients = each(theta, x, y)
    empirical = jnp.einsum("n,na,nb->ab", shares, gradients, gradients)
    return hessian, *(matrix + l2_matrix(params, net) for matrix in (ggn, fisher, empirical))


def expected_squares(net, z):
    """E[∇ log p ∇ log pᵀ] by z, summed over the targets that the network itself would draw; (n, outputs, outputs)."""
    outputs = z.shape[1]
    if net.loss is losses.squared_error:  # Gaussian of variance 1/2: E[2(y − z) 2(y − z)ᵀ]
        return jnp.broadcast_to(2 * jnp.eye(outputs), (len(z), outputs, outputs))
    if net.loss is losses.softmax_cross_entropy:
        targets, log_p = jnp.eye(outputs), jax.nn.log_softmax(z)
    else:
        targets = jnp.stack(jnp.meshgrid(*[jnp.array([0.0, 1.0])] * outputs), axis=-1).reshape(-1, outputs)
        log_p = -jax.vmap(lambda y: net.loss.value(z, jnp.broadcast_to(y, z.shape)), out_axes=1)(targets)
    scores = jax.vmap(lambda y: net.loss.derivative(z, jnp.broadcast_to(y, z.shape)), out_axes=1)(targets)
    return jnp.einsum("nt,ntk,ntl->nkl", jnp.exp(log_p), scores, scores)


@pytest.mark.parametrize(
    ("net", "sizes"),
    [(net, SIZES) for net in NETS] + [(net, (3, 4, 2)) for net in ENDS],
    ids=lambda value: (
        f"{value.hidden.name}-{value.output.name}-{value.loss.name}" if isinstance(value, Network) else ""
    ),
)
def test_everything_is_its_definition(net, sizes, x64):
    params, x, y, v, weights = case(net, sizes=sizes)

    @jax.jit
    def ours(params, x, y, v, weights):
        return {
            "hessian": curvature.hessian(params, x, y, net, weights),
            "hvp": flat(curvature.hvp(params, x, y, v, net, weights)),
            "ggn_vp": flat(curvature.ggn_vp(params, x, y, v, net, weights)),
            "fisher_vp": flat(curvature.fisher_vp(params, x, v, net, weights)),
            "empirical_fisher_vp": flat(curvature.empirical_fisher_vp(params, x, y, v, net, weights)),
            "ggn_diagonal": flat(curvature.ggn_diagonal(params, x, y, net, weights)),
            "hessian_diagonal": flat(curvature.hessian_diagonal(params, x, y, net, weights)),
            "trace": curvature.trace(params, x, y, net, weights),
        }

    @jax.jit
    def expected(params, x, y, v, weights):
        hessian, ggn, fisher, empirical = by_definition(params, x, y, net, weights)
        along = flat(v)
        return {
            "hessian": hessian,
            "hvp": hessian @ along,
            "ggn_vp": ggn @ along,
            "fisher_vp": fisher @ along,
            "empirical_fisher_vp": empirical @ along,
            "ggn_diagonal": jnp.diag(ggn),
            "hessian_diagonal": jnp.diag(hessian),
            "trace": jnp.trace(hessian),
        }

    assert_close(ours(params, x, y, v, weights), expected(params, x, y, v, weights), TOLERANCE)


def test_float32():
    net = ENDS[-2]
    params, x, y, v, weights = case(net, dtype="float32")
    found = compiled.hvp(params, x, y, v, net, weights)
    expected = jax.jit(lambda p: jax.jvp(lambda p: jax.grad(jaxnet.cost)(p, x, y, net, weights), (p,), (v,))[1])(params)
    assert_close(flat(found), flat(expected), 1e-4)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    diagonal = compiled.hessian_diagonal(params, x, y, net, weights)
    assert_close(flat(diagonal), jnp.diag(compiled.hessian(params, x, y, net, weights)), 1e-4)


@pytest.mark.slow
@settings(max_examples=5)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
    n=st.integers(1, 5),
    hidden=st.sampled_from(list(ACTIVATIONS.values())),
    end=st.sampled_from(OUTPUTS_AND_LOSSES),
    l2=st.sampled_from([0.0, 0.3]),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
    seed=st.integers(0, 2**16),
)
def test_random_networks(sizes, n, hidden, end, l2, scale, seed):
    with jax.enable_x64(True):
        net = Network(hidden, *end, l2=l2)
        params, x, y, v, weights = case(net, sizes=sizes, n=n, seed=seed, scale=scale)
        theta, unravel = ravel_pytree(params)

        @jax.jit
        def both(theta, v):
            gradient = jax.grad(lambda t: jaxnet.cost(unravel(t), x, y, net, weights))
            columns = jax.vmap(lambda e: jax.jvp(gradient, (theta,), (e,))[1])(jnp.eye(theta.size))
            ours = curvature.hvp(unravel(theta), x, y, v, net, weights)
            diagonal = curvature.hessian_diagonal(unravel(theta), x, y, net, weights)
            return (flat(ours), flat(diagonal)), (columns @ flat(v), jnp.diag(columns)), jnp.abs(columns).max()

        found, expected, size = both(theta, v)
        for a, b in zip(found, expected, strict=True):
            assert float(jnp.abs(a - b).max()) <= TOLERANCE * max(float(size), 1e-3)


# Invariants


@given(seed=st.integers(0, 1000))
@settings(max_examples=8)
def test_the_hessian_is_symmetric_and_gauss_newton_is_semidefinite(seed):
    with jax.enable_x64(True):
        net = Network(activations.softplus, activations.softmax, losses.softmax_cross_entropy)
        params, x, y, u, _ = case(net, sizes=(3, 4, 2), seed=seed)
        v, *_ = problem((3, 4, 2), net, dtype="float64", seed=seed + 7)
        along_u, along_v = (flat(compiled.hvp(params, x, y, w, net)) for w in (u, v))
        assert_close(flat(u) @ along_v, flat(v) @ along_u, 1e-9)
        assert flat(v) @ flat(compiled.ggn_vp(params, x, y, v, net)) >= 0
        assert min(flat(compiled.ggn_diagonal(params, x, y, net))) >= -1e-15


def test_linear_in_the_direction_and_in_the_mean(x64):
    net = Network(activations.tanh, l2=0.2)
    params, x, y, v, _ = case(net)
    whole = flat(compiled.hvp(params, x, y, v, net))
    assert_close(flat(compiled.hvp(params, x, y, jax.tree.map(lambda leaf: -3 * leaf, v), net)), -3 * whole)
    parts = [flat(compiled.hvp(params, x[i], y[i], v, net)) for i in range(4)]
    assert_close(whole, sum(parts) / 4)


def test_leading_axes_stand_for_examples(x64):
    net = Network(activations.tanh, l2=0.2)
    params, x, y, v, weights = case(net)
    shaped = x.reshape(2, 2, 3), y.reshape(2, 2, 2)
    for product in (compiled.hvp, compiled.ggn_vp, compiled.empirical_fisher_vp):
        assert_close(
            flat(product(params, *shaped, v, net, weights.reshape(2, 2))), flat(product(params, x, y, v, net, weights))
        )
    for diagonal in (compiled.ggn_diagonal, compiled.hessian_diagonal, compiled.kfac):
        assert_close(flat(diagonal(params, *shaped, net)), flat(diagonal(params, x, y, net)))


def test_under_vmap_and_structure(x64):
    net = Network(activations.tanh, l2=0.2)
    params, x, y, v, _ = case(net)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), v)
    mapped = jax.vmap(lambda v: compiled.hvp(params, x, y, v, net))(many)
    one = compiled.hvp(params, x, y, v, net)
    assert_close(jax.tree.map(lambda leaf: leaf[1], mapped), jax.tree.map(lambda leaf: 2 * leaf, one))
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), params)
    diagonals = jax.vmap(lambda p: compiled.hessian_diagonal(p, x, y, net))(members)
    assert_close(jax.tree.map(lambda leaf: leaf[0], diagonals), compiled.hessian_diagonal(params, x, y, net))
    assert jax.tree.structure(one) == jax.tree.structure(params)
    assert isinstance(compiled.hvp(list(params), x, y, v, net), list)


def test_no_weight_at_all_leaves_the_penalty(x64):
    net = Network(l2=0.5)
    params, x, y, v, _ = case(net)
    for product in (compiled.hvp, compiled.ggn_vp, compiled.empirical_fisher_vp):
        found = product(params, x, y, v, net, jnp.zeros(4))
        assert_close([layer.weight for layer in found], [0.5 * layer.weight for layer in v])
        assert all((layer.bias == 0).all() for layer in found)


def test_relu_network_bends_only_at_the_end(x64):
    """Piecewise linear: the Hessian's diagonal is that of Gauss-Newton."""
    net = Network(activations.relu, activations.softmax, losses.softmax_cross_entropy)
    params, x, y, *_ = case(net)
    assert_close(
        flat(compiled.hessian_diagonal(params, x, y, net)), flat(compiled.ggn_diagonal(params, x, y, net)), 1e-11
    )


def test_sharded_over_examples(x64):
    """On a mesh of one device: the examples' axis may be sharded."""
    mesh = jax.make_mesh((1,), ("examples",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("examples"))
    net = Network(activations.tanh)
    params, x, y, v, _ = case(net)
    found = jax.jit(compiled.hvp)(params, jax.device_put(x, rows), jax.device_put(y, rows), v, net)
    assert_close(flat(found), flat(compiled.hvp(params, x, y, v, net)))


# Kronecker factors


def augmented_block(matrix, params, l):
    """The block of layer l over the entries of [W | b], row by row."""
    at, rows = 0, []
    for i, (weight, _) in enumerate(params):
        units, inputs = weight.shape
        index = np.concatenate(
            [
                np.arange(at, at + units * inputs).reshape(units, inputs),
                np.arange(at + units * inputs, at + units * (inputs + 1))[:, None],
            ],
            axis=1,
        )
        if i == l:
            rows = index.ravel()
        at += units * (inputs + 1)
    return matrix[jnp.ix_(rows, rows)]


@pytest.mark.parametrize("end", [OUTPUTS_AND_LOSSES[0], *OUTPUTS_AND_LOSSES[-4:]], ids=name_of)
def test_kfac_is_exact_for_one_example(end, x64):
    net = Network(activations.tanh, *end)
    params, x, y, *_ = case(net, sizes=(3, 4, 2), n=1)
    _, ggn, *_ = by_definition(params, x, y, net, jnp.ones(1))
    for l, (inputs, outputs) in enumerate(compiled.kfac(params, x, y, net)):
        assert_close(jnp.kron(outputs, inputs), augmented_block(ggn, params, l), TOLERANCE)


def test_kfac_is_exact_for_a_linear_layer_and_weighted(x64):
    net = Network(output=activations.identity)
    params, x, y, _, weights = case(net, sizes=(3, 2), n=6)
    _, ggn, *_ = by_definition(params, x, y, net, weights)
    ((inputs, outputs),) = compiled.kfac(params, x, y, net, weights)
    assert_close(jnp.kron(outputs, inputs), augmented_block(ggn, params, 0), TOLERANCE)
    assert_close(outputs, 2 * jnp.eye(2))


# Spectra


def test_lanczos_finds_the_whole_spectrum(x64):
    net = Network(activations.tanh, l2=0.1)
    params, x, y, _, weights = case(net, sizes=(2, 3, 1))
    exact = jnp.linalg.eigvalsh(compiled.hessian(params, x, y, net, weights))
    found = compiled.spectrum(params, x, y, net, weights, key=jax.random.key(0), steps=99, probes=2)
    assert_close(found.eigenvalues, jnp.broadcast_to(exact, (2, 13)), 1e-9)
    assert_close(found.weights.sum(axis=1), jnp.ones(2))
    assert_close(found.smallest, exact[0], 1e-9)
    assert_close(found.largest, exact[-1], 1e-9)


def test_lanczos_goes_on_where_a_space_is_exhausted(x64):
    """A Hessian with few distinct eigenvalues: l2 on the weights, and zero on the biases."""
    net = Network(activations.relu, l2=0.5)
    params, x, y, *_ = case(net, sizes=(2, 3, 1))
    found = compiled.spectrum(params, x, y, net, jnp.zeros(4), key=jax.random.key(0), steps=13, probes=1)
    np.testing.assert_allclose(found.eigenvalues[0], [0.0] * 4 + [0.5] * 9, atol=1e-14)


def test_extremes_converge_first_and_errors_bound(dtype):
    params, x, y, *_ = case(Network(), sizes=(4, 10, 3), n=20, dtype=dtype)
    exact = jnp.linalg.eigvalsh(compiled.hessian(params, x, y))
    found = compiled.spectrum(params, x, y, key=jax.random.key(3), steps=25, probes=1)
    assert_close(found.largest, exact[-1], 1e-5)
    assert found.smallest >= exact[0] * (1 + 1e-5)
    nearest = jnp.min(jnp.abs(found.eigenvalues[0][:, None] - exact[None]), axis=1)
    slack = 100 * jnp.finfo(dtype).eps * jnp.abs(exact).max()
    assert (nearest <= found.errors[0] + slack).all()


def test_density(x64):
    params, x, y, *_ = case(Network(), sizes=(4, 6, 3), n=20)
    exact = jnp.linalg.eigvalsh(compiled.hessian(params, x, y))
    found = compiled.spectrum(params, x, y, key=jax.random.key(3), steps=24, probes=60)
    points = jnp.linspace(exact[0] - 1, exact[-1] + 1, 401)
    density = found.density(points, 0.1)
    assert density.shape == points.shape
    assert float(jnp.trapezoid(density, points)) == pytest.approx(1, abs=1e-6)
    bells = jnp.exp(-(((points[:, None] - exact[None]) / 0.1) ** 2) / 2) / (0.1 * (2 * jnp.pi) ** 0.5)
    smoothed = jnp.mean(bells, axis=1)
    assert float(jnp.abs(density - smoothed).max()) < 0.1 * float(smoothed.max())
    assert float(found.density(points[200], 0.1)) == pytest.approx(float(density[200]))
    with pytest.raises(ValueError, match="width is 0.0, expected a number > 0"):
        found.density(points, 0.0)


def test_trace_estimate_is_unbiased_with_an_honest_error(x64):
    net = Network(activations.tanh, l2=0.1)
    params, x, y, _, weights = case(net, sizes=(3, 4, 2))
    exact = compiled.trace(params, x, y, net, weights)
    value, error = compiled.trace_estimate(params, x, y, net, weights, key=jax.random.key(0), probes=2000)
    assert abs(value - exact) < 4 * error
    matrix = compiled.hessian(params, x, y, net, weights)
    variance = 2 * (jnp.sum(matrix**2) - jnp.sum(jnp.diag(matrix) ** 2))
    assert float(error) == pytest.approx(float((variance / 2000) ** 0.5), rel=0.1)
    assert jnp.isnan(compiled.trace_estimate(params, x, y, key=jax.random.key(0), probes=1).standard_error)


# Stationary points


def test_a_minimum(x64):
    """Linear least squares: the normal equations give the minimum, and a step away is no stationary point."""
    net = Network(output=activations.identity)
    x = jax.random.normal(jax.random.key(0), (9, 3))
    y = jax.random.normal(jax.random.key(1), (9, 2))
    solution, *_ = jnp.linalg.lstsq(jnp.column_stack([x, jnp.ones(9)]), y)
    params = jaxnet.from_augmented([solution.T])
    point = compiled.is_minimum(params, x, y, net)
    assert point
    assert (int(point.index), int(point.nullity), bool(point.stationary)) == (0, 0, True)
    moved = jax.tree.map(lambda leaf: leaf + 0.01, params)
    assert not compiled.is_minimum(moved, x, y, net)
    assert not compiled.is_minimum(moved, x, y, net).stationary


def test_a_saddle_and_an_undecided_point(x64):
    """ŷ = w₂ tanh(w₁ x) at zero: the Hessian is [[0, c], [c, 0]] in (w₁, w₂), and the second bias is not fitted."""
    net = Network(activations.tanh, activations.identity)
    params = jaxnet.init(jax.random.key(0), (1, 1, 1), scheme="zeros", dtype="float64")
    x = jnp.array([[-1.0], [1.0]])
    saddle = compiled.is_minimum(params, x, x, net)
    assert bool(saddle.stationary)
    assert int(saddle.index) == 1
    assert int(saddle.nullity) == 1  # the first bias
    assert not saddle
    undecided = compiled.is_minimum(params, x, jnp.zeros((2, 1)), net)
    assert (int(undecided.index), int(undecided.nullity)) == (0, 3)
    assert not undecided


def test_the_index_of_the_plateau_of_xor(x64):
    """All weights zero, outputs 1/2: stationary, and undecided by second derivatives."""
    params = jaxnet.init(jax.random.key(0), (2, 2, 1), scheme="zeros", dtype="float64")
    x, y = (array.astype("float64") for array in jaxnet.data.xor())
    point = compiled.is_minimum(params, x, y)
    assert bool(point.stationary)
    assert int(point.index) + int(point.nullity) < 9


# Arguments


def test_a_missing_second_derivative_is_named(x64):
    root = activations.Activation("root", jnp.sqrt, lambda h, v: v / (2 * h))
    net = Network(root, activations.identity)
    params, x, y, v, _ = case(Network(), sizes=(3, 4, 2))
    params, x, v = jax.tree.map(jnp.abs, (params, x, v))
    message = r"Activation\(name='root'\) has no second derivative, .* give it times_second"
    with pytest.raises(ValueError, match=message):
        curvature.hvp(params, x, y, v, net)
    with pytest.raises(ValueError, match=message):
        curvature.hessian_diagonal(params, x, y, net)
    assert curvature.ggn_diagonal(params, x, y, net)[0].weight.shape == (4, 3)
    flat_loss = losses.Loss("own", losses.squared_error.value, losses.squared_error.derivative)
    with pytest.raises(ValueError, match="Loss.name='own'.* has no second derivative"):
        curvature.ggn_vp(params, x, y, v, Network(loss=flat_loss))


def test_an_own_activation_with_second_derivative(x64):
    root = activations.Activation("root", jnp.sqrt, lambda h, v: v / (2 * h), lambda h, c, v: -c * v / (4 * h**3))
    net = Network(root, activations.identity)
    params, x, y, v, _ = jax.tree.map(jnp.abs, case(Network(), sizes=(3, 4, 2)))
    expected = jax.jvp(lambda p: jax.grad(jaxnet.cost)(p, x, y, net), (params,), (v,))[1]
    assert_close(flat(curvature.hvp(params, x, y, v, net)), flat(expected), TOLERANCE)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda v: v[:1], TypeError, "v is a tuple of 1, expected a tuple of 2 jaxnet.Layer"),
        (lambda v: jnp.ones(3), TypeError, "v is an array of float32 with shape .3,., expected a tuple of 2"),
        (lambda v: (v[0], Layer(v[1].weight.T, v[1].bias)), ValueError, r"v\[1\].weight has shape \(4, 2\), expected"),
        (lambda v: jax.tree.map(lambda a: a.astype("float16"), v), TypeError, r"v\[0\].weight has dtype float16"),
        (lambda v: (v[0], Layer(v[1].weight, 3)), TypeError, r"v\[1\].bias is a int, expected an array of floats"),
    ],
)
def test_directions_are_checked(wrong, error, message):
    params, x, y, v, _ = case(Network(), sizes=(3, 4, 2), dtype="float32")
    for product in (curvature.hvp, curvature.ggn_vp, curvature.empirical_fisher_vp):
        with pytest.raises(error, match=message):
            product(params, x, y, wrong(v))
    with pytest.raises(error, match=message):
        curvature.fisher_vp(params, x, wrong(v))


def test_other_arguments_are_checked():
    params, x, y, v, _ = case(Network(), sizes=(3, 4, 2), dtype="float32")
    with pytest.raises(ValueError, match="x has 2 features"):
        curvature.fisher_vp(params, x[:, :2], v)
    with pytest.raises(ValueError, match="y has shape"):
        curvature.hessian(params, x, y[:2])
    with pytest.raises(TypeError, match="key is a int"):
        curvature.spectrum(params, x, y, key=0)
    with pytest.raises(ValueError, match="steps is 0"):
        curvature.spectrum(params, x, y, key=jax.random.key(0), steps=0)
    with pytest.raises(TypeError, match="probes is 1.5"):
        curvature.trace_estimate(params, x, y, key=jax.random.key(0), probes=1.5)
    with pytest.raises(TypeError, match="net is a str"):
        curvature.ggn_diagonal(params, x, y, "net")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_eigenvalues_of_half_precision(dtype):
    params, x, y = problem((3, 2), dtype=dtype)
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, x, y))
    point, expected = curvature.is_minimum(params, x, y), curvature.is_minimum(*exact)
    np.testing.assert_allclose(point.eigenvalues[-1], expected.eigenvalues[-1], rtol=5e-2)
    found, wanted = (curvature.spectrum(*given, key=jax.random.key(1)) for given in ((params, x, y), exact))
    np.testing.assert_allclose(found.largest, wanted.largest, rtol=5e-2)
