"""Computes arrays of official networks that follow from their design: filters.

They are not converted, but computed again and compared.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from sg3jax.interop import schema
from sg3jax.interop.official import arrays as arrays_lib
from sg3jax.interop.official import hyperparameters
from sg3jax.interop.torch_pickle.records import CheckpointError
from sg3jax.nets import stylegan2
from sg3jax.ops import filters as filter_lib

# Stored filters are float32; our float64 ones agree to float32's last digits.
_FILTER_TOLERANCE = 1e-6

_HALVES = (np.float16, ml_dtypes.bfloat16)

# StyleGAN2's resampling filter.
_BINOMIAL = np.outer(filter_lib.BINOMIAL, filter_lib.BINOMIAL)


def derived_arrays(
  network: str, model: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the arrays of an official network that follow from the design."""
  if network not in schema.GENERATORS:
    return _binomials_of_discriminator(arrays)
  spec = hyperparameters.synthesis_spec(model)
  if isinstance(spec, stylegan2.StyleGAN2Spec):
    return _binomials_of_generator(spec)
  filters = {
    f'synthesis.{name}.{kind}': x
    for layer, name in zip(
      spec.layers, arrays_lib.layer_names(spec).values(), strict=True
    )
    for kind, x in (
      ('up_filter', layer.up_filter()),
      ('down_filter', layer.down_filter()),
    )
    if x is not None
  }
  filters['synthesis.input.transform'] = np.eye(3)
  return {name: x.astype(np.float32) for name, x in filters.items()}


def _binomials_of_generator(
  spec: stylegan2.StyleGAN2Spec,
) -> dict[str, np.ndarray]:
  """Returns the filters of StyleGAN2's generator."""
  found = []
  for side in spec.resolutions:
    is_first = side == spec.resolutions[0]
    parts = ['', 'conv1.'] + ([] if is_first else ['conv0.'])
    if spec.architecture == 'resnet' and not is_first:
      parts.append('skip.')
    found += [f'synthesis.b{side}.{part}resample_filter' for part in parts]
  return {name: _BINOMIAL.astype(np.float32) for name in found}


def _binomials_of_discriminator(
  arrays: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Returns the filters of the discriminator with these arrays."""
  convolutions = {
    name.removesuffix('weight') for name, x in arrays.items() if x.ndim == 4
  }
  blocks = {name.partition('.')[0] + '.' for name in convolutions}
  # The last block does not downsample.
  blocks = {name for name in blocks if f'{name}skip.weight' in arrays}
  return {
    f'{name}resample_filter': _BINOMIAL.astype(np.float32)
    for name in convolutions | blocks
  }


def check(name: str, found: np.ndarray, wanted: np.ndarray | None) -> None:
  """Compares an array of a file with what its design implies.

  Args:
    name: Its name, for the message.
    found: The array, float32. Half-precision files have rounded values, which
      are compared to the precision of the narrowest type that represents them.
    wanted: The array of the design, or None if it has no such array.

  Raises:
    CheckpointError: If they differ.
  """
  if (
    wanted is None
    or found.shape != wanted.shape
    or not np.all(np.abs(found - wanted) <= _tolerance(found, wanted))
  ):
    raise CheckpointError(
      f'the array {name} of the checkpoint does not match its design: it would '
      'generate different images here'
    )


def _tolerance(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Returns the allowed difference of each element, from its storage type."""
  tolerance = np.full(wanted.shape, _FILTER_TOLERANCE)
  for dtype in _HALVES:
    with np.errstate(over='ignore'):
      rounded = found.astype(dtype).astype(np.float32)
    if np.array_equal(rounded, found):
      info = ml_dtypes.finfo(dtype)
      rounding = float(info.eps) * np.abs(wanted)
      rounding += float(info.smallest_subnormal)
      tolerance = np.maximum(tolerance, rounding)
  return tolerance
