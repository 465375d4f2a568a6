"""`jaxnet.graph` as its users meet it: gradients of real programs, the lecture's picture, paths, errors."""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ACTIVATIONS, OUTPUTS_AND_LOSSES, assert_close, name_of, problem
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.extend.core import primitives as P

import jaxnet
from benchmarks.programs import convolutional_network, transformer_block
from jaxnet import graph
from jaxnet.graph.registry import RULES

TOLERANCE = 1e-10


def lecture(a, b, c):
    return ((a + b) * c) ** 2


# ----------------------------------------------------------------------------------------------------------------------
# The lecture's picture


def test_the_lectures_graph():
    g = graph.trace(lecture)(1.0, 2.0, 3.0)
    assert [node.primitive for node in g.nodes] == ["argument", "argument", "argument", "add", "mul", "integer_pow"]
    assert [node.name for node in g.arguments] == ["a", "b", "c"]
    assert [float(node.value) for node in g.nodes] == [1, 2, 3, 3, 9, 81]
    assert [float(node.gradient) for node in g.nodes] == [54, 54, 54, 54, 18, 1]
    assert [float(edge.derivative) for edge in g.edges] == [1, 1, 3, 3, 18]
    assert [float(edge.contribution) for edge in g.edges] == [54, 54, 54, 54, 18]
    assert float(g.value) == 81
    assert g.outputs[0] is g.nodes[-1]
    assert [node.index for node in g.nodes[3].operands] == [0, 1]
    assert "test_graph.py" in g.nodes[3].source
    assert "in lecture" in g.nodes[3].source
    assert repr(g.nodes[0]) == "<Node 0: a = argument, float32[]>"


def test_gradients_add_up_over_the_edges(x64):
    g = graph.trace(lambda x, y: jnp.sum(jnp.tanh(x @ y) * x) + jnp.max(y))(jnp.ones((3, 3)) / 7, jnp.eye(3))
    for node in g.nodes:
        if node.gradient is not None and node not in g.outputs:
            parts = [edge.contribution for edge in g.edges if edge.operand is node and edge.contribution is not None]
            assert_close(sum(parts), node.gradient, 1e-13)


def test_local_derivatives_are_jacobians(x64):
    x = jnp.array([[0.3, -1.2], [0.5, 2.0]])
    g = graph.trace(lambda x, v: jnp.sum(jnp.sin(x @ v)))(x, jnp.array([1.0, 2.0]))
    product, sine = g.nodes[2], g.nodes[3]
    assert_close(product.edges[1].derivative, x)
    assert product.edges[0].derivative.shape == (2, 2, 2)
    assert_close(sine.edges[0].derivative, jnp.diag(jnp.cos(x @ jnp.array([1.0, 2.0]))))
    big = graph.trace(lambda x: jnp.sum(x * 2.0))(jnp.ones(1001))
    with pytest.raises(ValueError, match="1001 x 1001 entries"):
        _ = big.edges[0].derivative


def test_names_scopes_and_what_is_inside():
    def f(params, x):
        with jax.named_scope("layer"):
            h = checkpoint_name(jax.jit(lambda x: params["V"] @ x, inline=False)(x), "h")
        return jnp.sum(jax.nn.relu(h)) + params["b"]

    g = graph.trace(f)({"V": jnp.eye(2), "b": 1.0}, jnp.ones(2))
    assert [node.name for node in g.arguments] == ["params['V']", "params['b']", "x"]
    (h,) = [node for node in g.nodes if node.name == "h"]
    assert h.scope == ("layer", "<lambda>")
    (relu,) = [node for node in g.nodes if node.primitive == "custom_jvp_call"]
    assert relu.can_open
    assert not h.can_open
    assert [node.primitive for node in relu.open().nodes if node.equation] == ["max"]
    assert relu.open().nodes[-1].scope == ("relu",)
    with pytest.raises(ValueError, match="nothing inside"):
        h.open()
    assert graph.trace(f)({"V": jnp.eye(2), "b": 1.0}, jnp.ones(2)).gradients[0]["b"] == 1


def test_loops_unrolled_or_whole():
    def f(v):
        return lax.scan(lambda c, t: (jnp.tanh(c * t), None), 1.0, v)[0]

    v = jnp.array([0.5, -1.0, 2.0])
    unrolled, whole = (graph.trace(f, unroll=unroll)(v) for unroll in (True, False))
    assert [node.primitive for node in unrolled.nodes].count("tanh") == 3
    assert {node.scope[0] for node in unrolled.nodes if node.scope} == {f"iteration {t}" for t in range(3)}
    (scan,) = [node for node in whole.nodes if node.can_open]
    assert [node.primitive for node in scan.open().nodes].count("tanh") == 3
    assert_close(scan.open().gradients[1], unrolled.gradients[0], 1e-5)
    branch = graph.trace(lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x))(2.0)
    assert [node.primitive for node in branch.nodes if node.active] == ["argument", "sin"]
    loop = graph.trace(lambda x: lax.while_loop(lambda c: c < 10, lambda c: c * x, x))(2.0)
    assert [node.primitive for node in loop.nodes].count("mul") == 3


# ----------------------------------------------------------------------------------------------------------------------
# Paths


def test_paths_of_the_lecture():
    g = graph.trace(lambda a, b, c: checkpoint_name((a + b) * c, "v") ** 2)(1.0, 2.0, 3.0)
    (path,) = g.paths("a")
    assert path.derivatives == (1, 3, 18)
    assert path.product == 54
    assert str(path) == "a → v₃ → v → v₅:  1 · 3 · 18 = 54"
    assert g.paths(2)[0].derivatives == (3, 18)
    assert float(g.paths(g.nodes[4]).sum) == 18
    assert g.paths("v").wrt is g.nodes[4]
    assert len(g.paths(g.outputs[0])) == 1


def test_paths_of_several_ways(x64):
    def f(x, y):
        u = x * y
        return jnp.sin(u) * x + u

    g = graph.trace(f)(0.7, 1.3)
    paths = g.paths("x")
    assert len(paths) == 3
    assert_close(paths.sum, g.gradients[0], 1e-13)
    assert str(paths).splitlines()[-1].startswith("sum over 3 paths: ∂f/∂x = ")


def test_paths_through_arrays(x64):
    x, v = jnp.array([0.3, -1.2]), jnp.array([[0.5, 2.0], [1.0, -1.0], [0.1, 0.2]])

    def f(v, x):
        return jnp.sum(jnp.tanh(v @ x) ** 2)

    g = graph.trace(f)(v, x)
    assert len(g.paths("v")) == 6
    assert len(g.paths("x")) == 6
    assert_close(g.paths("v").sum, jax.grad(f)(v, x), 1e-13)
    assert_close(g.paths("x").sum, jax.grad(f, 1)(v, x), 1e-13)
    assert g.paths("x")[0].steps[0].entry == (0,)
    with_bar = graph.trace(lambda x: x**2, cotangent=jnp.array([1.0, 10.0]))(x)
    assert_close(with_bar.paths("x").sum, with_bar.gradients[0], 1e-13)


def test_too_many_paths_are_counted_and_refused():
    def doubled(x):
        for _ in range(20):
            x = x + x
        return x

    g = graph.trace(doubled)(1.0)
    with pytest.raises(ValueError, match=r"1\.04858e\+06 paths .* limit=1000"):
        g.paths("x")
    with pytest.raises(ValueError, match="one of x"):
        g.paths("z")
    with pytest.raises(ValueError, match="another graph"):
        g.paths(graph.trace(lecture)(1.0, 2.0, 3.0).nodes[0])


def test_no_path_no_gradient():
    g = graph.trace(lambda x, y: x + 0 * lax.stop_gradient(y))(1.0, 2.0)
    assert len(g.paths("y")) == 0
    assert g.paths("y").sum == 0
    assert g.gradients == (1.0, 0.0)


# ----------------------------------------------------------------------------------------------------------------------
# Gradients of real programs


@pytest.mark.parametrize("output_and_loss", OUTPUTS_AND_LOSSES, ids=name_of)
def test_networks_of_every_kind(output_and_loss, x64):
    output, loss = output_and_loss
    for hidden in ACTIVATIONS.values():
        net = jaxnet.Network(hidden=hidden, output=output, loss=loss, l2=0.1)
        params, x, y = problem((3, 4, 3), net, n=5, dtype="float64")
        gradient = graph.grad(jaxnet.cost)(params, x, y, net)
        assert_close(gradient, jaxnet.backprop(params, x, y, net)[1], TOLERANCE)


def test_a_hand_written_backward_pass_is_used(x64):
    params, x, _ = problem((3, 4, 2), dtype="float64")
    gradient = graph.grad(lambda params: jnp.sum(jaxnet.forward_with_backprop(params, x) ** 3))(params)
    assert_close(gradient, jax.grad(lambda params: jnp.sum(jaxnet.forward(params, x) ** 3))(params), TOLERANCE)


@pytest.mark.parametrize("make", [transformer_block, convolutional_network])
def test_larger_programs(make, x64):
    small = {"batch": 2, "length": 6, "width": 16} if make is transformer_block else {"batch": 2, "size": 8}
    f, args = make(jax.random.key(0), **small, dtype=jnp.float64)
    assert_close(*jax.jit(lambda *args: (graph.grad(f)(*args), jax.grad(f)(*args)))(*args), TOLERANCE)


NN = [
    "celu", "elu", "gelu", "glu", "hard_sigmoid", "hard_silu", "hard_tanh", "identity", "leaky_relu", "log_sigmoid",
    "log_softmax", "logsumexp", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softmax", "softplus",
    "sparse_plus", "squareplus", "standardize",
]  # fmt: skip
SPECIAL = [
    "digamma", "entr", "erf", "erfc", "erfinv", "exp1", "expi", "expit", "factorial", "gamma", "gammaln", "i0", "i0e",
    "i1", "i1e", "log_ndtr", "logit", "ndtr", "ndtri", "spence",
]  # fmt: skip
LOSSES = [
    "l2_loss", "huber_loss", "log_cosh", "squared_error", "cosine_distance", "kl_divergence", "hinge_loss",
    "sigmoid_binary_cross_entropy", "softmax_cross_entropy", "safe_softmax_cross_entropy",
]  # fmt: skip


@pytest.mark.promotes
@pytest.mark.parametrize("module", ["nn", "special", "losses"])
def test_functions_of_jax_and_optax(module, x64):
    x = jnp.array([[0.2, 0.9, 0.35, 0.6], [0.45, 0.15, 0.8, 0.7]])
    home, names, args = {
        "nn": (jax.nn, NN, (4 * x - 2,)),
        "special": (jax.scipy.special, SPECIAL, (x,)),
        "losses": (optax, LOSSES, (x, x[::-1] ** 2)),
    }[module]
    weights = jnp.cos(jnp.arange(8.0))
    for name in names:
        function = getattr(home, name)

        def f(*args, function=function):
            z = function(*args)
            return jnp.sum(z * weights[: z.size].reshape(z.shape))

        with jax.numpy_rank_promotion("allow"):
            ours, theirs = jax.jit(lambda *args, f=f: (graph.grad(f)(*args), jax.grad(f)(*args)))(*args)
        assert_close(ours, theirs, TOLERANCE)


# Random programs: a value of each shape is made of earlier ones, again and again.
UNARY = [
    jnp.sin,
    jnp.tanh,
    jnp.exp,
    jax.nn.sigmoid,
    jax.nn.relu,
    jnp.abs,
    jnp.square,
    lambda x: 1 / (1 + x * x),
    jnp.negative,
]
BINARY = [jnp.add, jnp.subtract, jnp.multiply, jnp.maximum, jnp.minimum, lambda x, y: x / (2 + jnp.sin(y))]
MATRIX = [
    jnp.transpose, lambda x: jnp.cumsum(x, 0), lambda x: jnp.sort(x, 1), lambda x: x[::-1], lambda x: x @ x,
    lambda x: jax.nn.softmax(x), lambda x: jnp.roll(x, 1, 0), lambda x: x.at[0].set(x[2]), lambda x: jnp.triu(x),
    lambda x: jnp.broadcast_to(jnp.sum(x, 0, keepdims=True), x.shape), lambda x: jnp.where(x > 0, x, x.T),
    lambda x: jnp.broadcast_to(jnp.max(x, 1, keepdims=True), x.shape), lambda x: x[jnp.array([2, 0, 2])],
]  # fmt: skip


def random_program(choices):
    """A scalar function of two 3x3 matrices, from a list of numbers."""

    def f(x, y):
        pool = [x, y]
        for kind, which, first, second in choices:
            a, b = pool[first % len(pool)], pool[second % len(pool)]
            if kind == 0:
                z = UNARY[which % len(UNARY)](a)
            elif kind == 1:
                z = BINARY[which % len(BINARY)](a, b)
            elif kind == 2:
                z = a @ b
            else:
                z = MATRIX[which % len(MATRIX)](a)
            pool.append(jnp.tanh(z))  # so that nothing overflows
        return sum(jnp.sum(z * jnp.cos(jnp.arange(9.0)).reshape(3, 3)) for z in pool[-3:])

    return f


def check_random_programs(seed, count):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        choices = rng.integers([4, 99, 99, 99], size=(int(rng.integers(2, 9)), 4))
        f = random_program(choices.tolist())
        x, y = (jnp.asarray(rng.normal(size=(3, 3))) for _ in range(2))
        assert_close(jnp.stack(graph.grad(f, (0, 1))(x, y)), jnp.stack(jax.grad(f, (0, 1))(x, y)), TOLERANCE)


def test_random_programs(x64):
    check_random_programs(0, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_thousands_of_random_programs(seed, x64):
    check_random_programs(seed, 400)


ORDINARY = st.floats(-3, 3).filter(lambda number: number == 0 or abs(number) > 1e-3)


@hypothesis.given(ORDINARY, ORDINARY, ORDINARY)
def test_the_lectures_gradient_everywhere(a, b, c):
    with jax.enable_x64(True):
        found = graph.grad(lecture, (0, 1, 2))(a, b, c)
        assert_close(found, (2 * (a + b) * c**2, 2 * (a + b) * c**2, 2 * (a + b) ** 2 * c), 1e-12)


def test_the_checker_hears_all_its_witnesses(x64):
    def f(x, w):
        return jnp.sum(jnp.log1p(jnp.exp(x @ w)) * jnp.cumsum(w))

    args = (jnp.array([[0.3, -0.2], [1.0, 0.4]]), jnp.array([0.5, -1.0]))
    jaxnet.check.check_gradient(f, graph.grad(f, (0, 1)), args, argnums=(0, 1)).raise_if_failed()
    jaxnet.check.check_vjp(
        lambda x: jnp.sin(x) * x[::-1], lambda x, bar: graph.vjp(lambda x: jnp.sin(x) * x[::-1], x)[1](bar), args[1:]
    ).raise_if_failed()


# ----------------------------------------------------------------------------------------------------------------------
# As plain functions


def test_vjp_is_as_that_of_jax(x64):
    def f(params, n, key):
        return {"z": params["a"] * n.astype(float), "n": n + 1, "u": jax.random.normal(key) * params["b"][0]}

    args = ({"a": jnp.arange(3.0), "b": [jnp.ones(())]}, jnp.array([1, 2, 3]), jax.random.key(0))
    value, pull = graph.vjp(f, *args)
    bar = {"z": jnp.ones(3), "n": None, "u": 2.0}
    params_bar, n_bar, key_bar = pull(bar)
    assert n_bar is None
    assert key_bar is None
    assert_close(value["z"], jnp.array([0.0, 2.0, 6.0]))
    assert_close(params_bar, {"a": jnp.array([1.0, 2.0, 3.0]), "b": [2 * jax.random.normal(args[2])]})
    assert_close(jax.jit(lambda *args: graph.vjp(f, *args)[1](bar)[0])(*args), params_bar)


def test_under_the_transformations_of_jax(x64):
    f = lambda x: jnp.sum(jnp.sin(x) ** 3)  # noqa: E731
    x = jnp.arange(6.0).reshape(3, 2)
    assert_close(jax.vmap(graph.grad(f))(x), jax.grad(f)(x), TOLERANCE)
    assert_close(jax.jit(jax.vmap(graph.grad(f)))(x), jax.grad(f)(x), TOLERANCE)
    assert_close(jax.jacfwd(graph.grad(f))(x[0]), jax.hessian(f)(x[0]), TOLERANCE)
    assert_close(jax.jacrev(graph.grad(f))(x[0]), jax.hessian(f)(x[0]), TOLERANCE)
    assert_close(graph.grad(lambda x: graph.grad(f)(x)[0] ** 2)(x[0]), jax.grad(lambda x: jax.grad(f)(x)[0] ** 2)(x[0]))
    assert_close(graph.grad(lambda x: jax.vmap(jnp.sin)(x).sum())(x), jnp.cos(x))
    assert_close(graph.grad(lambda x: jax.grad(jnp.sin)(x) * x)(1.0), jnp.cos(1.0) - jnp.sin(1.0))
    outer = jnp.array(2.0)
    assert_close(jax.grad(lambda y: graph.grad(lambda x: x**2 * y)(outer))(3.0), 4.0)  # closed over a traced value


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_other_dtypes(dtype):
    x = jnp.linspace(-1, 1, 6, dtype=dtype)
    f = lambda x: jnp.sum(jax.nn.gelu(x) * jnp.cumsum(x) / (x * x + 1))  # noqa: E731
    ours, theirs = graph.grad(f)(x), jax.grad(f)(x)
    assert ours.dtype == x.dtype
    assert_close(ours, theirs, {"bfloat16": 0.03, "float16": 5e-3, "float32": 1e-6}[dtype])


def test_python_numbers_and_numpy_arrays():
    assert graph.grad(lambda x: x**2)(3.0) == 6
    assert_close(graph.grad(lambda x: jnp.sum(x * x))(np.ones(3, np.float32)), 2 * jnp.ones(3))
    _, pull = graph.vjp(lambda x: (x, x), 2.0)
    assert pull((1.0, 2.0)) == (3.0,)
    assert graph.grad(lambda x, y: x * y, -1)(2.0, 5.0) == 2.0


def test_what_is_not_differentiated_is_handed_on_as_it_is():
    def f(w, x, double, *, power=1):
        return jnp.sum(w * (2 * x if double else x)) ** power

    assert graph.grad(f)(1.0, jnp.ones(2), True) == 4
    assert graph.grad(f, argnums=(1, 0, 0))(1.0, jnp.ones(2), False, power=2)[1:] == (8, 8)
    assert graph.trace(lambda x, p=1: x**p)(3.0, p=2).gradients == (6,)


def test_a_rule_that_closes_over_a_value_of_f_is_refused():
    def f(x):
        scale = jnp.sum(jnp.arange(3.0))

        @jax.custom_vjp
        def twice(x):
            return 2 * x

        twice.defvjp(lambda x: (2 * x, None), lambda _, bar: (bar * scale,))
        return twice(x)

    with pytest.raises(NotImplementedError, match="custom_vjp twice closes over a value"):
        graph.grad(f)(1.0)


def test_a_none_in_the_result_and_its_cotangent():
    assert graph.vjp(lambda x: (2 * x, None), 1.0)[1]((1.0, None)) == (2.0,)
    assert graph.trace(lambda x: {"a": x, "b": None}, cotangent={"a": 1.0, "b": None})(3.0).gradients == (1.0,)


def test_a_closed_over_tracer_and_an_unused_argument(x64):
    assert_close(jax.jit(lambda c: graph.grad(lambda x: c * x**2)(2.0))(5.0), 20.0)
    assert graph.grad(lambda x, y: x, (0, 1))(1.0, jnp.ones(2))[1].tolist() == [0, 0]
    assert graph.trace(lambda x: x)(3.0).gradients == (1.0,)


# ----------------------------------------------------------------------------------------------------------------------
# Rules of one's own, and errors


@pytest.fixture
def cube():
    """A primitive that nobody knows."""
    primitive = Primitive("cube")
    primitive.def_impl(lambda x: x**3)
    primitive.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))
    yield primitive
    RULES.pop(primitive, None)


def test_a_missing_rule_is_named_with_its_place(cube):
    def uses_it(x):
        return cube.bind(x) * 2

    with pytest.raises(NotImplementedError, match="'cube'.*test_graph.py:[0-9]+, in .*uses_it.*graph.rule") as error:
        graph.grad(uses_it)(2.0)
    assert f"{len(RULES)} primitives" in str(error.value)
    assert graph.grad(lambda x: x + lax.stop_gradient(cube.bind(x)))(2.0) == 1  # no cotangent, no rule needed
    assert graph.grad(lambda x: x * cube.bind(2.0))(3.0) == 8  # nor for a constant


def test_a_rule_of_ones_own(cube):
    @graph.rule(cube)
    def cube_rule(z_bar, z, x):
        return (z_bar * 3 * x**2,)

    assert graph.grad(lambda x: cube.bind(x) + x)(2.0) == 13

    @graph.rule(cube, forward=lambda active, x: (x**3, (x * x, active)))
    def with_forward(z_bar, saved, x):
        assert saved[1] == [True]
        return (z_bar * 3 * saved[0],)

    assert graph.grad(lambda x: cube.bind(x) + x)(2.0) == 13


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda bar: bar, "expected a tuple of 1"),
        (lambda bar: (bar, bar), "tuple of 2, expected a tuple of 1"),
        (lambda bar: (jnp.ones(2),), r"shape \(2,\) for operand 0, expected its shape \(\)"),
        (lambda bar: (jnp.ones((), int),), "int32 .* dtype float32"),
        (lambda bar: ("a",), "returned a str for operand 0"),
        (lambda bar: (NotImplemented,), "cannot be differentiated with respect to its operand 0"),
    ],
)
def test_rules_that_do_not_fit(cube, returned, message):
    graph.rule(cube)(lambda bar, z, x: returned(bar))
    with pytest.raises((TypeError, NotImplementedError), match=message):
        graph.grad(cube.bind)(2.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: graph.grad(3), TypeError, "f is a int"),
        (lambda: graph.grad(jnp.sin, 1)(1.0), ValueError, "argnums is 1, but there are 1 arguments"),
        (lambda: graph.grad(jnp.sin, "x"), TypeError, "argnums is 'x'"),
        (lambda: graph.grad(jnp.sin)(1), TypeError, r"args\[0\] has dtype int32, expected a real"),
        (lambda: graph.grad(jnp.sin)(jnp.ones(2)), TypeError, r"f returns float32\[2\], expected one real number"),
        (lambda: graph.grad(lambda x: (x, x))(1.0), TypeError, "expected one real number"),
        (lambda: graph.grad(lambda x: lax.complex(x, x))(1.0), TypeError, "complex64"),
        (lambda: graph.grad(jnp.sin)("x"), TypeError, r"args\[0\] is a str"),
        (lambda: graph.trace(jnp.sin)("x"), TypeError, r"args\[0\] is a str, expected an array"),
        (lambda: graph.trace(jnp.sin)(jnp.ones(2)), TypeError, "expected one real number"),
        (lambda: graph.trace(jnp.sin, cotangent=1.0)(jnp.ones(2)), ValueError, "cotangent has a leaf"),
        (lambda: graph.vjp(jnp.sin, 1.0)[1]((1.0,)), ValueError, "value_bar has a leaf"),
        (lambda: graph.vjp(lambda x: (x, x), 1.0)[1](1.0), ValueError, "value_bar has the structure"),
        (lambda: graph.vjp(jnp.sin, 1.0)[1](jnp.ones(3)), ValueError, r"value_bar has a leaf .* shape \(\)"),
        (lambda: graph.rule("sin"), TypeError, "primitive is a str"),
        (lambda: graph.rule(P.sin_p)(None), TypeError, "the rule of sin is a NoneType"),
        (lambda: graph.grad(lambda x: (x,))(1.0), TypeError, "expected one real number"),
        (lambda: graph.grad(lambda x: None)(1.0), TypeError, "f returns nothing, expected one real number"),
        (lambda: graph.trace(lambda x: ())(1.0), TypeError, "f returns nothing, expected one real number"),
        (lambda: graph.vjp(jnp.sin, 1.0)[1](1j), ValueError, "value_bar has a leaf 1j, expected an array of float32"),
        (lambda: graph.grad(jnp.sin, True)(1.0), TypeError, "argnums is True"),
        (lambda: graph.trace(jnp.sin)(1.0).paths("x", limit=0), ValueError, "limit is 0"),
        (lambda: jax.jit(lambda x: graph.trace(jnp.sin)(x).paths(0).sum)(1.0), ValueError, "while the program is comp"),
        (lambda: graph.trace(lambda x: jnp.abs(x + 1j))(1.0).paths(0), ValueError, "is complex"),
        (lambda: graph.trace(lambda x: checkpoint_name(x * 2, "x"))(1.0).paths("x"), ValueError, "2 nodes are called"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_cannot_be_differentiated_says_so(x64):
    with pytest.raises(NotImplementedError, match="lax.zeta|zeta.*operand 0"):
        graph.grad(lambda x: lax.zeta(x, 2.0))(3.0)
    with pytest.raises(NotImplementedError, match="scatter-mul|scatter_mul"):
        graph.grad(lambda u: jnp.sum(jnp.ones(3).at[jnp.array([0, 0])].multiply(u)))(jnp.ones(2))
    with pytest.raises(NotImplementedError, match=re.escape("pure_callback")):
        graph.grad(lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), float), x))(1.0)


def test_compiled_once():
    traces = []

    @jax.jit
    def gradient(x):
        traces.append(None)
        return graph.grad(lambda x: jnp.sum(x**2))(x)

    gradient(jnp.ones(3))
    gradient(jnp.zeros(3))
    assert len(traces) == 1
    assert P.sin_p in RULES


def test_a_value_that_is_returned_twice():
    def f(a):
        p = a * a
        return p, p

    graph = jaxnet.graph.trace(f, cotangent=(1.0, 2.0))(3.0)
    assert graph.paths("a").sum == graph.gradients[0] == 18
    assert jaxnet.graph.trace(lambda a: (a, a), cotangent=(1.0, 2.0))(2.0).paths(0).sum == 3


def test_the_slope_of_a_modulus_at_its_kink_is_that_of_jax():
    x = jnp.array([0.0, -0.0, -2.0, 3.0])
    np.testing.assert_array_equal(graph.grad(lambda x: jnp.sum(jnp.abs(x)))(x), jax.grad(lambda x: jnp.abs(x).sum())(x))


def test_positions_may_be_integers_of_numpy():
    assert graph.grad(jnp.multiply, np.int64(1))(2.0, 3.0) == 2


def test_parameters_may_lie_on_no_mesh_where_the_examples_do():
    mesh = jax.make_mesh((1,), ("examples",), axis_types=(jax.sharding.AxisType.Explicit,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("examples"))
    params, x, y = problem((3, 4, 2))
    with jax.set_mesh(mesh):
        x, y = jax.device_put((x, y), rows)
        for function in (graph.grad(jaxnet.cost), jax.jit(graph.grad(jaxnet.cost))):
            assert_close(function(params, x, y), jax.grad(jaxnet.cost)(params, x, y))
