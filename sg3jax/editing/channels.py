"""Adapts models to images of other channels: grey, RGB and RGBA.

A change of channels is a pair of affine maps: one from old images to new ones,
and one from new images to old ones. Both are absorbed exactly: the first into
the layers that output the image (ToRGB), the second into the layer that takes
the image in the discriminator (FromRGB). So the new model generates the old
images with other channels, and judges them as before.

    to grey    the luma of RGB, or the mean; D sees the grey in all channels
    to RGB     grey in all channels, or without alpha; D sees the luma
    to RGBA    an opaque alpha; D ignores alpha
"""

import dataclasses

import numpy as np

from sg3jax.editing import surgery
from sg3jax.nets import factory, stylegan2

NAMES = {'grey': 1, 'rgb': 3, 'rgba': 4}
GREY = {'luma': (0.299, 0.587, 0.114), 'mean': (1 / 3, 1 / 3, 1 / 3)}


@dataclasses.dataclass(frozen=True)
class _Map:
  """An affine map of the channels of pixels: `matrix @ x + offset`."""

  matrix: np.ndarray
  offset: np.ndarray


def adapt(parts: surgery.Parts, to: str, grey: str = 'luma') -> surgery.Parts:
  """Returns a model with other image channels.

  Args:
    parts: The model.
    to: 'grey', 'rgb' or 'rgba'.
    grey: Weights of the colours in grey, 'luma' or 'mean'.

  Raises:
    ValueError: If the model has these channels already, or a name is unknown.
  """
  if to not in NAMES or grey not in GREY:
    raise ValueError(
      f'to must be one of {", ".join(NAMES)} and grey one of '
      f'{", ".join(GREY)}, got {to} and {grey}'
    )
  old, new = parts.design['img_channels'], NAMES[to]
  if old == new:
    raise ValueError(f'to must differ from the channels of the model, got {to}')
  design = {**parts.design, 'img_channels': new}
  networks = dict(parts.networks)
  networks['generator_ema'] = _adapt_generator(
    networks['generator_ema'], parts.design, _make_map(old, new, grey)
  )
  if 'discriminator' in networks:
    networks['discriminator'] = _adapt_discriminator(
      networks['discriminator'], _make_map(new, old, grey)
    )
  return surgery.Parts(design, networks)


def _make_map(old: int, new: int, grey: str) -> _Map:
  """Returns the map from images of `old` channels to those of `new`."""
  # By way of RGB: from the old channels to it, and from it to the new ones.
  to_rgb = {1: np.ones((3, 1)), 3: np.eye(3), 4: np.eye(3, 4)}[old]
  from_rgb = {
    1: np.array([GREY[grey]]), 3: np.eye(3), 4: np.eye(4, 3)
  }[new]  # fmt: skip
  offset = np.zeros(new)
  if new == 4:
    offset[3] = 1.0  # Opaque.
  return _Map(from_rgb @ to_rgb, offset)


def _adapt_generator(arrays, design, change: _Map) -> surgery.Arrays:
  """Returns the arrays of a generator whose images are mapped."""
  spec = factory.make_spec(design)
  if isinstance(spec, stylegan2.StyleGAN2Spec):
    # The image is the sum of these layers' outputs; only one adds the offset.
    names = [p.removesuffix('/weight') for p in arrays if 'torgb/weight' in p]
    last, scale = f'params/synthesis/b{spec.resolution}/torgb', 1.0
  else:
    names = [last := f'params/synthesis/{spec.layers[-1].name}']
    scale = design.get('output_scale', 0.25)
  result = dict(arrays)
  for name in names:
    weight, bias = (
      np.asarray(arrays[f'{name}/{x}'], np.float64) for x in ('weight', 'bias')
    )
    offset = change.offset / scale if name == last else 0.0
    result[f'{name}/weight'] = _float32(weight @ change.matrix.T)
    result[f'{name}/bias'] = _float32(change.matrix @ bias + offset)
  return result


def _adapt_discriminator(arrays, change: _Map) -> surgery.Arrays:
  """Returns the arrays of a discriminator that maps its images first."""
  (name,) = {p.rpartition('/')[0] for p in arrays if '/fromrgb/' in p}
  weight, bias = (
    np.asarray(arrays[f'{name}/{x}'], np.float64) for x in ('weight', 'bias')
  )
  old, new = change.matrix.shape
  # At run time, weights are divided by the root of the number of channels.
  result = dict(arrays)
  result[f'{name}/weight'] = _float32(
    np.einsum('hwio,ij->hwjo', weight, change.matrix) * (new / old) ** 0.5
  )
  result[f'{name}/bias'] = _float32(
    bias + np.einsum('hwio,i->o', weight, change.offset) / old**0.5
  )
  return result


def _float32(x: np.ndarray) -> np.ndarray:
  return np.asarray(x, np.float32)
