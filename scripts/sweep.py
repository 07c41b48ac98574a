"""Runs a sweep: `python scripts/sweep.py --help`."""

from sg3jax.cli import sweep

if __name__ == '__main__':
  sweep.main()
