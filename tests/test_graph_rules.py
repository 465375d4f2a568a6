"""Every cotangent rule against ``jax.grad``: compiled, equation by equation, and differentiated once more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from jax import lax
from programs import PROGRAMS, program

from jaxnet import graph
from jaxnet.graph.recording import record
from jaxnet.graph.registry import RULES

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")]

TOLERANCE = 1e-10
# Loops, branches and programs within, where the ways through differ most.
NESTED = list(PROGRAMS)[list(PROGRAMS).index("compiled") :]
# What JAX itself does not differentiate twice, or not without a promotion of dtypes.
ONCE = {
    "incomplete gamma",
    "gamma samples",
    "own derivative",
    "powers of 0",
    "integer exponents",
    "eigenvalues that are equal",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_gradients(name):
    f, args = program(name)
    argnums = tuple(range(len(args)))
    both = jax.jit(lambda *args: (graph.grad(f, argnums)(*args), jax.grad(f, argnums)(*args)))
    assert_close(*both(*args), TOLERANCE)


@pytest.mark.parametrize("name", NESTED)
def test_traced_gradients(name):
    f, args = program(name)
    expected = jax.jit(jax.grad(f, tuple(range(len(args)))))(*args)
    for unroll in (True, False):
        traced = graph.trace(f, unroll=unroll)(*args)
        assert_close(traced.gradients, expected, TOLERANCE)
        assert_close(traced.value, f(*args), TOLERANCE)
        for node in traced.nodes:
            if node.can_open and node.active:
                opened = node.open()
                edges = [edge.contribution for edge in node.edges]
                if name not in ("own derivative", "own derivative, with integers", "kinks of others"):
                    given = [(a, b) for a, b in zip(opened.gradients, edges, strict=True) if b is not None]
                    if len(traced.nodes[node.index].equation.results) == 1 and given:
                        assert_close([a for a, _ in given], [b for _, b in given], TOLERANCE)


def check_twice(name):
    f, args = program(name)
    argnums = tuple(range(len(args)))
    rng = np.random.default_rng(1)
    tangents = tuple(jnp.asarray(rng.normal(size=x.shape)) for x in args)

    def along(gradient):
        return lambda *args: jax.jvp(gradient, args, tangents)[1]

    def weighted(gradient):
        return lambda *args: sum(jnp.vdot(t, g) for t, g in zip(tangents, gradient(*args), strict=True))

    forward, forward_expected, backward, backward_expected = jax.jit(
        lambda *args: (
            along(graph.grad(f, argnums))(*args),
            along(jax.grad(f, argnums))(*args),
            graph.grad(weighted(graph.grad(f, argnums)), argnums)(*args),
            jax.grad(weighted(jax.grad(f, argnums)), argnums)(*args),
        )
    )(*args)
    assert_close(forward, forward_expected, TOLERANCE)
    assert_close(backward, backward_expected, TOLERANCE)


@pytest.mark.parametrize("name", ["arithmetic", "products", "pooling", "solving", "scan", "branch", "compiled"])
def test_differentiated_again(name):
    check_twice(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in ONCE])
def test_differentiated_again_all(name):
    check_twice(name)


def test_every_rule_is_tested_and_there_are_enough():
    assert len(RULES) >= 90
    used = set()
    for name in PROGRAMS:
        f, args = program(name)

        def look(*args, f=f):
            tape = record(f, args, range(len(args))).tape
            used.update(e.primitive for e in tape.equations if any(tape.active[i] for i in e.operands))

        jax.eval_shape(look, *args)
    unused = {primitive.name for primitive in RULES} - {primitive.name for primitive in used}
    unused -= {"cube"}  # of a doctest
    # These have tests of their own; the last is of JAX 0.11.
    assert unused <= {"while", "zeta", "add_any", "one_minus_square"}


def test_what_only_jax_grad_makes():
    """Sums of slopes over paths, and in JAX 0.11 the slope of tanh."""
    x = jnp.array([-1.5, 0.2, 0.9])
    slope = graph.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(jnp.tanh(x) * x))(x)))(x)
    y = jnp.tanh(x)
    assert_close(slope, 2 * (1 - y**2) * (1 - x * y), TOLERANCE)


def test_the_zeta_function():
    q = jnp.array([0.5, 1.0, 2.5])
    slope = graph.grad(lambda q: jnp.sum(lax.zeta(jnp.full_like(q, 2.0), q)))(q)
    assert_close(slope, -2 * lax.zeta(jnp.full_like(q, 3.0), q), TOLERANCE)


def test_a_while_loop_goes_back_over_what_it_ran():
    def f(x):
        return lax.while_loop(lambda c: c[0] < 4.0, lambda c: (c[0] * jnp.exp(x), c[1] + 1), (x, 0))[0]

    def unrolled(x):
        return x * jnp.exp(x) ** 2

    x = jnp.array(0.9)
    assert_close(f(x), unrolled(x))
    assert_close(graph.grad(f)(x), jax.grad(unrolled)(x), TOLERANCE)
    assert_close(graph.trace(f)(x).gradients[0], jax.grad(unrolled)(x), TOLERANCE)
    with pytest.raises(NotImplementedError, match="number is not known"):
        jax.jit(graph.grad(f))(x)
    assert_close(jax.jit(graph.grad(lambda x: x + lax.stop_gradient(f(x))))(x), 1.0)
