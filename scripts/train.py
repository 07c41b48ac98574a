"""Trains a model: `python scripts/train.py --help`."""

from sg3jax.cli import train

if __name__ == '__main__':
  train.main()
