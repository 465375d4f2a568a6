"""What nodes are called: v₃ = a + b, with the symbols of a lecture; and numbers short enough for a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnet.graph.nodes import Node
from jaxnet.graph.tape import function_name
from jaxnet.graph.tracing import Graph

__all__ = [
    "Names",
    "all_but_numbers",
    "clipped",
    "compact",
    "constants",
    "is_opaque",
    "norm",
    "number",
    "shape",
    "source",
    "summary",
]

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

# Of one operand each.
_PREFIXES = {
    "neg": "−", "sqrt": "√", "cbrt": "∛", "reduce_sum": "Σ ", "reduce_prod": "Π ", "reduce_max": "max ",
    "reduce_min": "min ", "not": "¬", "stop_gradient": "stop ", "logistic": "σ ", "log": "ln ",
}  # fmt: skip
_SUFFIXES = {"square": "²", "conj": "*"}
# Between two operands.
_SIGNS = {
    "add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "/", "rem": "mod", "pow": "^", "and": "∧", "or": "∨",
    "xor": "⊻", "eq": "=", "ne": "≠", "lt": "<", "le": "≤", "gt": ">", "ge": "≥",
}  # fmt: skip
# Those that are no more than another form of the same numbers.
SAME_NUMBERS = {
    "broadcast_in_dim", "convert_element_type", "copy", "copy_p", "device_put", "optimization_barrier",
    "reduce_precision", "reshape", "sharding_constraint", "squeeze",
}  # fmt: skip


class Names:
    """What the nodes of a graph are called where those of ``shown`` are shown.

    A node that is not shown is called by what it is another form of, a constant by its number; "…" stands for a
    computation that is left out.
    """

    def __init__(self, graph: Graph, shown: Callable[[Node], bool]):
        self.graph, self.shown = graph, shown
        self._constants = constants(graph)

    def name(self, node: Node) -> str:
        """A name given by the program, or v and the index: v₁₂."""
        return clipped(node.label)

    def operand(self, node: Node) -> str:
        """How an operand is written in an expression."""
        while not self.shown(node):
            if node.index in self._constants:
                return self._constants[node.index]
            if node.primitive not in SAME_NUMBERS:
                return "…"
            node = node.operands[0]
        return self.name(node)

    def expression(self, node: Node) -> str:
        """What computes the node, with the names of its operands; an empty string for an argument."""
        if node.equation is None:
            return self._constants.get(node.index, "constant") if node.primitive == "constant" else ""
        operands = [self.operand(operand) for operand in node.operands]
        written = _written(node, operands)
        several = len(node.equation.results) > 1
        return f"{written} [{node.equation.results.index(node.index)}]" if several else written

    def equation(self, node: Node) -> tuple[str, str]:
        """Name and expression, for v₃ = a + b."""
        return self.name(node), self.expression(node)


def all_but_numbers(graph: Graph) -> set[int]:
    """Positions of all nodes but the numbers that stand in the expressions that use them; results are never those."""
    numbers = constants(graph)
    named = {node.index for node in graph.nodes if node.primitive != "constant" or node.index not in numbers}
    return named | {node.index for node in graph.outputs}


def constants(graph: Graph) -> dict[int, str]:
    """The numbers of the nodes that depend on no argument and have the same number in every entry."""
    fixed: set[int] = set()
    numbers = {}
    for node in graph.nodes:
        if node.primitive != "argument" and all(operand.index in fixed for operand in node.operands):
            fixed.add(node.index)
            if node.value.size and not is_opaque(node.value):
                entries = np.asarray(node.value).ravel()
                if (entries == entries[0]).all():
                    numbers[node.index] = number(entries[0])
    return numbers


def _written(node: Node, x: list[str]) -> str:
    primitive, params = node.primitive, node.params
    if primitive in _SIGNS and len(x) == 2:
        return f"{x[0]} {_SIGNS[primitive]} {_bracketed(x[1])}"
    if primitive == "integer_pow":
        return _bracketed(x[0]) + str(params["y"]).translate(_SUPERSCRIPTS)
    if primitive in _SUFFIXES:
        return _bracketed(x[0]) + _SUFFIXES[primitive]
    if primitive == "abs":
        return f"|{x[0]}|"
    if primitive == "rsqrt":
        return f"1/√{_bracketed(x[0])}"
    if primitive in _PREFIXES:
        axes = params.get("axes", ())
        partial = axes and len(axes) < node.operands[0].value.ndim
        return _PREFIXES[primitive] + _bracketed(x[0]) + (f", {_axes(axes)}" if partial else "")
    if primitive == "dot_general":
        return _product(node, x)
    if primitive == "transpose":
        return f"{x[0]}ᵀ" if params["permutation"] == (1, 0) else f"transpose {x[0]}"
    if primitive == "slice":
        return f"{x[0]}[{_slices(node)}]"
    if primitive == "select_n" and len(x) == 3:
        return f"where({x[0]}, {x[2]}, {x[1]})"
    if primitive == "convert_element_type":
        return f"{params['new_dtype']}({x[0]})"
    return _called(_function(node), x)


def _bracketed(x: str) -> str:
    return f"({x})" if x.startswith("−") else x


def _axes(axes: tuple[int, ...]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else "axes " + " ".join(map(str, axes))


def _slices(node: Node) -> str:
    """The indices of a slice, without those at the end that take all."""
    starts, ends, steps = (node.params[name] for name in ("start_indices", "limit_indices", "strides"))
    parts = [
        ":" if (a, b) == (0, size) and s == 1 else str(a) if b == a + 1 else f"{a}:{b}" + (f":{s}" if s != 1 else "")
        for a, b, s, size in zip(starts, ends, steps or [1] * len(ends), node.operands[0].value.shape, strict=True)
    ]
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    return ", ".join(parts)


def _product(node: Node, x: list[str]) -> str:
    """A matrix product is V @ x, with the transpose of what is contracted along its other axis; any other A · B."""
    (left, right), (batch, _) = node.params["dimension_numbers"]
    a, b = (operand.value.ndim for operand in node.operands)
    n = len(batch)
    if len(left) != 1 or max(a, b) > n + 2:
        return f"{x[0]} · {x[1]}"
    left_t = "ᵀ" if a == n + 2 and left[0] == a - 2 else ""
    right_t = "ᵀ" if b == n + 2 and right[0] == b - 1 else ""
    return f"{x[0]}{left_t} @ {x[1]}{right_t}"


def _function(node: Node) -> str:
    """The name of a primitive, or of the function in a node that was kept whole."""
    params, primitive = node.params, node.primitive
    if primitive.startswith("custom_") and "call_jaxpr" in params:
        name = function_name(params)
        return name if name.isidentifier() else primitive
    if primitive == "scan":
        return f"scan ×{params['length']}"
    return {"broadcast_in_dim": "broadcast", "concatenate": "concat"}.get(primitive, primitive)


def _called(name: str, x: list[str]) -> str:
    if len(x) == 1 and len(x[0]) < 8 and not x[0].startswith("−"):
        return f"{name} {x[0]}"
    if len(x) > 3:
        return f"{name}({x[0]}, … {len(x)} in all)"
    return f"{name}({', '.join(x)})"


# ----------------------------------------------------------------------------------------------------------------------
# Short


def clipped(text: str, width: int = 28) -> str:
    """One line of a text, of at most ``width`` characters: its end, which tells more."""
    text = " ".join(text.split())
    return text if len(text) <= width else "…" + text[1 - width :]


def number(value: Any) -> str:
    """A number with four digits, as 0.1875, −3, 1.2e6 or ∞."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if np.iscomplexobj(value):
        real, imaginary = number(value.real), number(value.imag)
        return f"{real} − {imaginary[1:]}i" if imaginary.startswith("−") else f"{real} + {imaginary}i"
    text = f"{float(value) + 0.0:.4g}" if not isinstance(value, (int, np.integer)) else f"{int(value)}"
    mantissa, e, exponent = text.partition("e")
    text = mantissa + (f"e{int(exponent)}" if e else "")
    return text.replace("inf", "∞").replace("-", "−")


def is_opaque(value: Any) -> bool:
    """Whether a value has no numbers to show: it is a random key, or traced by a transformation of JAX."""
    return isinstance(value, Tracer) or jnp.issubdtype(value.dtype, jax.dtypes.extended)


def shape(value: Any) -> str:
    """The shape: 4×2, or an empty string for a number."""
    return "×".join(map(str, value.shape))


def norm(value: Any) -> str:
    """The Euclidean norm, as ‖1.2‖."""
    with np.errstate(all="ignore"):
        entries = np.asarray(value)
        wide = entries.astype(np.complex128 if np.iscomplexobj(entries) else np.float64)
        return f"‖{number(np.linalg.norm(wide.ravel()))}‖"


def compact(value: Any) -> str:
    """A number, or the norm of an array; an empty string for nothing."""
    if value is None:
        return ""
    if is_opaque(value):
        return str(value.dtype)
    return number(np.asarray(value)[()]) if value.shape == () else norm(value)


def summary(value: Any) -> str:
    """A number, or the shape of an array."""
    if value is None or value.shape == ():
        return compact(value)
    return shape(value)


def source(node: Node) -> str:
    """The file, without its folder, and the line."""
    place, _, _ = node.source.partition(", in ")
    file, _, line = place.rpartition(":")
    return f"{PurePath(file).name}:{line}" if file else ""
