"""Generates images: `python scripts/generate.py --help`."""

from sg3jax.cli import generate

if __name__ == '__main__':
  generate.main()
