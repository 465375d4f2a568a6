"""Compares gradients with derivatives found in other ways, and says which side is wrong. Knows nothing of networks."""

from jaxnet.check.comparison import compare
from jaxnet.check.gradients import check_gradient, check_vjp
from jaxnet.check.reports import Leaf, Report, Witness

__all__ = ["Leaf", "Report", "Witness", "check_gradient", "check_vjp", "compare"]
