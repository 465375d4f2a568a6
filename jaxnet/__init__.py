"""jaxnet: backpropagation by hand in JAX, proven against automatic differentiation."""

from jaxnet import activations, data, losses
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
from jaxnet.training import NotFinite, State, TrainResult, accuracy, make_step, sgd_step, train

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
    "cost",
    "data",
    "forward",
    "forward_with_backprop",
    "from_augmented",
    "init",
    "input_gradient",
    "losses",
    "make_step",
    "sgd_step",
    "signals",
    "to_augmented",
    "train",
]
