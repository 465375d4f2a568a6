"""Loops that XLA compiles to one function: the same numbers, whatever they hold, and whatever they do not need."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import OUTPUTS_AND_LOSSES, name_of
from jax import lax

from jaxnet import Network, ensemble
from jaxnet._one_function import COMPILER_OPTIONS, in_one_function


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile(COMPILER_OPTIONS)


def functions(program):
    """How many functions XLA made of what was marked; it marks by itself what it takes for small."""
    return sum(" call(" in line and "inlineable" in line for line in program.as_text().splitlines())


def repeat(step, times):
    return lambda carry: lax.fori_loop(0, times, lambda _, carry: step(carry), carry)


X = jnp.linspace(-1.0, 1.0, 32 * 3 * 16).reshape(32, 3, 16)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x + 0.1 * jnp.tanh(x) * jnp.sin(x),
        lambda x: x - jnp.sum(x, axis=1, keepdims=True) / 7,  # by itself XLA leaves such a sum to a library
        lambda x: x / (1 + jnp.max(jnp.abs(x))),
        lambda x: jnp.where(jnp.isfinite(x), jnp.cumsum(x, axis=0), 0) / 32,
        lambda x: lax.cond(x[0, 0, 0] > 0, lambda x: x - 0.5, lambda x: x + 0.25, x),
        lambda x: lax.scan(lambda total, row: (total + row, total), x[0], x)[1] / 16,
        lambda x: lax.dynamic_update_index_in_dim(x, x[0] / 2, jnp.argmax(x[:, 0, 0]), 0),
    ],
)
def test_loops_become_one_function_with_the_same_numbers(step):
    loop = repeat(step, 5)
    program = compiled(lambda x: in_one_function(loop, x), X)
    assert functions(program) == 1
    np.testing.assert_allclose(program(X), jax.jit(loop)(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: jnp.sort(x, axis=0) * 0.9,
        lambda x: x.at[jnp.array([3, 5])].add(1.0),
        lambda x: x + x @ jnp.ones((16, 16)) / 16,
        lambda x: x + jnp.linalg.cholesky(jnp.eye(16) + x[0, 0, 0] ** 2)[1, 1],
        lambda x: x + jnp.sum(jnp.broadcast_to(x, (50, *x.shape))) / 1e6,
    ],
)
def test_what_one_function_cannot_hold_stays_as_it_is(step):
    loop = repeat(step, 5)
    program = compiled(lambda x: in_one_function(loop, x), X)
    assert functions(program) == 0
    np.testing.assert_allclose(program(X), jax.jit(loop)(X), rtol=1e-5, atol=1e-6)


def test_long_sums_may_be_part_of_it_where_each_is_of_many_beside_it():
    """Sums over all axes but the last are vectors that are added up."""

    def step(x):
        many = jnp.broadcast_to(x, (200, *x.shape))
        return x + jnp.broadcast_to(jnp.sum(many, axis=(0, 1)), x.shape) / 1e6

    loop = repeat(step, 5)
    program = compiled(lambda x: in_one_function(loop, x), X)
    assert functions(program) == 1
    np.testing.assert_allclose(program(X), jax.jit(loop)(X), rtol=1e-5, atol=1e-6)


def test_few_products_may_be_part_of_it():
    loop = repeat(lambda x: jnp.tanh(x @ jnp.eye(16) @ jnp.eye(16)), 5)
    programs = [compiled(lambda x, most=most: in_one_function(loop, x, products=most), X) for most in (1, 2)]
    assert [functions(program) for program in programs] == [0, 1]
    for program in programs:
        np.testing.assert_allclose(program(X), jax.jit(loop)(X), rtol=1e-5, atol=1e-6)


def test_parts_become_functions_where_the_whole_cannot():
    def epoch(x):
        return in_one_function(repeat(jnp.tanh, 4), in_one_function(repeat(jnp.sin, 3), jnp.sort(x, axis=0)))

    program = compiled(lambda x: in_one_function(lambda x: lax.fori_loop(0, 2, lambda _, x: epoch(x), x), x), X)
    assert functions(program) == 2
    whole = compiled(lambda x: in_one_function(lambda x: in_one_function(repeat(jnp.tanh, 4), x) * 2, x), X)
    assert functions(whole) == 1


def test_what_a_loop_does_not_need_is_no_harm():
    """XLA would abort where a function has an input without use: an argument, a capture, or dead when simplified."""

    def f(x, unused, flag, key, zero_sized):
        def loop(carry):
            def step(i, carry):
                x, dead, count = carry
                gone = jnp.where(flag & ~flag, unused[0], 0.0)  # XLA finds out that it is 0
                return x + jnp.sin(x) + gone, dead * 2, count + i

            return lax.fori_loop(0, 3, step, carry)[0]

        return in_one_function(loop, (x, key.astype(x.dtype), 0)), zero_sized

    arguments = X, jnp.arange(20.0), jnp.asarray(True), jnp.arange(4), jnp.zeros((0, 3))
    program = compiled(f, *arguments)
    assert functions(program) == 1
    np.testing.assert_allclose(program(*arguments)[0], jax.jit(repeat(lambda x: x + jnp.sin(x), 3))(X), rtol=1e-6)


def test_results_keep_their_structure():
    def f(x):
        found = in_one_function(lambda x: {"a": (x + 1, None), "b": [x.astype(jnp.int32)], "c": ()}, x)
        assert found["c"] == ()
        assert found["a"][1] is None
        return found

    found = compiled(f, X)(X)
    np.testing.assert_array_equal(found["a"][0], X + 1)
    assert found["b"][0].dtype == jnp.int32


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="loops are one function on a CPU only")
@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize(("output", "loss"), OUTPUTS_AND_LOSSES, ids=name_of)
def test_steps_of_an_ensemble_are_one_function_with_every_loss(output, loss, batch_size, monkeypatch):
    programs, compiled_for = [], ensemble.training._compiled_for

    def kept(*arguments):
        programs.append(compiled_for(*arguments))
        return programs[-1]

    monkeypatch.setattr(ensemble.training, "_compiled_for", kept)
    net = Network(output=output, loss=loss)
    params = ensemble.init(jax.random.key(0), 32, (2, 3, 3))
    data = jnp.linspace(-1.0, 1.0, 16).reshape(8, 2), jnp.eye(3)[jnp.arange(8) % 3]
    result = ensemble.train(
        jax.random.key(1),
        params,
        data,
        net=net,
        optimizer=optax.sgd(0.1),
        epochs=3,
        batch_size=batch_size,
        layout="members last",
    )
    assert np.all(np.isfinite(result.history["cost"]))
    assert functions(programs[-1])
