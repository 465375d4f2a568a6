"""The lecture's claims as experiments: ``python -m experiments`` runs them all, ``python -m experiments.xor`` one."""
