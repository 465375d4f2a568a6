"""Timings: ``python -m benchmarks`` runs them all, ``python -m benchmarks.mnist_epoch`` one."""
