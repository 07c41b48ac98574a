"""`python -m sg3jax` is the console command."""

from sg3jax.cli import main

if __name__ == '__main__':
  main.main()
