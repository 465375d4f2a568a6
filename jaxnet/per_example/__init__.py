"""What each example's own gradient tells, from one pair of passes and without forming n × parameters numbers.

The gradient of example i is that of the cost on this example alone,

    gᵢ = ∂/∂θ (ℓᵢ + l2/2 · Σ W²),        of each layer: δᵢ hᵢᵀ + l2 W for the weight and δᵢ for the bias,

so that their mean, with the weights of the examples, is the gradient of `jaxnet.backprop`. Means (`second_moment`,
`variance`, `clipped_gradient`, ...) take example weights; what is of one example (`norms`, `gradients`) needs none.
"""

from jaxnet.per_example.clipping import clipped_gradient, private_gradient
from jaxnet.per_example.gradients import cosine_to_mean, dot_products, gradients, norms
from jaxnet.per_example.moments import noise_and_signal, noise_scale, second_moment, signal_to_noise, variance

__all__ = [
    "clipped_gradient",
    "cosine_to_mean",
    "dot_products",
    "gradients",
    "noise_and_signal",
    "noise_scale",
    "norms",
    "private_gradient",
    "second_moment",
    "signal_to_noise",
    "variance",
]
