"""The platform that JAX computes on: cpu, cuda, tpu."""

import os

import jax


def check() -> None:
  """Checks that JAX can compute, which starts its platform.

  Raises:
    RuntimeError: If it cannot; the message names the platform, the setting that
      asks for it, and the remedy.
  """
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    # An assertion without a word is how it says that there is no such device.
    reason = str(error).partition('\n')[0].partition(' (set JAX')[0].rstrip('.')
    raise RuntimeError(
      f'JAX cannot compute on {_wanted()}: '
      + (reason or 'no such device, or no package for it, is installed')
      + '. Unset that to take the best platform that there is, or install what '
      "is missing, as in pip install 'jax[cuda13]'"
    ) from error


def _wanted() -> str:
  """Returns the platforms that are asked for, and the setting that does so."""
  names = getattr(jax.config, 'jax_platforms', None) or ''
  if names and names != os.environ.get('JAX_PLATFORMS'):
    return f'the platform {names}, which the setting jax_platforms asks for'
  if names:
    return f'the platform {names}, which JAX_PLATFORMS={names} asks for'
  return 'any platform, with the setting JAX_PLATFORMS unset'
