"""What a network is: its layers (data) and its kind (activations, loss, penalty), and how layers are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers
from jax.typing import ArrayLike, DTypeLike

from jaxnet._validate import check_key, check_params, checked_dtype, checked_scalar, checked_sizes, describe
from jaxnet.activations import Activation, identity, sigmoid
from jaxnet.losses import Loss, squared_error

__all__ = ["Layer", "Network", "from_augmented", "init", "to_augmented"]


class Layer(NamedTuple):
    """One layer a = h Wᵀ + b: ``weight`` (units, inputs) and ``bias`` (units,). Parameters are a tuple of them."""

    weight: Array
    bias: Array


Params = Sequence[Layer]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Network:
    """The kind of a network: everything but its parameters.

    Parameters
    ----------
    hidden
        Activation of every hidden layer.
    output
        Activation of the output layer.
    loss
        Loss of one example. The cost is its mean over the examples, plus the penalty.
    l2
        Strength of the penalty l2/2 · Σ W², over weights and not biases. It is data: one number, which may be traced,
        or mapped over by ``vmap``. The Python number 0 costs nothing in compiled code, unless it is an argument of it.

    Raises
    ------
    TypeError
        If an activation is not an `Activation` or the loss not a `Loss`.
    ValueError
        If the loss does not go with the output, or a Python l2 is negative or not finite.

    >>> from jaxnet import activations, losses
    >>> Network(output=activations.softmax, loss=losses.softmax_cross_entropy).hidden
    Activation(name='sigmoid')
    """

    hidden: Activation = field(default=sigmoid, metadata={"static": True})
    output: Activation = field(default=sigmoid, metadata={"static": True})
    loss: Loss = field(default=squared_error, metadata={"static": True})
    l2: ArrayLike = 0.0

    def __post_init__(self) -> None:
        for argument in ("hidden", "output"):
            value = getattr(self, argument)
            if not isinstance(value, Activation):
                raise TypeError(f"{argument} is {value!r}, expected a jaxnet.activations.Activation such as sigmoid")
        if not isinstance(self.loss, Loss):
            raise TypeError(f"loss is {self.loss!r}, expected a jaxnet.losses.Loss such as squared_error")
        link = self.loss.link
        if link is not None and self.output not in (link, identity):
            raise ValueError(
                f"loss {self.loss.name} takes logits, so the output must be {link.name} (or identity, where the "
                f"outputs are the logits), but it is {self.output.name}"
            )
        # Any other l2 may be on its way through a transformation of JAX; it is checked where it is used.
        if isinstance(self.l2, (int, float)) and not 0 <= self.l2 < math.inf:
            raise ValueError(f"l2 is {self.l2}, expected a number >= 0")

    @property
    def penalised(self) -> bool:
        """False where l2 is the Python number 0, so that compiled code holds nothing for it."""
        return not (isinstance(self.l2, (int, float)) and self.l2 == 0)


def check_network(net: Any) -> None:
    """Raise unless ``net`` is a network whose l2 is one real number, traced or not."""
    if not isinstance(net, Network):
        raise TypeError(f"net is {describe(net)}, expected a jaxnet.Network")
    if type(net.l2) not in (int, float):  # those are checked when a network is made
        checked_scalar("net.l2", net.l2, jnp.float32, least=0, finite=True)


def _symmetric_uniform(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def _with_zero_bias(weight_init: Callable[..., Array]) -> Callable[..., Array]:
    """An initialiser of [W | b] from one of W: the bias column starts at zero."""

    def augmented(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Array:
        units, columns = shape
        weight = weight_init(key, (units, columns - 1), dtype)
        return jnp.concatenate([weight, jnp.zeros((units, 1), dtype)], axis=1)

    return augmented


# Each draws a layer's augmented matrix [W | b].
_SCHEMES = {
    "lecun": _with_zero_bias(initializers.lecun_normal(in_axis=1, out_axis=0)),
    "glorot": _with_zero_bias(initializers.glorot_normal(in_axis=1, out_axis=0)),
    "he": _with_zero_bias(initializers.he_normal(in_axis=1, out_axis=0)),
    "normal": initializers.normal(1.0),
    "uniform": _symmetric_uniform,
    "constant": initializers.ones,
    "zeros": initializers.zeros,
}


def init(
    key: Array,
    sizes: Sequence[int],
    *,
    scheme: str = "lecun",
    scale: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
) -> tuple[Layer, ...]:
    """Parameters for layers of ``sizes`` (inputs, hidden units ..., outputs).

    Parameters
    ----------
    key
        A typed key, ``jax.random.key(seed)``.
    sizes
        At least two positive integers.
    scheme
        How the weights are drawn. With zero biases, truncated normal of variance

        - ``"lecun"``: 1 / inputs, for sigmoid and tanh (LeCun et al. 1998);
        - ``"glorot"``: 2 / (inputs + units) (Glorot & Bengio 2010);
        - ``"he"``: 2 / inputs, for relu (He et al. 2015).

        With the bias treated as one more weight, as in the lecture's matrices,

        - ``"normal"``: standard normal;
        - ``"uniform"``: uniform in [−1, 1);
        - ``"constant"``: all 1 (times ``scale``), equal weights that stay equal for ever;
        - ``"zeros"``: all 0.
    scale
        A factor on all of it; may be traced.
    dtype
        Floating dtype; JAX's default float if None.

    Returns
    -------
    A tuple of `Layer`, first layer first.

    Raises
    ------
    TypeError, ValueError
        If the key is not a typed key, a size is not a positive integer, the scheme is unknown, or the dtype is not
        a float or is float64 while JAX's 64-bit mode is off.

    >>> params = init(jax.random.key(0), (2, 3, 1))
    >>> [layer.weight.shape for layer in params]
    [(3, 2), (1, 3)]
    """
    check_key(key)
    sizes = checked_sizes(sizes)
    if not isinstance(scheme, str) or scheme not in _SCHEMES:
        raise ValueError(f"scheme is {scheme!r}, expected one of {', '.join(sorted(_SCHEMES))}")
    dtype = checked_dtype(dtype)
    return _drawn(key, checked_scalar("scale", scale, dtype), sizes, scheme, dtype)


# Operation by operation, its first call takes 1.7 times as long.
@partial(jax.jit, static_argnames=("sizes", "scheme", "dtype"))
def _drawn(key: Array, scale: Array, sizes: tuple[int, ...], scheme: str, dtype: DTypeLike) -> tuple[Layer, ...]:
    keys = jax.random.split(key, len(sizes) - 1)
    return from_augmented(
        scale * _SCHEMES[scheme](keys[i], (units, inputs + 1), dtype)
        for i, (inputs, units) in enumerate(pairwise(sizes))
    )


def to_augmented(params: Params) -> tuple[Array, ...]:
    """The lecture's matrices V, W, ...: each layer as [weight | bias], (units, inputs + 1).

    With a constant 1 as last entry of x and h, the layer is V x: s(W (s₁(V (x, 1)), 1)) is `forward`.

    >>> to_augmented((Layer(jnp.array([[1.0, 2.0]]), jnp.array([3.0])),))
    (Array([[1., 2., 3.]], dtype=float32),)
    """
    check_params(params)
    return tuple(jnp.column_stack([layer.weight, layer.bias]) for layer in params)


def from_augmented(matrices: Any) -> tuple[Layer, ...]:
    """Layers from the lecture's matrices, each (units, inputs + 1) with the bias as last column.

    The inverse of `to_augmented`. Raises ValueError if a matrix is not 2-d with at least two columns, or if the
    matrices do not fit each other.

    >>> from_augmented([jnp.array([[1.0, 2.0, 3.0]])])
    (Layer(weight=Array([[1., 2.]], dtype=float32), bias=Array([3.], dtype=float32)),)
    """
    try:
        matrices = tuple(jnp.asarray(matrix) for matrix in matrices)
    except (TypeError, ValueError):
        raise TypeError(f"matrices is {describe(matrices)}, expected a sequence of matrices") from None
    for i, matrix in enumerate(matrices):
        if matrix.ndim != 2 or matrix.shape[1] < 2:
            raise ValueError(
                f"matrices[{i}] has shape {matrix.shape}, expected (units, inputs + 1), the bias as last column"
            )
    params = tuple(Layer(weight=matrix[:, :-1], bias=matrix[:, -1]) for matrix in matrices)
    check_params(params)
    return params
