"""Programs that people differentiate, small and plain: a network, a transformer block, a convolutional network."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax


class Program(NamedTuple):
    """A scalar function of parameters and data, and arguments for it."""

    f: Any
    args: tuple[Any, ...]


def idiomatic_forward(params: Any, x: Array) -> Array:
    """The outputs of a sigmoid network as most people write it."""
    h = x
    for weight, bias in params:
        h = jax.nn.sigmoid(h @ weight.T + bias)
    return h


def idiomatic_cost(params: Any, x: Array, y: Array) -> Array:
    """The mean squared error of `idiomatic_forward`."""
    return jnp.mean(jnp.sum((idiomatic_forward(params, x) - y) ** 2, axis=-1))


def idiomatic_cost_of_classes(params: Any, x: Array, y: Array) -> Array:
    """The mean cross-entropy of softmax outputs over sigmoid hidden layers, as most people write it."""
    *hidden, (weight, bias) = params
    return jnp.mean(optax.softmax_cross_entropy(idiomatic_forward(hidden, x) @ weight.T + bias, y))


def transformer_block(
    key: Array, *, batch: int = 8, length: int = 64, width: int = 128, heads: int = 4, dtype: Any = jnp.float32
) -> Program:
    """Causal self-attention and a perceptron with residuals and layer norms: Vaswani et al. 2017, with norms first."""
    keys = iter(jax.random.split(key, 8))

    def weight(*shape: int) -> Array:
        return jax.random.normal(next(keys), shape, dtype) / shape[0] ** 0.5

    params = {
        "query, key, value": weight(width, 3 * width),
        "projection": weight(width, width),
        "up": weight(width, 4 * width),
        "down": weight(4 * width, width),
        "norms": jnp.ones((2, width), dtype),
    }

    def norm(x: Array, scale: Array) -> Array:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        return centred * lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5) * scale[None, None, :]

    def attention(params: Any, x: Array) -> Array:
        mixed = (x @ params["query, key, value"]).reshape(batch, length, 3, heads, width // heads)
        q, k, v = (mixed[:, :, i] for i in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (width // heads) ** 0.5
        causal = jnp.tril(jnp.ones((1, 1, length, length), bool))
        shares = jax.nn.softmax(jnp.where(causal, scores, jnp.asarray(-1e9, dtype)), axis=-1)
        return jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(batch, length, width) @ params["projection"]

    def loss(params: Any, x: Array, y: Array) -> Array:
        with jax.named_scope("attention"):
            x = x + attention(params, norm(x, params["norms"][0]))
        with jax.named_scope("perceptron"):
            x = x + jax.nn.gelu(norm(x, params["norms"][1]) @ params["up"]) @ params["down"]
        return jnp.mean((x - y) ** 2)

    x, y = (jax.random.normal(next(keys), (batch, length, width), dtype) for _ in range(2))
    return Program(loss, (params, x, y))


def convolutional_network(key: Array, *, batch: int = 32, size: int = 28, dtype: Any = jnp.float32) -> Program:
    """Two convolutions with maximum pooling and a linear layer on images, softmax cross-entropy: LeCun et al. 1998."""
    keys = iter(jax.random.split(key, 5))

    def weight(*shape: int) -> Array:
        return jax.random.normal(next(keys), shape, dtype) * 0.1

    params = {"conv1": weight(3, 3, 1, 16), "conv2": weight(3, 3, 16, 32), "linear": weight((size // 4) ** 2 * 32, 10)}

    def layer(x: Array, kernel: Array) -> Array:
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def loss(params: Any, x: Array, labels: Array) -> Array:
        x = layer(layer(x, params["conv1"]), params["conv2"])
        logits = x.reshape(batch, -1) @ params["linear"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))

    x = jax.random.normal(next(keys), (batch, size, size, 1), dtype)
    return Program(loss, (params, x, jax.random.randint(next(keys), (batch,), 0, 10)))
