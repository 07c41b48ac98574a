"""Chooses how many images a device generates at a time."""

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import layer_tables

# Live feature maps in the largest layer, as a multiple of what
# `layer_tables.largest_layer` counts. Compilers also keep temporaries, and
# convolutions have workspaces.
_COPIES = 2

# Bytes per value. 16-bit maps count as float32, the type of intermediate sums.
_BYTES = 4

# Fraction of a device's memory to use. The rest is for parameters, programs and
# metrics.
_USABLE = 0.8

# More images at a time would gain little, because fewer keep a device busy.
_MOST = 64


def bytes_per_image(generator: generator_lib.Generator) -> int:
  """Returns about how many bytes of memory the generation of an image takes."""
  return _BYTES * _COPIES * layer_tables.largest_layer(generator.spec)


def fitting_batch(
  generator: generator_lib.Generator,
  memory: int | None,
  *,
  default: int,
  multiple: int = 1,
) -> int:
  """Returns the number of images that one device generates at a time.

  Args:
    generator: The generator.
    memory: Bytes of memory of the device; None if unknown, as on a CPU.
    default: The batch size if the memory is unknown.
    multiple: The batch size is a multiple of this.

  Returns:
    The default if the memory is unknown. Otherwise `multiple` times the largest
    power of two whose feature maps fit, at most 64; `multiple` if none fits.
  """
  if memory is None:
    return default
  image = bytes_per_image(generator)
  batch = multiple
  while 2 * batch <= _MOST and 2 * batch * image <= _USABLE * memory:
    batch *= 2
  return batch
