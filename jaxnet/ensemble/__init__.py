"""Thousands of networks in one compiled call: initialised, evaluated and trained side by side, each as if alone."""

from jaxnet.ensemble._layouts import Layout
from jaxnet.ensemble.members import forward, init
from jaxnet.ensemble.training import EnsembleResult, Failures, train

__all__ = ["EnsembleResult", "Failures", "Layout", "forward", "init", "train"]
