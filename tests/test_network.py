import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import problem

import jaxnet
from jaxnet import Layer, Network, activations, losses

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("scheme", "variance"),
    [("lecun", 1 / 300), ("glorot", 2 / 500), ("he", 2 / 300), ("normal", 1.0), ("uniform", 1 / 3)],
)
def test_schemes_have_their_variance(scheme, variance, dtype):
    (layer,) = jaxnet.init(KEY, (300, 200), scheme=scheme, dtype=dtype)
    assert layer.weight.dtype == layer.bias.dtype == dtype
    assert abs(float(layer.weight.mean())) < 4 * (variance / 60_000) ** 0.5
    assert float(layer.weight.var()) == pytest.approx(variance, rel=0.03)
    drawn = scheme in ("normal", "uniform")
    assert float(layer.bias.var()) == pytest.approx(variance if drawn else 0, rel=0.3)


def test_constant_and_zeros():
    for scheme, value in (("constant", 0.5), ("zeros", 0.0)):
        for leaf in jax.tree.leaves(jaxnet.init(KEY, (2, 3, 1), scheme=scheme, scale=0.5)):
            assert (leaf == value).all()


def test_scale_multiplies():
    a, b = (jaxnet.init(KEY, (4, 3), scheme="normal", scale=scale) for scale in (1.0, 4.0))
    assert (b[0].weight == 4 * a[0].weight).all()


def test_layers_and_keys_differ():
    first, second = jaxnet.init(KEY, (3, 3, 3))
    assert (first.weight != second.weight).all()
    assert (jaxnet.init(jax.random.key(1), (3, 3))[0].weight != first.weight).all()


def test_init_under_jit_and_vmap():
    keys = jax.random.split(KEY, 5)
    members = jax.jit(jax.vmap(lambda key, scale: jaxnet.init(key, (2, 3, 1), scale=scale)))(keys, jnp.ones(5))
    assert members[0].weight.shape == (5, 3, 2)
    solo = jaxnet.init(keys[3], (2, 3, 1))
    assert jnp.allclose(members[1].weight[3], solo[1].weight, atol=1e-7)


def test_keys_are_used_once():
    with jax.debug_key_reuse(True):
        jaxnet.init(jax.random.key(5), (2, 3, 1), scheme="normal")


def test_default_dtype_follows_jax(dtype):
    assert jaxnet.init(KEY, (2, 1))[0].weight.dtype == dtype


def test_augmented_matrices_round_trip(dtype):
    params, _, _ = problem((3, 4, 2), dtype=dtype)
    matrices = jaxnet.to_augmented(params)
    assert [matrix.shape for matrix in matrices] == [(4, 4), (2, 5)]
    for a, b in zip(jax.tree.leaves(jaxnet.from_augmented(matrices)), jax.tree.leaves(params), strict=True):
        assert (a == b).all()


def test_the_lectures_formula(dtype):
    """s(W s₁(V x)) with a constant 1 as last entry of x and of h."""
    params, x, _ = problem((3, 4, 2), dtype=dtype)
    V, W = (np.asarray(matrix) for matrix in jaxnet.to_augmented(params))

    def s(a):
        return 1 / (1 + np.exp(-a))

    for i, example in enumerate(np.asarray(x)):
        h = s(V @ np.append(example, example.dtype.type(1)))
        outputs = s(W @ np.append(h, h.dtype.type(1)))
        np.testing.assert_allclose(jaxnet.forward(params, x)[i], outputs, rtol=1e-14 if dtype == "float64" else 1e-6)


def test_network_is_a_pytree_with_l2_as_data():
    net = Network(hidden=activations.tanh, l2=0.5)
    leaves, structure = jax.tree.flatten(net)
    assert leaves == [0.5]
    assert jax.tree.unflatten(structure, leaves) == net
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin == net
        assert hash(twin) == hash(net)
    costs = jax.vmap(lambda net: jaxnet.cost(*problem((2, 1)), net), in_axes=(Network(hidden=activations.tanh, l2=0),))(
        Network(hidden=activations.tanh, l2=jnp.array([0.0, 1.0]))
    )
    assert costs[1] > costs[0]


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden": "sigmoid"}, TypeError, "hidden is 'sigmoid', expected a jaxnet.activations.Activation"),
        ({"output": jnp.tanh}, TypeError, "output is .*, expected a jaxnet.activations.Activation"),
        ({"loss": "mse"}, TypeError, "loss is 'mse', expected a jaxnet.losses.Loss"),
        (
            {"loss": losses.cross_entropy, "output": activations.softmax},
            ValueError,
            "loss cross_entropy takes logits, so the output must be sigmoid .*but it is softmax",
        ),
        ({"loss": losses.softmax_cross_entropy}, ValueError, "must be softmax .*but it is sigmoid"),
        ({"l2": -1.0}, ValueError, "l2 is -1.0, expected a number >= 0"),
        ({"l2": float("nan")}, ValueError, "l2 is nan"),
    ],
)
def test_bad_networks(options, error, message):
    with pytest.raises(error, match=message):
        Network(**options)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((2,), ValueError, r"sizes is \(2,\), expected at least two"),
        ((), ValueError, "expected at least two"),
        (3, TypeError, "sizes is 3, expected a sequence of integers"),
        ((2, 0, 1), ValueError, r"sizes\[1\] is 0, expected a positive integer"),
        ((2, -3), ValueError, r"sizes\[1\] is -3"),
        ((2, 3.0, 1), TypeError, r"sizes\[1\] is 3.0, expected a positive integer"),
        ((True, 1), TypeError, r"sizes\[0\] is True"),
    ],
)
def test_bad_sizes(sizes, error, message):
    with pytest.raises(error, match=message):
        jaxnet.init(KEY, sizes)


def test_unknown_scheme():
    with pytest.raises(ValueError, match="scheme is 'xavier', expected one of constant, glorot, he, lecun"):
        jaxnet.init(KEY, (2, 1), scheme="xavier")


def test_bad_dtypes():
    with pytest.raises(TypeError, match="dtype is int32, expected one of float16, bfloat16, float32, float64"):
        jaxnet.init(KEY, (2, 1), dtype="int32")
    with pytest.raises(TypeError, match="dtype is 'foo', expected one of float16"):
        jaxnet.init(KEY, (2, 1), dtype="foo")
    with pytest.raises(ValueError, match="dtype is float64, which needs JAX's 64-bit mode"):
        jaxnet.init(KEY, (2, 1), dtype="float64")


@pytest.mark.parametrize("key", [0, jnp.array([0, 1], jnp.uint32), None])
def test_keys_that_are_not_typed(key):
    with pytest.raises(TypeError, match=r"key is .*, expected a typed key: jax.random.key\(seed\)"):
        jaxnet.init(key, (2, 1))


def test_several_keys():
    with pytest.raises(ValueError, match=r"key has shape \(3,\), expected one key; map over several with jax.vmap"):
        jaxnet.init(jax.random.split(KEY, 3), (2, 1))


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ([jnp.ones((2, 1))], r"matrices\[0\] has shape \(2, 1\), expected \(units, inputs \+ 1\)"),
        ([jnp.ones(3)], r"matrices\[0\] has shape \(3,\)"),
        ([jnp.ones((2, 3)), jnp.ones((1, 5))], r"params\[1\].weight has shape \(1, 4\), so it expects 4 inputs"),
    ],
)
def test_bad_matrices(matrices, message):
    with pytest.raises(ValueError, match=message):
        jaxnet.from_augmented(matrices)


def test_matrices_that_are_none():
    for matrices in (5, [[[1.0], [1.0, 2.0]]]):
        with pytest.raises(TypeError, match="matrices is a .*expected a sequence of matrices"):
            jaxnet.from_augmented(matrices)


def test_layers_of_another_make():
    from collections import namedtuple

    other = namedtuple("other", ["weight", "bias"])
    params, x, y = problem((3, 4, 2))
    _, grads = jaxnet.backprop(tuple(other(*layer) for layer in params), x, y, Network(l2=0.1))
    assert isinstance(grads[0], other)


W, B = jnp.ones((3, 2)), jnp.ones(3)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"w": W}, TypeError, "params is a dict, expected a tuple of jaxnet.Layer"),
        (Layer(W, B), TypeError, "params is a Layer, expected a tuple of jaxnet.Layer"),
        ((), ValueError, "params is empty"),
        (((W, B),), TypeError, r"params\[0\] is a tuple, expected a jaxnet.Layer\(weight, bias\)"),
        ((W,), TypeError, r"params\[0\] is an array of float32 with shape \(3, 2\), expected a jaxnet.Layer"),
        ((Layer(B, B),), ValueError, r"params\[0\].weight has shape \(3,\), expected \(units, inputs\)"),
        ((Layer(W[None], B[None]),), ValueError, "map over an ensemble with jax.vmap"),
        ((Layer(W[:0], B[:0]),), ValueError, "expected at least one unit and one input"),
        ((Layer(W, B[:2]),), ValueError, r"params\[0\].bias has shape \(2,\), expected \(3,\)"),
        ((Layer(W, B), Layer(W, B)), ValueError, r"params\[1\].weight .*expects 2 inputs, but the layer before has 3"),
        (
            (Layer(W.astype(int), B),),
            TypeError,
            r"params\[0\].weight is an array of int32 .*expected an array of floats",
        ),
        ((Layer(W, B.astype(jnp.float16)),), TypeError, r"params\[0\].bias has dtype float16, but params\[0\].weight"),
        ((Layer([[1.0, 2.0]], [1.0]),), TypeError, r"params\[0\].weight is a list, expected an array of floats"),
    ],
)
def test_params_that_are_not_layers(params, error, message):
    with pytest.raises(error, match=message):
        jaxnet.forward(params, jnp.ones((4, 2)))
