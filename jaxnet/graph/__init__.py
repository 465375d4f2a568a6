"""Backpropagation on any JAX program, by hand and visible: trace, rules, paths, drawings. Knows nothing of networks."""

from jaxnet.graph.functions import grad, vjp
from jaxnet.graph.nodes import Edge, Node
from jaxnet.graph.paths import Path, Paths, Step
from jaxnet.graph.registry import rule
from jaxnet.graph.tracing import Graph, trace

__all__ = ["Edge", "Graph", "Node", "Path", "Paths", "Step", "grad", "rule", "trace", "vjp"]
