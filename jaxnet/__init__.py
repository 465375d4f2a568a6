"""jaxnet: backpropagation by hand in JAX, proven against automatic differentiation."""

from jaxnet import activations, check, curvature, data, ensemble, graph, kernel, losses, optimizers, per_example
from jaxnet.backprop import (
    Signals,
    autodiff,
    backprop,
    cost,
    forward,
    forward_with_backprop,
    input_gradient,
    signals,
)
from jaxnet.network import Layer, Network, from_augmented, init, to_augmented
from jaxnet.steps import State, accuracy, make_step, sgd_step
from jaxnet.training import NotFinite, TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "Layer",
    "Network",
    "NotFinite",
    "Signals",
    "State",
    "TrainResult",
    "accuracy",
    "activations",
    "autodiff",
    "backprop",
    "check",
    "cost",
    "curvature",
    "data",
    "ensemble",
    "forward",
    "forward_with_backprop",
    "from_augmented",
    "graph",
    "init",
    "input_gradient",
    "kernel",
    "losses",
    "make_step",
    "optimizers",
    "per_example",
    "sgd_step",
    "signals",
    "to_augmented",
    "train",
]
