"""The cotangent rules, by kind of primitive. Each is linear in z̄ and uses no differentiation of JAX's."""

from jaxnet.graph.rules import calls, elementwise, linear_algebra, loops, reductions, shapes

__all__ = ["calls", "elementwise", "linear_algebra", "loops", "reductions", "shapes"]
