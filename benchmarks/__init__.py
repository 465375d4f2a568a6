"""Benchmarks: by hand against automatic, against other libraries, and against what the machine can do."""

MODULES = (
    "gradients",
    "training",
    "mnist_epoch",
    "ensembles",
    "quantities",
    "curvature",
    "graph",
    "scaling",
    "import_time",
)
"""The benchmarks, in the order in which they run and stand on the page."""
