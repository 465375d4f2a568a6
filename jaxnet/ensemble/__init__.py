"""Thousands of networks in one compiled call: initialised, evaluated and trained side by side, each as if alone."""

from jaxnet._sharding import with_automatic_axes
from jaxnet.ensemble import training
from jaxnet.ensemble._layouts import Layout
from jaxnet.ensemble.members import forward, init
from jaxnet.ensemble.training import EnsembleResult, Failures

__all__ = ["EnsembleResult", "Failures", "Layout", "forward", "init", "train"]

train = with_automatic_axes(training.train)
