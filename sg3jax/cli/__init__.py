"""The commands of `sg3jax COMMAND`."""
