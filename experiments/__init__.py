"""The lecture's claims as experiments: ``python -m experiments`` runs them all, ``python -m experiments.xor`` one."""

MODULES = (
    "chain_rule",
    "xor",
    "symmetry",
    "saturation",
    "minima",
    "descent",
    "shared_hidden",
    "digits",
    "mnist",
    "nielsen",
    "beyond_gradient",
)
"""The experiments, in the order in which they run and stand on the page."""
