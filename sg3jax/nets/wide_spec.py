"""Designs whose images show more than the canvas of training.

Alias-free layers are convolutions without positions, so the parameters of a
generator also serve a larger canvas: its Fourier features continue, and every
layer has more samples at the same rate.
"""

import dataclasses
import functools

import numpy as np

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideSpec(spec_lib.SynthesisSpec):
  """A design whose images are wider than the canvas, at the same scale.

  Attributes:
    extent: Width of the image in widths of the canvas. The canvas of training
      is in the centre.

  Raises:
    ValueError: If the layers cannot have this extent; the message says which
      ones they can have.
  """

  extent: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    if self.noise:
      raise ValueError(
        'extent must be 1 for a generator with noise inputs, whose size is '
        f'fixed, got {self.extent:g}'
      )
    # With an even number of additional samples, the centre of every layer stays
    # between the same samples.
    step = 2 / float(self.sampling_rates[0])
    steps = (self.extent - 1) / step
    if not (self.extent >= 1 and steps.is_integer()):
      raise ValueError(
        f'extent must be 1 plus a multiple of {step:g} for this generator, got '
        f'{self.extent:g}'
      )

  @functools.cached_property
  def sizes(self) -> np.ndarray:
    """Samples per side of the outputs of layers 0..N."""
    rates = self.sampling_rates.copy()
    rates[-2:] = self.resolution
    added = np.rint(rates * (self.extent - 1)).astype(int)
    return super().sizes + added

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Rows, columns and channels of an image."""
    return (int(self.sizes[-1]), int(self.sizes[-1]), self.img_channels)


def widen(
  generator: generator_lib.Generator, extent: float
) -> generator_lib.Generator:
  """Returns a generator that shows more of what lies around the canvas.

  The result has the same variables as the given one.

  Args:
    generator: A generator.
    extent: See `WideSpec`.

  Raises:
    ValueError: If the generator has no canvas that could be wider (StyleGAN2's
      starts from a learned constant), or its layers cannot have this extent.
  """
  if extent == 1:
    return generator
  if not isinstance(generator.spec, spec_lib.SynthesisSpec):
    raise ValueError(
      'extent must be 1 for a generator of StyleGAN2, which starts from a '
      f'learned constant of fixed size, got {extent:g}'
    )
  fields = {
    field.name: getattr(generator.spec, field.name)
    for field in dataclasses.fields(generator.spec)
  }
  return generator.clone(spec=WideSpec(**fields, extent=extent))
