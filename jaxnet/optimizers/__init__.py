"""Optimizers built on what the two passes leave, as optax gradient transformations for `jaxnet.train`."""

from jaxnet.optimizers.adaptive_batch import AdaptiveBatchState, adaptive_batch
from jaxnet.optimizers.kfac import kfac
from jaxnet.optimizers.levenberg_marquardt import levenberg_marquardt

__all__ = ["AdaptiveBatchState", "adaptive_batch", "kfac", "levenberg_marquardt"]
