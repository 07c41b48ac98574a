"""The number of images that a device generates at a time."""

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import layer_tables

# Feature maps of the largest layer that are there at once, as a multiple of
# what `layer_tables.largest_layer` counts: compilers keep temporaries beside
# them, and convolutions have workspaces.
_COPIES = 2

# Bytes of a value: 16-bit maps are counted as float32, as sums in between are.
_BYTES = 4

# Fraction of a device's memory to use; the rest is for parameters, programs and
# metrics.
_USABLE = 0.8

# More images at a time would gain little: a device is busy with fewer.
_MOST = 64


def fitting_batch(
  generator: generator_lib.Generator,
  memory: int | None,
  *,
  default: int,
  multiple: int = 1,
) -> int:
  """Returns how many images one device generates at a time.

  Args:
    generator: The generator.
    memory: Bytes of the device; None if unknown, as on a CPU.
    default: The batch where the memory is unknown.
    multiple: The batch is a multiple of this.

  Returns:
    The default; or the largest `multiple` times a power of two of which the
    feature maps fit, at most 64, and `multiple` if none does.
  """
  if memory is None:
    return default
  image = _BYTES * _COPIES * layer_tables.largest_layer(generator.spec)
  batch = multiple
  while 2 * batch <= _MOST and 2 * batch * image <= _USABLE * memory:
    batch *= 2
  return batch
