"""Beyond the gradient: what the activations and deltas of the two passes tell about data, training and curvature.

Six parts, on the digits that scikit-learn ships; the quantities are checked against their definitions by automatic
differentiation.

(1) Labels flipped on purpose stand out by the norm of their example's gradient, and by its disagreement with the
gradients of held-out examples of the same label, while the class that an example works against most is its true one
(TracIn, Pruthi et al. 2020). The loss, shown beside them, ranks as well, but names no class.

(2) The gradient noise scale grows several times over in training (McCandlish et al. 2018), and
`jaxnet.optimizers.adaptive_batch` follows it.

(3) A few large eigenvalues of the Hessian stand apart from a bulk at zero and hold most of the trace (Sagun et al.
2017; by Lanczos, as in Ghorbani et al. 2019).

(4) The tangent kernel (Jacot et al. 2018) moves, and towards the labels (alignment of Cortes et al. 2012).

(5) Private training by clipping and noise (Abadi et al. 2016) gives up accuracy step by step with the noise.

(6) Levenberg-Marquardt brings XOR and a small regression to a cost of 1e-12 in tens of steps, where gradient descent
does not arrive in thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

import jaxnet
from experiments._beyond_curvature import second_order, spectrum, tangent_kernel
from experiments._beyond_examples import mislabelled, noise_scale, private
from experiments._beyond_runs import LOGITS, NET, Part, Settings, splits, train
from experiments.common import Claim, Result, check_at_least, console, gradient_agreement, main
from jaxnet import curvature, kernel, per_example
from jaxnet.data import Data


def run(settings: Settings, *, progress: bool = False) -> Result:
    """All six parts; numbers and figures by the parts' names, and all claims."""
    check_at_least(settings, hidden=1, repeats=1, epochs=1, batch_size=1, private_steps=1, starts=1, steps=1)
    if not 0 < settings.flipped < 1:
        raise ValueError(f"flipped is {settings.flipped}, expected a number between 0 and 1")
    keys = jax.random.split(jax.random.key(settings.seed), 7)
    training, held_out = splits(keys[0], settings.repeats)
    if settings.batch_size > (n := training.x.shape[1]):
        raise ValueError(f"batch_size is {settings.batch_size}, expected at most the {n} training examples")
    # In NumPy, where a slice of every leaf is no program to compile.
    runs = jax.tree.map(np.asarray, train(keys[1], training, held_out, settings))
    parts: dict[str, Callable[[], Part]] = {
        "mislabelled": lambda: mislabelled(keys[2], training, held_out, settings),
        "noise_scale": lambda: noise_scale(keys[3], runs, settings),
        "spectrum": lambda: spectrum(keys[4], runs),
        "kernel": lambda: tangent_kernel(runs),
        "private": lambda: private(keys[5], runs, settings),
        "second_order": lambda: second_order(keys[6], settings),
    }
    numbers: dict[str, Any] = {}
    drawn = {}
    claims: tuple[Claim, ...] = ()
    for name, part in parts.items():
        if progress:
            console.print(f"[dim]{name} ...")
        found, drawn[name], stated = part()
        claims += stated
        numbers |= {f"{name}: {key}": value for key, value in found.items()}
    numbers["gradient_agreement"] = agreement(*(jax.tree.map(lambda leaf: leaf[0], tree) for tree in runs[:2]))
    return Result(numbers, drawn, claims)


def agreement(states: jaxnet.State, training: Data) -> dict[str, Any]:
    """The quantities by hand against their definitions by ``jax.grad``, for a trained network and eight examples."""
    params = jax.tree.map(lambda leaf: leaf[-1], states.params)

    def by_hand(params: Any, x: Array, y: Array) -> dict[str, Any]:
        return {
            "norms": per_example.norms(params, x, y, NET),
            "products": per_example.dot_products(params, x, y, NET),
            "noise": per_example.noise_and_signal(params, x, y, NET)[0],
            "clipped": ravel_pytree(per_example.clipped_gradient(params, x, y, NET, bound=1.0)[1])[0],
            "hessian": ravel_pytree(curvature.hvp(params, x, y, params, NET))[0],
            "kernel": kernel.empirical_ntk(params, x, net=LOGITS, outputs="trace"),
        }

    def automatic(params: Any, x: Array, y: Array) -> dict[str, Any]:
        theta, unravel = ravel_pytree(params)
        gradient = jax.grad(lambda theta, x, y: jaxnet.cost(unravel(theta), x, y, NET))
        gradients = jax.vmap(gradient, (None, 0, 0))(theta, x, y)
        norms = jnp.linalg.norm(gradients, axis=1)
        jacobian = jax.jacobian(lambda theta: jaxnet.forward(unravel(theta), x, LOGITS))(theta)
        return {
            "norms": norms,
            "products": gradients @ gradients.T,
            "noise": jnp.sum(jnp.var(gradients, axis=0, ddof=1)),
            "clipped": jnp.minimum(1, 1 / norms) @ gradients / len(x),
            "hessian": jax.jvp(lambda theta: gradient(theta, x, y), (theta,), (theta,))[1],
            "kernel": jnp.einsum("iop,jop->ij", jacobian, jacobian),
        }

    return gradient_agreement(by_hand, automatic, (params, training.x[:8], training.y[:8]))


FULL: dict[str, Any] = {"repeats": 16}

if __name__ == "__main__":
    raise SystemExit(main("beyond_gradient", run, Settings, FULL, __doc__))
