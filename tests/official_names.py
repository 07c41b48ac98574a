"""Recorded arrays to our parameter trees, for tests, by the package's table."""

from collections.abc import Mapping

import numpy as np

from sg3jax.interop.official import arrays as arrays_lib
from sg3jax.nets import spec as spec_lib


def _under(
  arrays: Mapping[str, np.ndarray], prefix: str
) -> dict[str, np.ndarray]:
  return {
    key.removeprefix(prefix): array
    for key, array in arrays.items()
    if key.startswith(prefix)
  }


def generator_variables(
  arrays: Mapping[str, np.ndarray], prefix: str = 'state/'
) -> dict:
  """Returns the variables of a generator from the arrays under `prefix`.

  Gradients (prefix 'grad/') have the names and layouts of the parameters.
  """
  found = _under(arrays, prefix)
  table = arrays_lib.STYLEGAN3_GENERATOR
  if any(name.startswith('synthesis.b') for name in found):
    table = arrays_lib.STYLEGAN2_GENERATOR
  return arrays_lib.to_ours(table, found)[0]


def discriminator_params(
  arrays: Mapping[str, np.ndarray], prefix: str = 'state/'
) -> dict:
  """Returns the 'params' of a discriminator from the arrays under `prefix`."""
  return arrays_lib.to_ours(arrays_lib.DISCRIMINATOR, _under(arrays, prefix))[
    0
  ]['params']


def generator_spec(
  arrays: Mapping[str, np.ndarray], resolution: int, prefix: str = 'state/'
) -> spec_lib.SynthesisSpec:
  """Returns the design whose channels are those of the arrays."""
  weights = [
    array
    for key, array in arrays.items()
    if key.startswith(prefix + 'synthesis.L')
    and key.endswith('.weight')
    and 'affine' not in key
  ]
  kernel = weights[0].shape[-1]
  return spec_lib.SynthesisSpec(
    resolution=resolution,
    img_channels=weights[-1].shape[0],
    # The two critical layers are the widest band: cutoff = resolution / 2.
    channel_base=weights[-2].shape[0] * resolution,
    channel_max=weights[0].shape[0],
    conv_kernel=kernel,
    radial_filters=kernel == 1,
  )
