"""Curvature of the cost, from activations and deltas: products, diagonals, Kronecker factors, eigenvalues."""

from jaxnet.curvature.dense import StationaryPoint, hessian, is_minimum
from jaxnet.curvature.diagonals import ggn_diagonal, hessian_diagonal, trace
from jaxnet.curvature.factors import Factors, kfac
from jaxnet.curvature.products import empirical_fisher_vp, fisher_vp, ggn_vp, hvp
from jaxnet.curvature.spectra import Estimate, Spectrum, spectrum, trace_estimate

__all__ = [
    "Estimate",
    "Factors",
    "Spectrum",
    "StationaryPoint",
    "empirical_fisher_vp",
    "fisher_vp",
    "ggn_diagonal",
    "ggn_vp",
    "hessian",
    "hessian_diagonal",
    "hvp",
    "is_minimum",
    "kfac",
    "spectrum",
    "trace",
    "trace_estimate",
]
