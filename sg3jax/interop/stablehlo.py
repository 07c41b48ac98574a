"""Exports generators as StableHLO programs, which run without this package.

A program is the result of `jax.export` for a generator and its arrays. The
arrays are constants, the batch can have any size, and the program compiles for
every platform in `PLATFORMS`. It uses no custom kernels, because JAX only
guarantees compatibility with later versions for standard operators.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from sg3jax.nets import factory
from sg3jax.nets import generator as generator_lib
from sg3jax.ops.filtered_lrelu import platform
from sg3jax.types import Array, Variables
from sg3jax.version import __version__

# The parts that can be exported: images from latents, or one half of it.
PARTS = ('generator_ema', 'mapping', 'synthesis')
PLATFORMS = ('cpu', 'cuda', 'tpu')

# The plain form of the nonlinearity, in full precision.
_PORTABLE = {
  'precision': 'fp32',
  'filtered_lrelu_implementation': 'banded',
  'remat': False,
}
_FORMAT = 'sg3jax.program'
_VERSION = 1
_COMPATIBILITY = (
  'what jax.export promises: a JAX released up to 6 months after, or up to 3 '
  'weeks before, the one that wrote this reads and runs it'
)


def export_program(
  part: str, model: Mapping[str, Any], variables: Variables
) -> tuple[bytes, dict[str, Any]]:
  """Returns a serialized program and its description.

  Its arguments are keyword arguments, all float32:

    generator_ema(z, truncation_psi) -> images [batch, h, w, channels]
    mapping(z, truncation_psi) -> ws [batch, num_ws, w_dim]
    synthesis(ws) -> images

  A conditional model also takes labels `c` [batch, label_dim] along with `z`.
  Images are nominally in [-1, 1]. StyleGAN2 uses its constant noise.

  Args:
    part: One of `PARTS`.
    model: The `model` part of a configuration.
    variables: The generator's arrays.

  Raises:
    ValueError: If the part is unknown or the design impossible.
    ImportError: If the package `flatbuffers` is missing.
  """
  if part not in PARTS:
    raise ValueError(f'part must be one of {", ".join(PARTS)}, got {part!r}')
  _check_flatbuffers()
  generator = factory.make_generator({**model, **_PORTABLE})
  function = _function(part, generator, variables)
  inputs = _inputs(part, generator)
  export = jax_export.export(jax.jit(function), platforms=PLATFORMS)
  with platform.targeted('cpu'):  # Export the same program on any machine.
    exported = export(**inputs)
  spec = generator.spec
  (output,) = exported.out_avals
  return bytes(exported.serialize()), {
    'format': _FORMAT,
    'version': _VERSION,
    'written_by': f'sg3jax {__version__}, jax {jax.__version__}',
    'part': part,
    'inputs': {name: _describe(x) for name, x in inputs.items()},
    'output': _describe(output)
    | ({} if part == 'mapping' else {'layout': 'NHWC', 'range': [-1, 1]}),
    'resolution': spec.resolution,
    'img_channels': spec.img_channels,
    'z_dim': generator.z_dim,
    'w_dim': generator.w_dim,
    'num_ws': spec.num_ws,
    'label_dim': generator.label_dim,
    'noise_mode': 'const',
    'platforms': list(exported.platforms),
    'calling_convention_version': exported.calling_convention_version,
    'compatibility': _COMPATIBILITY,
  }


def _check_flatbuffers() -> None:
  try:
    import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ImportError(
      'jax.export needs the package flatbuffers, which is not installed: run '
      'pip install flatbuffers'
    ) from error


def _function(
  part: str, generator: generator_lib.Generator, variables: Variables
) -> Callable[..., Array]:
  """Returns the function to export, with the arrays as its constants."""
  # Use NumPy arrays, so that the constants do not depend on a device.
  variables = jax.tree.map(np.asarray, variables)

  def apply(*args, **options):
    # Otherwise compilers would fold constants of hundreds of megabytes.
    arrays = jax.lax.optimization_barrier(variables)
    return generator.apply(arrays, *args, **options)

  def mapping(z, truncation_psi, c=None):
    return apply(z, c, truncation_psi=truncation_psi, method='mapping')

  def synthesis(ws):
    return apply(ws, noise_mode='const', method='synthesis')

  def generator_ema(z, truncation_psi, c=None):
    return synthesis(mapping(z, truncation_psi, c))

  return {
    'generator_ema': generator_ema,
    'mapping': mapping,
    'synthesis': synthesis,
  }[part]


def _inputs(
  part: str, generator: generator_lib.Generator
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of the arguments, with a symbolic batch size."""
  (batch,) = jax_export.symbolic_shape('batch')
  shapes: dict[str, tuple[Any, ...]] = {}
  if part == 'synthesis':
    shapes['ws'] = (batch, generator.spec.num_ws, generator.w_dim)
  else:
    shapes['z'] = (batch, generator.z_dim)
    if generator.label_dim:
      shapes['c'] = (batch, generator.label_dim)
    shapes['truncation_psi'] = ()
  return {
    name: jax.ShapeDtypeStruct(shape, np.float32)
    for name, shape in shapes.items()
  }


def _describe(x: Any) -> dict[str, Any]:
  shape = [size if isinstance(size, int) else str(size) for size in x.shape]
  return {'shape': shape, 'dtype': x.dtype.name}
