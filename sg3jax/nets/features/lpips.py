"""LPIPS, the perceptual distance between images, version 0.1.

The distance compares five activations of VGG-16 or AlexNet. At each position
they are normalised to unit length; the squared differences are weighted by
channel, averaged over positions and summed over the five.

All of this is the squared Euclidean distance of two long vectors, which `embed`
returns. The feature networks `vgg16` and `alexnet` average them over positions
instead: the squared distances of these short vectors never exceed LPIPS.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.nets.features import alexnet, base, layers, vgg16
from sg3jax.types import AnyArray, Array, Images, Variables

# Mean and standard deviation of each channel in [-1, 1] that LPIPS assumes.
_MEAN = (-0.030, -0.088, -0.188)
_STD = (0.458, 0.448, 0.450)

_EPSILON = 1e-10  # Added to lengths.


@dataclasses.dataclass(frozen=True)
class _Net:
  """A network that LPIPS compares activations of.

  Attributes:
    name: Name of the feature network and of its weights.
    title: Its name in texts.
    trunk: Its module.
    taps: Channels of its five activations.
    min_side: The fewest pixels per side of its images.
  """

  name: str
  title: str
  trunk: type[nn.Module]
  taps: Sequence[int]
  min_side: int


_NETS = {
  'vgg': _Net('vgg16', 'VGG-16', vgg16.Trunk, vgg16.TAPS, vgg16.MIN_SIDE),
  'alex': _Net(
    'alexnet', 'AlexNet', alexnet.Trunk, alexnet.TAPS, alexnet.MIN_SIDE
  ),
}

NETS = tuple(_NETS)

# The images of a pair must have equal sizes, which `per_layer` checks; their
# channels may differ.
Others: TypeAlias = Float[AnyArray, 'm h2 w2 c2']


class Lpips(nn.Module):
  """Maps images to the weighted, normalised activations of a network.

  Attributes:
    net: One of `NETS`.
  """

  net: str

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w 3']) -> list[Array]:
    """Returns five maps [n, h, w, c] whose squared differences LPIPS averages.

    Args:
      x: Images in [-1, 1].
    """
    net = _NETS[self.net]
    mean = np.array(_MEAN, np.float32).reshape(1, 1, 1, 3)
    std = np.array(_STD, np.float32).reshape(1, 1, 1, 3)
    taps = net.trunk(name='features')((x - mean) / std)
    results = []
    for i, tap in enumerate(taps):
      weight = _Head(tap.shape[-1], name=f'lin{i}')()
      # The published weights are not negative.
      root = jnp.sqrt(jnp.maximum(weight, 0))
      results.append(_unit_length(tap) * layers.channels(root))
    return results


class _Head(nn.Module):
  """The weights of the channels of one activation."""

  size: int

  @nn.compact
  def __call__(self) -> Float[Array, 'c']:
    """Returns the weights."""
    init = nn.initializers.zeros_init()
    return jnp.asarray(self.param('weight', init, self.size, jnp.float32))


def _unit_length(x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
  """Normalises the channels at each position to unit length."""
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  # The derivative of the root at 0, where all channels rest, is not finite.
  is_zero = square == 0
  length = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))
  return x / (length + np.float32(_EPSILON))


def distance(
  variables: Variables, a: Images, b: Others, net: str = 'vgg'
) -> Float[Array, ' n']:
  """Returns the distances between two batches of images, at least 0.

  Differentiable with respect to both. Images of other sizes are not resized:
  LPIPS was trained on 64 x 64, and published values of StyleGAN use up to 256.

  Args:
    variables: Weights, from `interop.feature_weights.load('vgg16')`, or
      'alexnet' for `net='alex'`.
    a: Images in [-1, 1], with 1, 3 or 4 channels; grey is repeated, alpha is
      dropped.
    b: Images of the same height and width.
    net: 'vgg' or 'alex'.

  Raises:
    ValueError: If the net is unknown, the shapes differ, or the images are not
      floats or too small (16 pixels per side for VGG, 31 for AlexNet).
  """
  return jnp.sum(per_layer(variables, a, b, net), axis=1)


def per_layer(
  variables: Variables, a: Images, b: Others, net: str = 'vgg'
) -> Float[Array, 'n 5']:
  """Returns the parts of the distances; see `distance`."""
  if a.shape[:3] != b.shape[:3]:
    raise ValueError(
      'LPIPS compares images of the same number and size, got '
      f'{list(a.shape)} and {list(b.shape)}: resize one of them'
    )
  differences = [
    jnp.mean(jnp.sum((left - right) ** 2, axis=-1), axis=(1, 2))
    for left, right in zip(
      _maps(variables, a, net), _maps(variables, b, net), strict=True
    )
  ]
  return jnp.stack(differences, axis=1)


def embed(
  variables: Variables, images: Images, net: str = 'vgg'
) -> Float[Array, 'n d']:
  """Returns vectors whose squared distances are LPIPS.

  They allow many images to be compared with each other or with a fixed target,
  whose vector is computed once. At 64 pixels VGG's have 499,712 numbers.

  Args:
    variables: See `distance`.
    images: Images in [-1, 1].
    net: 'vgg' or 'alex'.

  Raises:
    ValueError: See `distance`.
  """
  vectors = []
  for x in _maps(variables, images, net):
    n, height, width, _ = x.shape
    vectors.append(x.reshape(n, -1) / np.sqrt(height * width, dtype=np.float32))
  return jnp.concatenate(vectors, axis=1)


def _maps(variables: Variables, images: Images, net: str) -> list[Array]:
  """Returns the activations that LPIPS compares; images are in [-1, 1]."""
  if net not in _NETS:
    raise ValueError(f'net must be one of {", ".join(_NETS)}, got {net}')
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'images must be floats in [-1, 1], got {images.dtype}: scale them first'
    )
  x = layers.as_rgb(images)
  side = _NETS[net].min_side
  if min(x.shape[1:3]) < side:
    raise ValueError(
      f'images must have at least {side} pixels per side for {net}, got '
      f'{x.shape[1]} x {x.shape[2]}'
    )
  maps = Lpips(net).apply(variables, x)
  assert isinstance(maps, list)
  return maps


def _apply(
  net: str, variables: Variables, images: AnyArray
) -> dict[str, Array]:
  """Returns the mean over positions of what LPIPS compares."""
  x = jnp.asarray(images).astype(jnp.float32) / np.float32(127.5) - 1
  maps = _maps(variables, x, net)
  features = jnp.concatenate([x.mean((1, 2)) for x in maps], axis=1)
  return {'features': features}


@functools.cache
def _shapes(net: str) -> Mapping[str, tuple[int, ...]]:
  side = _NETS[net].min_side
  return layers.shapes(Lpips(net), side, side, 3)


def _register(net: str) -> base.FeatureNetwork:
  about = _NETS[net]
  return base.register(
    base.FeatureNetwork(
      name=about.name,
      title=f'{about.title} with the weights of LPIPS 0.1',
      dims={'features': sum(about.taps)},
      apply=functools.partial(_apply, net),
      protocol=(
        'uint8 RGB (grey repeated, alpha dropped) at its own size, '
        'x / 127.5 - 1, activations as LPIPS compares them, averaged over '
        'positions'
      ),
      shapes=functools.partial(_shapes, net),
      remedy=(
        'run pip install "sg3jax[lpips]", which has the weights, or save '
        f"lpips.LPIPS(net='{net}').state_dict() with torch.save where PyTorch "
        'is, then run sg3jax weights import FILE'
      ),
    )
  )


VGG16 = _register('vgg')
ALEXNET = _register('alex')
