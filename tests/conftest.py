"""What all tests run under: strictness, the two dtypes, and the place of real data."""

import os
from contextlib import ExitStack

import hypothesis
import jax
import jax.numpy as jnp
import pytest

if jax.config.read("jax_disable_most_optimizations") and jax.__version_info__ < (0, 11):
    # What make test compiles in a hurry, XLA's older emitters compile faster; JAX 0.11 has no others.
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"

hypothesis.settings.register_profile("jaxnet", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("jaxnet")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both dtypes; 64-bit mode is on within a float64 test and off again after it."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _strict(request):
    """No silent change of rank; nor of dtype, except where optax's schedules need it (marker ``promotes``)."""
    with ExitStack() as stack:
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        if "promotes" not in request.keywords:
            stack.enter_context(jax.numpy_dtype_promotion("strict"))
        yield


@pytest.fixture(autouse=True)
def _optimized(request):
    """Programs of tests with the marker ``optimized`` are optimised, also where make test compiles in a hurry."""
    hurried = jax.config.read("jax_disable_most_optimizations")
    if "optimized" in request.keywords:
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", hurried)


@pytest.fixture
def mnist_folder():
    """The folder of the real MNIST files."""
    folder = os.environ.get("JAXNET_DATA")
    if folder is None:
        pytest.skip("needs the MNIST files: set JAXNET_DATA to the folder that holds them")
    return folder
