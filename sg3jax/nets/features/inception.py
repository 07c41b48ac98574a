"""The Inception-v3 of 2015-12-05, in whose features FID and others compare.

Published values are of this network only: its weights are not those of other
Inception-v3 files, it resizes and normalises as TensorFlow 1 did, its average
pools do not count the padding, and its last block pools by maximum.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.nets.features import base, layers
from sg3jax.types import AnyArray, Array, Variables

SIDE = 299

_EPSILON = 1e-3


class _Unit(nn.Module):
  """Convolves, normalises and rectifies."""

  features: int
  kernel: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: str = 'SAME'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps feature maps [n, h, w, i] to [n, h2, w2, o]."""
    x = layers.Conv(
      self.features,
      self.kernel,
      self.stride,
      self.padding,
      use_bias=False,
      name='conv',
    )(x)
    return nn.relu(layers.BatchNorm(_EPSILON, name='bn')(x))


def _chain(x: Array, *units: _Unit) -> Array:
  for unit in units:
    x = unit(x)
  return x


def _joined(*branches: Array) -> Array:
  return jnp.concatenate(branches, axis=-1)


_average = functools.partial(layers.average_pool_same, window=3)
_half = functools.partial(layers.max_pool, window=3, stride=2)


def _max_same(x: Array) -> Array:
  return nn.max_pool(x, (3, 3), (1, 1), 'SAME')


class _Mixed5(nn.Module):
  """A block at 35 x 35."""

  pooled: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps feature maps [n, h, w, i] to [n, h, w, 224 + pooled]."""
    return _joined(
      _Unit(64, name='branch1x1')(x),
      _chain(
        x,
        _Unit(48, name='branch5x5_1'),
        _Unit(64, (5, 5), name='branch5x5_2'),
      ),
      _chain(
        x,
        _Unit(64, name='branch3x3dbl_1'),
        _Unit(96, (3, 3), name='branch3x3dbl_2'),
        _Unit(96, (3, 3), name='branch3x3dbl_3'),
      ),
      _Unit(self.pooled, name='branch_pool')(_average(x)),
    )


class _Mixed6a(nn.Module):
  """The block from 35 x 35 to 17 x 17."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps feature maps [n, h, w, i] to [n, h/2, w/2, 480 + i]."""
    return _joined(
      _Unit(384, (3, 3), 2, 'VALID', name='branch3x3')(x),
      _chain(
        x,
        _Unit(64, name='branch3x3dbl_1'),
        _Unit(96, (3, 3), name='branch3x3dbl_2'),
        _Unit(96, (3, 3), 2, 'VALID', name='branch3x3dbl_3'),
      ),
      _half(x),
    )


class _Mixed6(nn.Module):
  """A block at 17 x 17, with kernels of one row or one column."""

  inner: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps feature maps [n, h, w, i] to [n, h, w, 768]."""
    c = self.inner
    return _joined(
      _Unit(192, name='branch1x1')(x),
      _chain(
        x,
        _Unit(c, name='branch7x7_1'),
        _Unit(c, (1, 7), name='branch7x7_2'),
        _Unit(192, (7, 1), name='branch7x7_3'),
      ),
      _chain(
        x,
        _Unit(c, name='branch7x7dbl_1'),
        _Unit(c, (7, 1), name='branch7x7dbl_2'),
        _Unit(c, (1, 7), name='branch7x7dbl_3'),
        _Unit(c, (7, 1), name='branch7x7dbl_4'),
        _Unit(192, (1, 7), name='branch7x7dbl_5'),
      ),
      _Unit(192, name='branch_pool')(_average(x)),
    )


class _Mixed7a(nn.Module):
  """The block from 17 x 17 to 8 x 8."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps feature maps [n, h, w, i] to [n, h/2, w/2, 512 + i]."""
    return _joined(
      _chain(
        x,
        _Unit(192, name='branch3x3_1'),
        _Unit(320, (3, 3), 2, 'VALID', name='branch3x3_2'),
      ),
      _chain(
        x,
        _Unit(192, name='branch7x7x3_1'),
        _Unit(192, (1, 7), name='branch7x7x3_2'),
        _Unit(192, (7, 1), name='branch7x7x3_3'),
        _Unit(192, (3, 3), 2, 'VALID', name='branch7x7x3_4'),
      ),
      _half(x),
    )


class _Mixed7(nn.Module):
  """A block at 8 x 8."""

  pools_by_maximum: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps feature maps [n, h, w, i] to [n, h, w, 2048]."""
    single = _Unit(384, name='branch3x3_1')(x)
    double = _chain(
      x,
      _Unit(448, name='branch3x3dbl_1'),
      _Unit(384, (3, 3), name='branch3x3dbl_2'),
    )
    pooled = _max_same(x) if self.pools_by_maximum else _average(x)
    return _joined(
      _Unit(320, name='branch1x1')(x),
      _Unit(384, (1, 3), name='branch3x3_2a')(single),
      _Unit(384, (3, 1), name='branch3x3_2b')(single),
      _Unit(384, (1, 3), name='branch3x3dbl_3a')(double),
      _Unit(384, (3, 1), name='branch3x3dbl_3b')(double),
      _Unit(192, name='branch_pool')(pooled),
    )


def _blocks() -> dict[str, nn.Module | functools.partial]:
  """Returns the blocks by name, in their order."""
  return {
    'Conv2d_1a_3x3': _Unit(32, (3, 3), 2, 'VALID', name='Conv2d_1a_3x3'),
    'Conv2d_2a_3x3': _Unit(32, (3, 3), 1, 'VALID', name='Conv2d_2a_3x3'),
    'Conv2d_2b_3x3': _Unit(64, (3, 3), name='Conv2d_2b_3x3'),
    'MaxPool_1': _half,
    'Conv2d_3b_1x1': _Unit(80, name='Conv2d_3b_1x1'),
    'Conv2d_4a_3x3': _Unit(192, (3, 3), 1, 'VALID', name='Conv2d_4a_3x3'),
    'MaxPool_2': _half,
    'Mixed_5b': _Mixed5(32, name='Mixed_5b'),
    'Mixed_5c': _Mixed5(64, name='Mixed_5c'),
    'Mixed_5d': _Mixed5(64, name='Mixed_5d'),
    'Mixed_6a': _Mixed6a(name='Mixed_6a'),
    'Mixed_6b': _Mixed6(128, name='Mixed_6b'),
    'Mixed_6c': _Mixed6(160, name='Mixed_6c'),
    'Mixed_6d': _Mixed6(160, name='Mixed_6d'),
    'Mixed_6e': _Mixed6(192, name='Mixed_6e'),
    'Mixed_7a': _Mixed7a(name='Mixed_7a'),
    'Mixed_7b': _Mixed7(False, name='Mixed_7b'),
    'Mixed_7c': _Mixed7(True, name='Mixed_7c'),
  }


class InceptionV3(nn.Module):
  """Maps prepared images to the activations of all blocks, and logits."""

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w 3']) -> dict[str, Array]:
    """Returns feature maps by block, `features`, `logits` and without bias."""
    activations = {}
    for name, block in _blocks().items():
      x = activations[name] = block(x)
    features = x.mean((1, 2))
    logits, unbiased = layers.Dense(1008, name='fc')(features)
    return activations | {
      'features': features,
      'logits_unbiased': unbiased,
      'logits': logits,
    }


def prepare(images: AnyArray) -> Float[Array, 'n 299 299 3']:
  """Resizes images to 299 pixels and scales them to about [-1, 1].

  Args:
    images: [n, h, w, c] in [0, 255], with 1, 3 or 4 channels.
  """
  x = layers.as_rgb(images)
  _, height, width, _ = x.shape
  x = layers.resize(x, _bilinear(height, SIDE), _bilinear(width, SIDE))
  return (x - 128) / 128


@functools.lru_cache(maxsize=16)
def _bilinear(old: int, new: int) -> np.ndarray:
  """Returns TensorFlow 1's bilinear interpolation as a matrix [new, old].

  Pixel i of the result lies at i old / new, with the corners of pixels, not
  their centres, as coordinates. Shrinking does not average.
  """
  position = np.arange(new) * (old / new)
  low = np.minimum(position.astype(int), old - 1)
  matrix = np.zeros((new, old))
  rows = np.arange(new)
  matrix[rows, low] += 1 - (position - low)
  matrix[rows, np.minimum(low + 1, old - 1)] += position - low
  return matrix


_MODULE = InceptionV3()


def apply(variables: Variables, images: AnyArray) -> dict[str, Array]:
  """Returns the outputs of `NETWORK` for images, uint8 [n, h, w, c]."""
  outputs = _MODULE.apply(variables, prepare(images))
  assert isinstance(outputs, dict)
  return {
    'features': outputs['features'],
    'logits_unbiased': outputs['logits_unbiased'],
    'logits': outputs['logits'],
    '64': outputs['MaxPool_1'].mean((1, 2)),
    '192': outputs['MaxPool_2'].mean((1, 2)),
    '768': outputs['Mixed_6e'].mean((1, 2)),
  }


@functools.cache
def shapes() -> Mapping[str, tuple[int, ...]]:
  """Returns the shape of each parameter by path."""
  return layers.shapes(_MODULE, SIDE, SIDE, 3)


NETWORK = base.register(
  base.FeatureNetwork(
    name='inception',
    title='Inception-v3 (2015-12-05)',
    dims={
      'features': 2048,
      'logits_unbiased': 1008,
      'logits': 1008,
      '64': 64,
      '192': 192,
      '768': 768,
    },
    apply=apply,
    protocol=(
      'uint8 RGB (grey repeated, alpha dropped), resized to 299 x 299 by the '
      'bilinear interpolation of TensorFlow 1 without antialiasing, '
      '(x - 128) / 128'
    ),
    shapes=shapes,
    remedy=(
      'download pt_inception-2015-12-05-6726825d.pth (release fid_weights of '
      'mseitzer/pytorch-fid on GitHub) or weights-inception-2015-12-05-'
      '6726825d.pth (release v0.2.0 of toshas/torch-fidelity), then run '
      'sg3jax weights import FILE'
    ),
  )
)
