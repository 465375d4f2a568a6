"""The tangent kernel against contracted Jacobians."""

import jax
import jax.numpy as jnp
import pytest
from helpers import ACTIVATIONS, assert_close, problem

import jaxnet
from jaxnet import Network, activations, kernel

NETS = [Network(h, activations.tanh) for h in ACTIVATIONS.values()] + [
    Network(activations.tanh, output) for output in ACTIVATIONS.values()
]
SIZES = (3, 4, 5, 2)


def by_jacobians(params, x1, x2, net):
    """(n1, n2, outputs, outputs)."""
    jacobians = [
        jax.tree.leaves(jax.vmap(jax.jacrev(lambda p, x: jaxnet.forward(p, x, net)), (None, 0))(params, x))
        for x in (x1, x2)
    ]
    return sum(
        jnp.einsum("ikw,jlw->ijkl", a.reshape(*a.shape[:2], -1), b.reshape(*b.shape[:2], -1))
        for a, b in zip(*jacobians, strict=True)
    )


@pytest.mark.parametrize("net", NETS, ids=lambda net: f"{net.hidden.name}-{net.output.name}")
def test_everything_is_its_definition(net, x64):
    params, x1, _ = problem(SIZES, net, n=5, dtype="float64", seed=1, scale=0.5)
    _, x2, v = problem(SIZES, net, n=3, dtype="float64", seed=2)

    @jax.jit
    def ours(params, x1, x2, v):
        return [
            kernel.empirical_ntk(params, x1, x2, net),
            kernel.empirical_ntk(params, x1, None, net),
            kernel.empirical_ntk(params, x1, x2, net, outputs="diagonal"),
            kernel.empirical_ntk(params, x1, x2, net, outputs="trace"),
            kernel.ntk_vp(params, x1, v, x2, net),
            kernel.ntk_vp(params, x2, v, net=net),
        ]

    @jax.jit
    def expected(params, x1, x2, v):
        across, within = by_jacobians(params, x1, x2, net), by_jacobians(params, x2, x2, net)
        return [
            across,
            by_jacobians(params, x1, x1, net),
            jnp.einsum("ijkk->ijk", across),
            jnp.einsum("ijkk->ij", across),
            jnp.einsum("ijkl,jl->ik", across, v),
            jnp.einsum("ijkl,jl->ik", within, v),
        ]

    assert_close(ours(params, x1, x2, v), expected(params, x1, x2, v), 1e-10)


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("block_size", [2, 5, 99])
def test_blocks_change_nothing(outputs, block_size, x64):
    params, x1, _ = problem(SIZES, n=5, dtype="float64")
    _, x2, _ = problem(SIZES, n=4, dtype="float64", seed=1)
    for second in (None, x2):
        whole = kernel.empirical_ntk(params, x1, second, outputs=outputs)
        assert_close(kernel.empirical_ntk(params, x1, second, outputs=outputs, block_size=block_size), whole)


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
def test_the_dtype_is_that_of_the_parameters(outputs, x64):
    params, x, _ = problem(SIZES, n=3, dtype="float32")
    assert kernel.empirical_ntk(params, x, outputs=outputs).dtype == jnp.float32


def test_float32():
    params, x, y = problem(SIZES, dtype="float32")
    found = kernel.empirical_ntk(params, x)
    assert_close(found, by_jacobians(params, x, x, Network()))
    assert found.dtype == jnp.float32
    assert_close(kernel.ntk_vp(params, x, y), jnp.einsum("ijkl,jl->ik", found, y), 1e-4)


def test_symmetric_and_semidefinite(x64):
    params, x, _ = problem(SIZES, dtype="float64")
    theta = kernel.empirical_ntk(params, x)
    assert_close(theta, theta.transpose(1, 0, 3, 2))
    matrix = theta.transpose(0, 2, 1, 3).reshape(14, 14)
    assert jnp.linalg.eigvalsh(matrix)[0] > -1e-12 * jnp.abs(matrix).max()


def test_a_linear_layer_has_the_kernel_of_its_inputs(x64):
    net = Network(output=activations.identity)
    params, x, _ = problem((3, 1), net, dtype="float64")
    assert_close(kernel.empirical_ntk(params, x, net=net)[..., 0, 0], x @ x.T + 1)


def test_a_small_gradient_step_moves_outputs_by_the_kernel(x64):
    """dŷ/dt = −Θ ∂J/∂ŷ along the gradient flow."""
    net = Network(activations.tanh, activations.identity)
    params, x, y = problem(SIZES, net, dtype="float64", scale=0.3)
    rate = 1e-6
    stepped, _ = jaxnet.sgd_step(params, x, y, rate, net)
    moved = (jaxnet.forward(stepped, x, net) - jaxnet.forward(params, x, net)) / rate
    slope = 2 * (jaxnet.forward(params, x, net) - y) / len(x)
    assert_close(moved, -kernel.ntk_vp(params, x, slope, net=net), 1e-4)


def test_under_vmap_over_members(x64):
    _, x, _ = problem(SIZES, dtype="float64")
    members = jax.vmap(lambda key: jaxnet.init(key, SIZES, dtype="float64"))(jax.random.split(jax.random.key(0), 2))
    mapped = jax.vmap(lambda p: kernel.empirical_ntk(p, x))(members)
    assert_close(mapped[1], kernel.empirical_ntk(jax.tree.map(lambda leaf: leaf[1], members), x))


def test_arguments_are_checked():
    params, x, y = problem(SIZES)
    with pytest.raises(ValueError, match="x1: x has 2 features"):
        kernel.empirical_ntk(params, x[:, :2])
    with pytest.raises(ValueError, match="x2: x has 2 features"):
        kernel.empirical_ntk(params, x, x[:, :2])
    with pytest.raises(ValueError, match=r"x1 has shape \(3,\), expected \(n, inputs\)"):
        kernel.ntk_vp(params, x[0], y[0])
    with pytest.raises(ValueError, match="outputs is 'all', expected one of diagonal, full, trace"):
        kernel.empirical_ntk(params, x, outputs="all")
    with pytest.raises(ValueError, match="block_size is 0"):
        kernel.empirical_ntk(params, x, block_size=0)
    with pytest.raises(ValueError, match=r"v has shape \(3, 2\), expected \(7, 2\)"):
        kernel.ntk_vp(params, x, y[:3])
    with pytest.raises(TypeError, match="v has dtype float16"):
        kernel.ntk_vp(params, x, y.astype("float16"))
