"""A batch that grows with the noise in the gradient: as many small batches a step as the noise scale asks for."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxnet._numeric import total_square
from jaxnet._validate import check_optimizer, checked_count
from jaxnet.optimizers._common import check_decay

__all__ = ["AdaptiveBatchState", "adaptive_batch"]


class AdaptiveBatchState(NamedTuple):
    """The state of `adaptive_batch`.

    ``opt_state``: that of the wrapped optimizer. ``total``, ``squares``, ``taken``: the sum of the gradients of the
    small batches since the last step, the sum of their squared norms, and their number. ``size``: how many the step
    under way will take. ``noise``, ``signal``: running averages of the estimates of tr Σ and ‖G‖², with Σ the
    covariance of the gradient of a small batch; their ratio is the noise scale in small batches.
    """

    opt_state: Any
    total: Any
    squares: Array
    taken: Array
    size: Array
    noise: Array
    signal: Array


def adaptive_batch(
    optimizer: optax.GradientTransformation, *, largest: int, decay: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Take a step of ``optimizer`` only when the small batches since the last one add up to the gradient noise scale.

    Like ``optax.MultiSteps`` with a number of small batches k that follows the gradient. From the k gradients gⱼ of one
    step, with mean ḡ, the two batch sizes 1 and k give estimates without bias (McCandlish et al. 2018, appendix A.1):

        ‖G‖² ≈ (k ‖ḡ‖² − meanⱼ ‖gⱼ‖²) / (k − 1),  tr Σ ≈ (meanⱼ ‖gⱼ‖² − ‖ḡ‖²) / (1 − 1/k)

    Each is averaged over the steps, and the next step takes k = tr Σ / ‖G‖² small batches, rounded up, from 2 to
    ``largest``. So the size of the small batches need not be known: times k it is the batch size, times the ratio the
    noise scale. Two are the least because one shows no noise: choose small batches of half the smallest batch wanted.

    In `jaxnet.train`, ``batch_size`` is that of the small batches; the parameters change at the last one of each step.
    The wrapped optimizer sees the mean gradient, as ``grad`` too; its schedules count its own steps, and one that asks
    for the cost sees that of the last small batch. A short last batch of an epoch counts as one small batch.

    Parameters
    ----------
    optimizer
        Any optax optimizer: ``optax.adam(1e-3)``.
    largest
        The most small batches in a step, at least 2; taken where the noise hides the gradient, ‖G‖² ≤ 0.
    decay
        Of the averages, in [0, 1): they remember about 1 / (1 − decay) steps.

    Returns
    -------
    An optax transformation, with `AdaptiveBatchState` as its state.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    >>> import jax, jaxnet, optax
    >>> optimizer = jaxnet.optimizers.adaptive_batch(optax.sgd(1.0), largest=16)
    >>> key = jax.random.key(0)
    >>> data = jaxnet.data.moons(key, 256)
    >>> params = jaxnet.init(key, (2, 8, 1))
    >>> result = jaxnet.train(key, params, data, optimizer=optimizer, epochs=20, batch_size=8)
    >>> bool(2 <= result.opt_state.size <= 16)
    True
    """
    check_optimizer(optimizer)
    largest = checked_count("largest", largest, least=2)
    check_decay(decay)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> AdaptiveBatchState:
        zero = jnp.zeros_like(total_square(params))
        return AdaptiveBatchState(
            opt_state=inner.init(params),
            total=jax.tree.map(jnp.zeros_like, params),
            squares=zero,
            taken=jnp.asarray(0, jnp.int32),
            size=jnp.asarray(2, jnp.int32),
            noise=zero,
            signal=zero,
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, AdaptiveBatchState]:
        state = state._replace(
            total=jax.tree.map(jnp.add, state.total, updates),
            squares=state.squares + total_square(updates),
            taken=state.taken + 1,
        )

        def step(state: AdaptiveBatchState) -> tuple[Any, AdaptiveBatchState]:
            mean = jax.tree.map(lambda total: total / state.taken.astype(total.dtype), state.total)
            own = extra | {"grad": mean} if "grad" in extra else extra
            changes, opt_state = inner.update(mean, state.opt_state, params, **own)
            return changes, _next(state._replace(opt_state=opt_state), total_square(mean), largest, decay)

        def wait(state: AdaptiveBatchState) -> tuple[Any, AdaptiveBatchState]:
            return jax.tree.map(jnp.zeros_like, updates), state

        return lax.cond(state.taken >= state.size, step, wait, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _next(state: AdaptiveBatchState, of_mean: Array, largest: int, decay: float) -> AdaptiveBatchState:
    """After a step: the estimates from it, the size of the next one, and nothing gathered yet."""
    k = state.taken.astype(of_mean.dtype)
    mean_of = state.squares / k
    signal = decay * state.signal + (1 - decay) * (k * of_mean - mean_of) / (k - 1)
    noise = decay * state.noise + (1 - decay) * (mean_of - of_mean) / (1 - 1 / k)
    # Both averages start from 0, by the same factor too small: their ratio is not.
    wanted = jnp.where(signal > 0, noise / signal, largest)
    return state._replace(
        total=jax.tree.map(jnp.zeros_like, state.total),
        squares=jnp.zeros_like(state.squares),
        taken=jnp.zeros_like(state.taken),
        size=jnp.clip(jnp.ceil(wanted), 2, largest).astype(state.size.dtype),
        noise=noise,
        signal=signal,
    )
