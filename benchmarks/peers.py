"""Those who train the same network on the same data: ours, plain NumPy, and the libraries that people use for it.

Each is written as its library documents it, in one class: made from a problem, runs epochs, gives its parameters.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet
from benchmarks.harness import interleave
from benchmarks.programs import idiomatic_cost
from jaxnet import Layer, Network, _loop, activations, losses
from jaxnet.steps import Gradient

Parameters = list[np.ndarray]
"""Weight (units, inputs) and bias of the first layer, then of the second."""


class Problem(NamedTuple):
    """What is trained on, and from where: one hidden layer of sigmoid units, plain SGD, float32."""

    x: np.ndarray
    y: np.ndarray
    batch: int
    rate: float
    start: Parameters

    @property
    def whole(self) -> bool:
        """One batch is everything, so that there is nothing to shuffle."""
        return self.batch >= len(self.x)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Inputs, hidden units, outputs."""
        hidden, inputs = self.start[0].shape
        return inputs, hidden, len(self.start[3])


def problem(x: np.ndarray, y: np.ndarray, hidden: int, batch: int, rate: float = 0.1) -> Problem:
    """A problem with random parameters to start from."""
    params = jaxnet.init(jax.random.key(0), (x.shape[1], hidden, y.shape[1]))
    return Problem(x, y, batch, rate, [np.array(leaf) for leaf in jax.tree.leaves(params)])


def data(name: str, load: Callable[[], Any], shape: tuple[int, int], notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The first examples of a set, or where it cannot be read random ones, which take the same time, and a note."""
    try:
        x, y = load()
    except (OSError, ImportError) as error:
        notes.append(f"Random numbers stand for {name}, which cannot be read here: {error}")
        rng = np.random.default_rng(0)
        return rng.random(shape, np.float32), np.eye(10, dtype=np.float32)[rng.integers(10, size=shape[0])]
    return np.asarray(x[: shape[0]]), np.asarray(y[: shape[0]])


class MissingError(Exception):
    """A peer cannot run here."""


INSTALL = "pip install '.[experiments]' --group benchmarks"
"""What installs all of them."""


def library(name: str, title: str) -> Any:
    """A module of a peer, which the type checker may not find either."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise MissingError(f"{title} is not installed, so it is left out: {INSTALL}.")
    return importlib.import_module(name)


def on_gpu(torch: Any) -> bool:
    """Whether PyTorch can run on a GPU, where JAX does."""
    return jax.default_backend() == "gpu" and torch.cuda.is_available()


@contextlib.contextmanager
def leaving_out(missing: list[str]) -> Iterator[None]:
    """Goes on without a peer that is not there, and notes which."""
    try:
        yield
    except MissingError as reason:
        missing.append(str(reason))


class Contender(ABC):
    """Trains on and on."""

    net = Network()
    """What jaxnet calls the network that it trains."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(0)

    @abstractmethod
    def epoch(self, order: np.ndarray | None = None) -> Any:
        """Train for an epoch, in this order or shuffled; returns what must be ready when it is over."""

    @abstractmethod
    def parameters(self) -> Parameters:
        """What it has learned, copied."""

    def batches(self, order: np.ndarray | None) -> Iterator[tuple[Any, Any]]:
        """Inputs and targets of every step, as NumPy gathers them."""
        x, y, size, *_ = self.problem
        if self.problem.whole:
            yield x, y
            return
        order = self.rng.permutation(len(x)) if order is None else order
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            yield x[rows], y[rows]


# ----------------------------------------------------------------------------------------------------------------------
# Ours and JAX


class Jaxnet(Contender):
    """`jaxnet.train`, called for one epoch or for some; the data is on the device already."""

    def __init__(
        self, problem: Problem, *, gradient: Gradient = jaxnet.backprop, net: Network = Contender.net, epochs: int = 1
    ) -> None:
        super().__init__(problem)
        self.key, self.optimizer = jax.random.key(1), _sgd(problem.rate)
        self.net, self.gradient, self.epochs = net, gradient, epochs
        self.data = jnp.asarray(problem.x), jnp.asarray(problem.y)
        self.params = _layers(problem)

    def order(self) -> np.ndarray:
        """The order in which its first epoch takes the examples."""
        n = len(self.problem.x)
        return np.arange(n) if self.problem.whole else np.asarray(_loop.shuffled(jax.random.fold_in(self.key, 0), n))

    def epoch(self, order: np.ndarray | None = None) -> Any:
        """A call of `train`: an epoch in its own order, which others can be given."""
        assert order is None or np.array_equal(order, self.order())
        self.params = jaxnet.train(
            self.key, self.params, self.data, net=self.net, optimizer=self.optimizer, epochs=self.epochs,
            batch_size=self.problem.batch, gradient=self.gradient,
        ).params  # fmt: skip
        return self.params

    def parameters(self) -> Parameters:
        """What it has learned, copied."""
        return [np.array(leaf) for leaf in jax.tree.leaves(self.params)]


_sgd = cache(optax.sgd)  # `train` compiles anew for another optimizer, be it equal


def _layers(problem: Problem) -> tuple[Layer, ...]:
    V, b, W, c = map(jnp.array, problem.start)
    return Layer(V, b), Layer(W, c)


class OnDevice(Contender):
    """What is common to those whose steps take JAX's arrays."""

    def __init__(self, problem: Problem) -> None:
        if problem.whole:  # or every step would copy it to the device
            problem = problem._replace(x=jnp.asarray(problem.x), y=jnp.asarray(problem.y))
        super().__init__(problem)


class Jax(OnDevice):
    """A compiled step, called in a Python loop: ``value_and_grad`` of the usual cost, parameters replaced in place."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.params = _layers(problem)
        self.step = jax.jit(partial(_descended, problem.rate), donate_argnums=0)

    def epoch(self, order: np.ndarray | None = None) -> Any:
        """Train for an epoch."""
        for x, y in self.batches(order):
            self.params, _ = self.step(self.params, x, y)
        return self.params

    def parameters(self) -> Parameters:
        """What it has learned, copied."""
        return [np.array(leaf) for leaf in jax.tree.leaves(self.params)]


class JaxGathering(Jax):
    """The same with all data on the device, where the step gathers the rows that it is given."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.data = jnp.asarray(problem.x), jnp.asarray(problem.y)

        @partial(jax.jit, donate_argnums=0)
        def gathering(params: Any, data: tuple[jax.Array, jax.Array], rows: jax.Array) -> Any:
            return _descended(problem.rate, params, data[0][rows], data[1][rows])

        self.gathering = gathering

    def epoch(self, order: np.ndarray | None = None) -> Any:
        """Train for an epoch."""
        if self.problem.whole:
            return super().epoch()
        order = self.rng.permutation(len(self.problem.x)) if order is None else order
        for start in range(0, len(order), self.problem.batch):
            rows = order[start : start + self.problem.batch]
            self.params, _ = self.gathering(self.params, self.data, rows)
        return self.params


def _descended(rate: float, params: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
    value, grads = jax.value_and_grad(idiomatic_cost)(params, x, y)
    return jax.tree.map(lambda p, g: p - rate * g, params, grads), value


class FlaxNNX(OnDevice):
    """A module of ``nnx.Linear`` layers, ``nnx.Optimizer``, and a train step that ``nnx.cached_partial`` binds."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        nnx = library("flax.nnx", "Flax")
        inputs, hidden, outputs = problem.sizes

        class Model(nnx.Module):
            def __init__(self, rngs: Any) -> None:
                self.hidden = nnx.Linear(inputs, hidden, rngs=rngs)
                self.output = nnx.Linear(hidden, outputs, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                return nnx.sigmoid(self.output(nnx.sigmoid(self.hidden(x))))

        @nnx.jit
        def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
            def cost(model: Any) -> jax.Array:
                return jnp.mean(jnp.sum((model(x) - y) ** 2, axis=-1))

            value, grads = nnx.value_and_grad(cost)(model)
            optimizer.update(model, grads)
            return value

        self.model = Model(nnx.Rngs(0))
        self.linear = self.model.hidden, self.model.output
        for layer, (weight, bias) in zip(self.linear, _layers(problem), strict=True):
            layer.kernel[...], layer.bias[...] = weight.T, bias
        optimizer = nnx.Optimizer(self.model, optax.sgd(problem.rate), wrt=nnx.Param)
        self.step = nnx.cached_partial(step, self.model, optimizer)

    def epoch(self, order: np.ndarray | None = None) -> Any:
        """Train for an epoch."""
        for x, y in self.batches(order):
            self.step(x, y)
        return [layer.kernel[...] for layer in self.linear]

    def parameters(self) -> Parameters:
        """What it has learned, copied."""
        return [np.array(found) for layer in self.linear for found in (layer.kernel[...].T, layer.bias[...])]


class Equinox(OnDevice):
    """``eqx.nn.MLP``, mapped over a batch, with ``eqx.filter_jit``, ``eqx.filter_value_and_grad`` and optax."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        eqx = library("equinox", "Equinox")
        inputs, hidden, outputs = problem.sizes
        optimizer = optax.sgd(problem.rate)
        model = eqx.nn.MLP(inputs, outputs, hidden, 1, jax.nn.sigmoid, jax.nn.sigmoid, key=jax.random.key(0))
        self.leaves = lambda model: [leaf for layer in model.layers for leaf in (layer.weight, layer.bias)]
        model = eqx.tree_at(self.leaves, model, list(map(jnp.array, problem.start)))

        @eqx.filter_value_and_grad
        def cost(model: Any, x: Any, y: Any) -> jax.Array:
            return jnp.mean(jnp.sum((jax.vmap(model)(x) - y) ** 2, axis=-1))

        @eqx.filter_jit
        def step(model: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any, jax.Array]:
            value, grads = cost(model, x, y)
            updates, state = optimizer.update(grads, state, model)
            return eqx.apply_updates(model, updates), state, value

        self.model, self.state, self.step = model, optimizer.init(eqx.filter(model, eqx.is_inexact_array)), step

    def epoch(self, order: np.ndarray | None = None) -> Any:
        """Train for an epoch."""
        for x, y in self.batches(order):
            self.model, self.state, _ = self.step(self.model, self.state, x, y)
        return self.leaves(self.model)

    def parameters(self) -> Parameters:
        """What it has learned, copied."""
        return [np.array(leaf) for leaf in self.leaves(self.model)]


# ----------------------------------------------------------------------------------------------------------------------
# Others


class NumPy(Contender):
    """Backpropagation by hand, batches as matrices."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.params = [array.copy() for array in problem.start]

    def epoch(self, order: np.ndarray | None = None) -> Any:
        """Train for an epoch."""
        V, b, W, c = self.params
        rate = self.problem.rate
        for x, y in self.batches(order):
            h = 1 / (1 + np.exp(-(x @ V.T + b)))
            outputs = 1 / (1 + np.exp(-(h @ W.T + c)))
            delta2 = 2 * (outputs - y) * outputs * (1 - outputs) / len(x)
            delta1 = (delta2 @ W) * h * (1 - h)
            V -= rate * (delta1.T @ x)
            b -= rate * delta1.sum(axis=0)
            W -= rate * (delta2.T @ h)
            c -= rate * delta2.sum(axis=0)

    def parameters(self) -> Parameters:
        """What it has learned, copied."""
        return [array.copy() for array in self.params]


class ScikitLearn(Contender):
    """``MLPClassifier`` without momentum or penalty, with the only loss it has, log-loss of a softmax."""

    net = Network(output=activations.softmax, loss=losses.softmax_cross_entropy)

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        neural = library("sklearn.neural_network", "scikit-learn")
        self.labels = problem.y.argmax(axis=1)
        self.model = neural.MLPClassifier(
            problem.sizes[1:-1], activation="logistic", solver="sgd", momentum=0.0, alpha=0.0, random_state=0,
            batch_size=problem.batch, learning_rate_init=problem.rate,
        )  # fmt: skip
        # Its parameters exist after a first call; its optimizer holds them, so that they are changed in place.
        first = slice(problem.batch)
        self.model.partial_fit(problem.x[first], self.labels[first], classes=np.arange(problem.sizes[-1]))
        for found, start in zip(self._arrays(), problem.start, strict=True):
            found[...] = start

    def epoch(self, order: np.ndarray | None = None) -> Any:
        """Train for an epoch, which is what ``partial_fit`` does."""
        x, labels = self.problem.x, self.labels
        self.model.shuffle = order is None
        self.model.partial_fit(*((x, labels) if order is None else (x[order], labels[order])))

    def parameters(self) -> Parameters:
        """What it has learned, copied."""
        return [array.copy() for array in self._arrays()]

    def _arrays(self) -> Parameters:
        (V, W), (b, c) = self.model.coefs_, self.model.intercepts_
        return [V.T, b, W.T, c]


class PyTorch(Contender):
    """The usual loop: a module, autograd, and ``torch.optim.SGD``; the data is where the model is."""

    def __init__(self, problem: Problem, every_core: bool = False, gpu: bool = False) -> None:
        super().__init__(problem)
        torch = self.torch = library("torch", "PyTorch")
        if gpu and not on_gpu(torch):
            raise MissingError("PyTorch has no GPU here, or JAX has none.")
        inputs, hidden, outputs = problem.sizes
        self.threads = (os.cpu_count() or 1) if every_core else 1
        self.device = "cuda" if gpu else "cpu"
        self.data = torch.tensor(problem.x, device=self.device), torch.tensor(problem.y, device=self.device)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(inputs, hidden), torch.nn.Sigmoid(), torch.nn.Linear(hidden, outputs), torch.nn.Sigmoid()
        ).to(self.device)
        with torch.no_grad():
            for found, start in zip(self.model.parameters(), problem.start, strict=True):
                found.copy_(torch.tensor(start))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=problem.rate)

    def epoch(self, order: np.ndarray | None = None) -> Any:
        """Train for an epoch."""
        torch, (x, y) = self.torch, self.data
        torch.set_num_threads(self.threads)
        if self.problem.whole:
            self.step(x, y)
        else:
            rows = torch.randperm(len(x)) if order is None else torch.tensor(order)
            for part in rows.to(self.device).split(self.problem.batch):
                self.step(x[part], y[part])
        if self.device == "cuda":
            torch.cuda.synchronize()

    def step(self, x: Any, y: Any) -> None:
        """One step of the optimizer."""
        self.optimizer.zero_grad()
        ((self.model(x) - y) ** 2).sum(dim=-1).mean().backward()
        self.optimizer.step()

    def parameters(self) -> Parameters:
        """What it has learned, copied."""
        return [found.detach().cpu().numpy().copy() for found in self.model.parameters()]


class PyTorchCompiled(PyTorch):
    """``torch.compile`` of a whole step by ``torch.func``.

    The form with ``backward`` and an optimizer inside compiles in parts, and takes longer here than not compiled.
    """

    def __init__(self, problem: Problem, every_core: bool = False, gpu: bool = False) -> None:
        super().__init__(problem, every_core, gpu)
        torch, model, rate = self.torch, self.model, problem.rate
        torch.compiler.reset()  # it gives up on a function compiled for too many shapes and numbers of threads
        try:
            torch.compile(lambda a: torch.sin(a) + 1)(torch.ones(8, device=self.device))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise MissingError(f"torch.compile does not work here, so it is left out: {reason}.") from error

        def cost(params: Any, x: Any, y: Any) -> Any:
            return ((torch.func.functional_call(model, params, (x,)) - y) ** 2).sum(dim=-1).mean()

        @torch.compile
        def stepped(params: Any, x: Any, y: Any) -> Any:
            grads = torch.func.grad(cost)(params, x, y)
            return {name: param - rate * grads[name] for name, param in params.items()}

        self.params = {name: param.detach().clone() for name, param in model.named_parameters()}
        self.stepped = stepped

    def step(self, x: Any, y: Any) -> None:
        """One step."""
        with self.torch.no_grad():
            self.params = self.stepped(self.params, x, y)

    def parameters(self) -> Parameters:
        """What it has learned, copied."""
        return [found.cpu().numpy().copy() for found in self.params.values()]


# ----------------------------------------------------------------------------------------------------------------------
# All of them on one problem

OURS = "jaxnet"
FORMS: dict[str, dict[str, Callable[[Problem], Contender]]] = {
    OURS: {"": Jaxnet},
    "jaxnet, automatic": {"": partial(Jaxnet, gradient=jaxnet.autodiff)},
    "JAX, jit a step": {"batches handed over": Jax, "rows gathered in the step": JaxGathering},
    "Flax NNX + optax": {"": FlaxNNX},
    "Equinox + optax": {"": Equinox},
    "PyTorch": {
        "1 thread": PyTorch,
        "all threads": partial(PyTorch, every_core=True),
        "on the GPU": partial(PyTorch, gpu=True),
    },
    "PyTorch, compiled": {
        "1 thread": PyTorchCompiled,
        "all threads": partial(PyTorchCompiled, every_core=True),
        "on the GPU": partial(PyTorchCompiled, gpu=True),
    },
    "scikit-learn": {"": ScikitLearn},
    "NumPy": {"": NumPy},
}
"""The contenders; of those that can be run in several forms, the fastest is taken."""

QUICK = tuple(name for name in FORMS if name not in ("jaxnet, automatic", "PyTorch, compiled"))
"""Those for a look: the others take seconds to compile, and one of them is as fast as ours."""


class Ready(NamedTuple):
    """A contender that has compiled."""

    contender: Contender
    form: str
    first: float
    """Seconds of its first epoch."""
    difference: float
    """Of its parameters from ours after that epoch, from the same start in the same order: largest, over the largest
    parameter of the array."""


def ready(problem: Problem, names: Iterable[str] = FORMS) -> tuple[dict[str, Ready], list[str]]:
    """Contenders that have trained for an epoch, each in its fastest form, and who is missing."""
    found, missing, references = {}, [], {}
    for name in names:
        with leaving_out(missing):
            form = _fastest(problem, FORMS[name])
            found[name] = _begun(problem, form, FORMS[name][form], references)
    return found, missing


TRIAL = 20
"""Steps by which the fastest form is chosen."""


def _fastest(problem: Problem, forms: Mapping[str, Callable[[Problem], Contender]]) -> str:
    if len(forms) == 1:
        return next(iter(forms))
    rows = slice(TRIAL * problem.batch)
    short = problem._replace(x=problem.x[rows], y=problem.y[rows])
    contenders: dict[str, Contender] = {}
    missing: list[str] = []
    for form, make in forms.items():
        with leaving_out(missing):
            contenders[form] = make(short)
    if not contenders:
        raise MissingError(missing[0])
    seconds, _ = interleave({form: contender.epoch for form, contender in contenders.items()}, 3)
    return min(contenders, key=lambda form: float(np.median(seconds[form])))


def _begun(
    problem: Problem, form: str, make: Callable[[Problem], Contender], references: dict[Network, Parameters]
) -> Ready:
    contender = make(problem)
    ours = Jaxnet(problem, net=contender.net)
    order = ours.order()
    began = time.perf_counter()
    jax.block_until_ready(contender.epoch(order))
    first = time.perf_counter() - began
    if contender.net not in references:
        ours.epoch()
        references[contender.net] = ours.parameters()
    pairs = zip(contender.parameters(), references[contender.net], strict=True)
    return Ready(contender, form, first, max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs))
