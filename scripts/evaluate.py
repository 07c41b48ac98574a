"""Measures metrics of a model: `python scripts/evaluate.py --help`."""

from sg3jax.cli import evaluate

if __name__ == '__main__':
  evaluate.main()
