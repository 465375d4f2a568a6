"""Optimizers built on what the hand-written passes give, as optax transformations for `jaxnet.train`."""

from jaxnet.optimizers.adaptive_batch import AdaptiveBatchState, adaptive_batch

__all__ = ["AdaptiveBatchState", "adaptive_batch"]
