"""The gradient by hand against automatic differentiation, PyTorch, and its own invariants."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ACTIVATIONS, OUTPUTS_AND_LOSSES, assert_close, name_of, problem
from hypothesis import given

import jaxnet
from jaxnet import Network, activations, losses

DEPTHS = [(3, 2), (3, 60, 2), (3, 4, 6, 5, 2)]  # 60: wide enough for its products to go examples first


@jax.jit
def both(params, x, y, net, weights):
    return jaxnet.backprop(params, x, y, net, weights), jaxnet.autodiff(params, x, y, net, weights)


@pytest.mark.parametrize("hidden", ACTIVATIONS.values(), ids=name_of)
@pytest.mark.parametrize("end", OUTPUTS_AND_LOSSES, ids=name_of)
def test_every_activation_loss_depth_and_dtype(hidden, end, dtype):
    net = Network(hidden, *end, l2=0.1)
    for sizes in DEPTHS if hidden == activations.sigmoid else DEPTHS[-1:]:
        # A seed without a layer whose gradient is all cancellation, such as those that follow a sum over softmax.
        params, x, y = problem(sizes, net, dtype=dtype, seed=1)
        by_hand = jaxnet.backprop(params, x, y, net)
        assert_close(by_hand, jaxnet.autodiff(params, x, y, net))
        assert jax.tree.structure(by_hand[1]) == jax.tree.structure(params)
        assert {leaf.dtype for leaf in jax.tree.leaves(by_hand)} == {dtype}


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple),
    n=st.integers(1, 9) | st.integers(31, 33),  # from 32 on as columns
    hidden=st.sampled_from(list(ACTIVATIONS.values())),
    end=st.sampled_from(OUTPUTS_AND_LOSSES),
    l2=st.sampled_from([0.0, 0.3]),
    scale=st.sampled_from([0.1, 1.0, 4.0]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_random_networks(sizes, n, hidden, end, l2, scale, weighted, seed):
    with jax.enable_x64(True):
        net = Network(hidden, *end, l2=l2)
        params, x, y = problem(sizes, net, n=n, dtype="float64", seed=seed, scale=scale)
        weights = jax.random.uniform(jax.random.key(seed), (n,)) if weighted else None
        (value, grads), (expected_value, expected) = both(params, x, y, net, weights)
        assert_close(value, expected_value)
        # Relative to the whole gradient: where every error cancels, a small layer has no digits of its own.
        size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            assert float(jnp.abs(a - b).max()) <= 1e-12 * max(size, 1e-3)


def test_cost_is_the_lectures_mean_square():
    params, x, y = problem((3, 4, 2))
    expected = np.mean(np.sum((np.asarray(jaxnet.forward(params, x)) - np.asarray(y)) ** 2, axis=1))
    assert float(jaxnet.cost(params, x, y)) == pytest.approx(expected, rel=1e-6)
    squares = sum(float((layer.weight**2).sum()) for layer in params)
    penalised = jaxnet.cost(params, x, y, Network(l2=0.5))
    assert float(penalised) == pytest.approx(expected + 0.25 * squares, rel=1e-6)


@pytest.mark.parametrize("net", [Network(activations.tanh, *end) for end in OUTPUTS_AND_LOSSES], ids=str)
def test_finite_at_preactivations_of_a_thousand(net, dtype):
    params, x, y = problem((3, 2), net, dtype=dtype, scale=1000.0)
    value, grads = jaxnet.backprop(params, x, y, net)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((value, grads)))
    assert_close((value, grads), jaxnet.autodiff(params, x, y, net))


def test_against_pytorch(x64):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is an independent witness")
    cases = [
        (Network(activations.tanh, activations.sigmoid), lambda a, y: ((torch.sigmoid(a) - y) ** 2).sum(1).mean()),
        (
            Network(activations.softplus, activations.sigmoid, losses.cross_entropy),
            lambda a, y: torch.nn.functional.binary_cross_entropy_with_logits(a, y, reduction="none").sum(1).mean(),
        ),
        (
            Network(activations.relu, activations.softmax, losses.softmax_cross_entropy),
            torch.nn.functional.cross_entropy,
        ),
    ]
    for net, torch_cost in cases:
        params, x, y = problem((3, 4, 5, 2), net, dtype="float64")
        leaves = [torch.tensor(np.array(leaf), requires_grad=True) for leaf in jax.tree.leaves(params)]
        h = torch.tensor(np.array(x))
        hidden = {"tanh": torch.tanh, "softplus": torch.nn.functional.softplus, "relu": torch.relu}[net.hidden.name]
        for i in range(3):
            a = torch.nn.functional.linear(h, leaves[2 * i], leaves[2 * i + 1])
            h = hidden(a)
        value = torch_cost(a, torch.tensor(np.array(y)))
        value.backward()
        ours = jaxnet.backprop(params, x, y, net)
        theirs = [leaf.grad.numpy() for leaf in leaves]
        assert_close(ours[0], value.detach().numpy())
        assert_close(jax.tree.leaves(ours[1]), theirs)


# Signals


@pytest.mark.parametrize("end", OUTPUTS_AND_LOSSES, ids=name_of)
def test_deltas_are_derivatives_by_preactivations(end, x64):
    """Adding ε to a bias shifts that pre-activation of every example: δ is the gradient of each example's loss by b."""
    net = Network(activations.tanh, *end)
    params, x, y = problem((3, 4, 2), net, dtype="float64")
    activations_, deltas = jaxnet.signals(params, x, y, net)
    each = jax.vmap(jax.grad(jaxnet.cost), in_axes=(None, 0, 0, None))(params, x, y, net)
    assert_close([layer.bias for layer in each], list(deltas))
    assert [h.shape for h in activations_] == [(7, 3), (7, 4), (7, 2)]
    assert (activations_[0] == x).all()
    assert_close(activations_[-1], jaxnet.forward(params, x, net))


def test_gradient_is_a_contraction_of_the_signals(dtype):
    params, x, y = problem((3, 4, 2), dtype=dtype)
    activations_, deltas = jaxnet.signals(params, x, y)
    _, grads = jaxnet.backprop(params, x, y)
    for layer, h, delta in zip(grads, activations_, deltas, strict=False):
        assert_close(layer.weight, delta.T @ h / 7)
        assert_close(layer.bias, delta.mean(axis=0))


@pytest.mark.parametrize("end", OUTPUTS_AND_LOSSES, ids=name_of)
def test_input_gradient(end, dtype):
    net = Network(activations.softplus, *end)
    params, x, y = problem((3, 4, 2), net, dtype=dtype)
    expected = jax.vmap(jax.grad(jaxnet.cost, argnums=1), in_axes=(None, 0, 0, None))(params, x, y, net)
    assert_close(jaxnet.input_gradient(params, x, y, net), expected)


# Under JAX's transformations


def test_single_example_and_leading_axes(x64):
    params, x, y = problem((3, 4, 2), dtype="float64", n=6)
    weights = jax.random.uniform(jax.random.key(9), (6,))
    flat = jaxnet.backprop(params, x, y, Network(l2=0.1), weights)
    shaped = jaxnet.backprop(params, x.reshape(2, 3, 3), y.reshape(2, 3, 2), Network(l2=0.1), weights.reshape(2, 3))
    assert_close(shaped, flat)
    assert_close(jaxnet.backprop(params, x[0], y[0]), jaxnet.backprop(params, x[:1], y[:1]))
    assert jaxnet.forward(params, x[0]).shape == (2,)
    assert jaxnet.forward(params, x[:0]).shape == (0, 2)


def test_jit_vmap_and_scan(dtype):
    net = Network(l2=0.1)
    params, x, y = problem((3, 4, 2), net, dtype=dtype)
    eager = jaxnet.backprop(params, x, y, net)
    assert_close(jax.jit(jaxnet.backprop)(params, x, y, net), eager)
    members = jax.vmap(lambda key: jaxnet.init(key, (3, 4, 2), dtype=dtype))(jax.random.split(jax.random.key(3), 4))
    mapped = jax.vmap(jaxnet.backprop, in_axes=(0, None, None, None))(members, x, y, net)
    one = jax.tree.map(lambda leaf: leaf[2], members)
    assert_close(jax.tree.map(lambda leaf: leaf[2], mapped), jaxnet.backprop(one, x, y, net))
    _, scanned = jax.lax.scan(lambda c, batch: (c, jaxnet.backprop(params, *batch, net)), 0, (x[None], y[None]))
    assert_close(jax.tree.map(lambda leaf: leaf[0], scanned), eager)


def test_l2_may_be_mapped_over(x64):
    params, x, y = problem((3, 4, 2), dtype="float64")
    mapped = jax.vmap(lambda l2: jaxnet.backprop(params, x, y, Network(l2=l2)))(jnp.array([0.0, 0.7]))
    for i, l2 in enumerate((0.0, 0.7)):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], mapped), jaxnet.backprop(params, x, y, Network(l2=l2)))


@pytest.mark.parametrize("end", OUTPUTS_AND_LOSSES, ids=name_of)
def test_gradients_of_gradients(end, x64):
    """A Hessian-vector product through backprop equals one through jax.grad."""
    net = Network(activations.tanh, *end, l2=0.1)
    params, x, y = problem((3, 4, 2), net, dtype="float64")
    v, *_ = problem((3, 4, 2), net, dtype="float64", seed=1)

    def along(gradient, params):
        return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient(params)), jax.tree.leaves(v), strict=True))

    by_hand = jax.grad(partial(along, lambda p: jaxnet.backprop(p, x, y, net)[1]))(params)
    automatic = jax.grad(partial(along, lambda p: jax.grad(jaxnet.cost)(p, x, y, net)))(params)
    assert_close(by_hand, automatic)


class TestForwardWithBackprop:
    """Our backward pass as one piece of a larger differentiated program."""

    @staticmethod
    def program(forward, net, params, x, shift):
        inner = forward(params, jnp.sin(x) + jnp.broadcast_to(shift, x.shape), net)
        return jnp.sum(jnp.cos(inner) * inner) + jnp.sum(shift**2)

    @pytest.mark.parametrize("output", ACTIVATIONS.values(), ids=name_of)
    @pytest.mark.parametrize("sizes", DEPTHS, ids=str)
    def test_equals_autodiff(self, output, sizes, dtype):
        net = Network(activations.tanh, output)
        params, x, _ = problem(sizes, net, dtype=dtype)
        shift = jnp.ones(3, dtype)
        ours, expected = (
            jax.jit(jax.value_and_grad(partial(self.program, forward, net), argnums=(0, 1, 2)))(params, x, shift)
            for forward in (jaxnet.forward_with_backprop, jaxnet.forward)
        )
        assert_close(ours, expected)

    def test_under_vmap_and_twice(self, x64):
        net = Network(activations.softplus, activations.identity)
        params, x, _ = problem((3, 4, 1), net, dtype="float64")

        def gradient_norm(forward, params, x):
            return jnp.sum(jax.grad(lambda x: forward(params, x, net)[0])(x) ** 2)

        for wrap in (lambda f: f, jax.grad):
            ours, expected = (
                jax.vmap(wrap(partial(gradient_norm, forward)), in_axes=(None, 0))(params, x)
                for forward in (jaxnet.forward_with_backprop, jaxnet.forward)
            )
            assert_close(ours, expected)

    def test_our_rule_runs(self):
        params, x, _ = problem((3, 4, 2))
        text = str(jax.make_jaxpr(lambda p: jaxnet.forward_with_backprop(p, x))(params))
        assert "custom_vjp_call" in text

    def test_any_leading_axes_and_bad_input(self):
        params, x, _ = problem((3, 4, 2))
        gradient = jax.grad(lambda p: jaxnet.forward_with_backprop(p, x[0]).sum())(params)
        assert_close(gradient, jax.grad(lambda p: jaxnet.forward(p, x[0]).sum())(params))
        with pytest.raises(ValueError, match="x has 2 features"):
            jaxnet.forward_with_backprop(params, x[:, :2])


# Invariants


@given(seed=st.integers(0, 1000))
def test_zero_error_gives_zero_gradient(seed):
    params, x, _ = problem((3, 4, 2), seed=seed)
    value, grads = jaxnet.backprop(params, x, jaxnet.forward(params, x))
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


def test_batch_gradient_is_the_mean_of_single_ones(x64):
    params, x, y = problem((3, 4, 2), dtype="float64")
    single = [jaxnet.backprop(params, x[i], y[i]) for i in range(7)]
    assert_close(jaxnet.backprop(params, x, y), jax.tree.map(lambda *leaves: sum(leaves) / 7, *single))


def test_order_of_examples_and_of_hidden_units_does_not_matter(x64):
    params, x, y = problem((3, 4, 2), dtype="float64")
    value, grads = jaxnet.backprop(params, x, y)
    assert_close(jaxnet.backprop(params, x[::-1], y[::-1]), (value, grads))
    order = jnp.array([2, 0, 3, 1])

    def permuted(layers):
        first, second = layers
        return (jaxnet.Layer(first.weight[order], first.bias[order]), second._replace(weight=second.weight[:, order]))

    assert_close(jaxnet.backprop(permuted(params), x, y), (value, permuted(grads)))


def test_weights_repeat_examples(x64):
    params, x, y = problem((3, 4, 2), dtype="float64", n=3)
    weighted = jaxnet.backprop(params, x, y, Network(l2=0.1), jnp.array([2.0, 0.0, 1.0]))
    rows = jnp.array([0, 0, 2])
    repeated = jaxnet.backprop(params, x[rows], y[rows], Network(l2=0.1))
    assert_close(weighted, repeated)
    scaled = jaxnet.backprop(params, x, y, Network(l2=0.1), jnp.array([20.0, 0.0, 10.0]))
    assert_close(weighted, scaled)


def test_no_weight_at_all_leaves_the_penalty(x64):
    params, x, y = problem((3, 2), dtype="float64", n=3)
    value, grads = jaxnet.backprop(params, x, y, Network(l2=0.5), jnp.zeros(3))
    assert_close(value, 0.25 * (params[0].weight ** 2).sum())
    assert_close(grads, jaxnet.autodiff(params, x, y, Network(l2=0.5), jnp.zeros(3))[1], tolerance=1e-12)


def test_equal_hidden_units_get_equal_gradients():
    params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="constant", scale=0.5)
    _, (first, second) = jaxnet.backprop(params, *jaxnet.data.xor())
    assert len({tuple(row) for row in first.weight.tolist()}) == 1
    assert len(set(second.weight.ravel().tolist())) == 1


def test_params_may_be_a_list():
    params, x, y = problem((3, 4, 2))
    _, grads = jaxnet.backprop(list(params), x, y)
    assert isinstance(grads, list)
    assert isinstance(grads[0], jaxnet.Layer)


def test_no_penalty_is_compiled_for_a_plain_zero():
    params, x, y = problem((3, 4, 2))
    none, some = (
        jax.make_jaxpr(lambda p, net=net: jaxnet.backprop(p, x, y, net))(params).pretty_print()
        for net in (Network(), Network(l2=0.1))
    )
    assert len(none.splitlines()) < len(some.splitlines())


# Bad input


def test_lists_are_arrays():
    params = jaxnet.init(jax.random.key(0), (2, 1))
    assert jaxnet.cost(params, [[0.0, 1.0]], [[1.0]]).shape == ()


@pytest.mark.parametrize(
    ("x", "y", "weights", "error", "message"),
    [
        (
            jnp.ones((4, 3)),
            jnp.ones((4, 1)),
            None,
            ValueError,
            r"x has 3 features \(shape \(4, 3\)\), but the first layer expects 2 \(params\[0\].weight is \(4, 2\)\)",
        ),
        (jnp.ones(()), jnp.ones((4, 1)), None, ValueError, "x has no feature axis"),
        (
            jnp.ones((4, 2)),
            jnp.ones(4),
            None,
            ValueError,
            r"y has shape \(4,\), expected \(4, 1\).*give it an output axis, y\[..., None\]",
        ),
        (jnp.ones((4, 2)), jnp.ones((3, 1)), None, ValueError, r"y has shape \(3, 1\), expected \(4, 1\)"),
        (jnp.ones((4, 2)), jnp.ones((1, 1)), None, ValueError, r"y has shape \(1, 1\), expected \(4, 1\)"),
        (jnp.ones((4, 2)), jnp.ones((4, 2)), None, ValueError, r"y has shape \(4, 2\), expected \(4, 1\)"),
        (jnp.ones((0, 2)), jnp.ones((0, 1)), None, ValueError, "x has shape .*no examples"),
        (
            jnp.ones((4, 2), int),
            jnp.ones((4, 1)),
            None,
            TypeError,
            "x is an array of int32 .*expected an array of floats",
        ),
        ([[0, 1]], [[1.0]], None, TypeError, "x is an array of int32"),
        (jnp.ones((4, 2)), jnp.ones((4, 1), bool), None, TypeError, "y is an array of bool"),
        (
            jnp.ones((4, 2), jnp.float16),
            jnp.ones((4, 1)),
            None,
            TypeError,
            "x has dtype float16, but the parameters have",
        ),
        (jnp.ones((4, 2)), jnp.ones((4, 1), jnp.float16), None, TypeError, "y has dtype float16"),
        (
            jnp.ones((4, 2)),
            jnp.ones((4, 1)),
            jnp.ones((4, 1)),
            ValueError,
            r"weights has shape \(4, 1\), expected \(4,\)",
        ),
        (jnp.ones((4, 2)), jnp.ones((4, 1)), jnp.ones(3), ValueError, r"weights has shape \(3,\), expected \(4,\)"),
        (jnp.ones((4, 2)), jnp.ones((4, 1)), jnp.ones(4, int), TypeError, "weights is an array of int32"),
        (jnp.ones((4, 2)), jnp.ones((4, 1)), jnp.ones(4, jnp.float16), TypeError, "weights has dtype float16"),
    ],
)
def test_bad_batches(x, y, weights, error, message):
    params = jaxnet.init(jax.random.key(0), (2, 4, 1))
    for function in (jaxnet.cost, jaxnet.backprop, jaxnet.autodiff, jax.jit(jaxnet.backprop)):
        with pytest.raises(error, match=message):
            function(params, x, y, Network(), weights)
    if weights is None:
        for function in (jaxnet.signals, jaxnet.input_gradient, jaxnet.accuracy):
            with pytest.raises(error, match=message):
                function(params, x, y)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (None, "net is a NoneType, expected a jaxnet.Network"),
        (0.1, "net is a float"),
        (Network, "net is a type"),
        (jnp.ones(4), "net is an array of float32"),
        (Network(l2=jnp.ones(2)), r"net.l2 is an array of float32 with shape \(2,\), expected one real number"),
        (Network(l2="a"), "net.l2 is a str"),
    ],
)
def test_bad_networks(net, message):
    params, x, y = problem((3, 2))
    for function in (jaxnet.cost, jaxnet.backprop, jaxnet.signals, jaxnet.input_gradient, jaxnet.accuracy):
        with pytest.raises(TypeError, match=message):
            function(params, x, y, net)
    for function in (jaxnet.forward, jaxnet.forward_with_backprop):
        with pytest.raises(TypeError, match=message):
            function(params, x, net)


@pytest.mark.parametrize("x", [None, "abc", [[1.0], [1.0, 2.0]]], ids=["None", "str", "ragged"])
def test_inputs_that_are_no_arrays(x):
    params, _, y = problem((3, 2))
    with pytest.raises(TypeError, match="x is a .*which is not an array of numbers"):
        jaxnet.cost(params, x, y)


def test_float64_parameters_without_64_bit_mode():
    params = (jaxnet.Layer(np.ones((2, 3)), np.ones(2)),)
    with pytest.raises(
        TypeError, match="dtype float64, but JAX's 64-bit mode is off; convert it to float32, or use with"
    ):
        jaxnet.forward(params, np.ones((4, 3)))


def test_learning_rate_and_scale_are_single_numbers():
    params, x, y = problem((3, 2))
    with pytest.raises(TypeError, match="learning_rate is an array .*expected one real number"):
        jaxnet.sgd_step(params, x, y, jnp.ones(2))
    with pytest.raises(TypeError, match="scale is a NoneType"):
        jaxnet.init(jax.random.key(0), (2, 1), scale=None)


def test_class_labels_instead_of_targets():
    params = jaxnet.init(jax.random.key(0), (2, 3))
    with pytest.raises(ValueError, match=r"y has shape \(4,\), expected \(4, 3\).*see jaxnet.data.one_hot"):
        jaxnet.cost(params, jnp.ones((4, 2)), jnp.ones(4))


def test_half_precision_weights_may_have_a_large_sum():
    params, x, y = problem((3, 2), dtype="float16")
    expected = jaxnet.backprop(params, x, y)
    heavy = jaxnet.backprop(params, x, y, weights=jnp.full(len(x), 30_000.0, jnp.float16))
    assert_close(heavy, expected, 5e-3)


@pytest.mark.parametrize("l2", [np.float32(-1), jnp.float32(jnp.nan)])
def test_a_penalty_that_is_an_array_is_checked(l2):
    params, x, y = problem((3, 2))
    with pytest.raises(ValueError, match=r"net\.l2 is .*, expected a number >= 0"):
        jaxnet.cost(params, x, y, Network(l2=l2))


def test_bytes_in_another_order():
    params, x, y = problem((3, 2))
    swapped = np.asarray(x).astype(np.asarray(x).dtype.newbyteorder())
    assert jaxnet.cost(params, swapped, y) == jaxnet.cost(params, x, y)


def test_the_penalty_is_finite():
    params, x, y = problem((3, 2))
    with pytest.raises(ValueError, match=r"net\.l2 is inf, expected a finite number"):
        jaxnet.backprop(params, x, y, Network(l2=jnp.asarray(jnp.inf)))
