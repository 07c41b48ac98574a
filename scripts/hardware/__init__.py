"""The stages of `scripts/prove_hardware.py`."""
