"""Stages of `scripts/prove_hardware.py`."""
