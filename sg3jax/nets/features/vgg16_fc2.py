"""The second fully connected layer of VGG-16, for precision and recall.

Kynkäänniemi et al. 2019 (arXiv 1904.06991) compare images by it. The weights
are those that torchvision publishes, for images of 224 pixels that are
normalised by the statistics of ImageNet.
"""

import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from sg3jax.nets.features import base, layers, vgg16
from sg3jax.types import AnyArray, Array, Variables

SIDE = 224

# The statistics of ImageNet.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class _Classifier(nn.Module):
  """Maps feature maps to the activation of the second fully connected layer.

  The names of the layers are their positions in torchvision's list of layers,
  activations and dropouts.
  """

  width: int

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n d']:
    """Returns the activations."""
    # The published layer expects all positions of a channel in a row.
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    for name in ('0', '3'):
      biased, _ = layers.Dense(self.width, name=name)(x)
      x = nn.relu(biased)
    return x


class Vgg16(nn.Module):
  """Maps normalised images to the second fully connected layer.

  Attributes:
    stages: Channels of the convolutions of each stage.
    width: Length of the fully connected layers.
  """

  stages: Sequence[Sequence[int]] = vgg16.STAGES
  width: int = 4096

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w 3']) -> Float[Array, 'n d']:
    """Returns the activations, which are not negative."""
    maps = vgg16.Trunk(self.stages, name='features')(x)[-1]
    x = layers.max_pool(maps, 2, 2)
    return _Classifier(self.width, name='classifier')(x)


def prepare(
  images: AnyArray, side: int = SIDE
) -> Float[Array, 'n side side 3']:
  """Resizes images with an antialiased linear filter, and normalises them.

  Args:
    images: [n, h, w, c] in [0, 255], with 1, 3 or 4 channels.
    side: Pixels per side of the result. Images that are not square are
      stretched.
  """
  x = layers.as_rgb(images)
  x = jax.image.resize(
    x,
    (x.shape[0], side, side, 3),
    'linear',
    antialias=True,
    precision=lax.Precision.HIGHEST,
  )
  mean = np.array(_MEAN, np.float32).reshape(1, 1, 1, 3)
  std = np.array(_STD, np.float32).reshape(1, 1, 1, 3)
  return (x / 255 - mean) / std


_MODULE = Vgg16()


def apply(variables: Variables, images: AnyArray) -> dict[str, Array]:
  """Returns the outputs of `NETWORK` for images, uint8 [n, h, w, c]."""
  features = _MODULE.apply(variables, prepare(images))
  assert not isinstance(features, tuple)
  return {'features': jnp.asarray(features)}


@functools.cache
def shapes() -> Mapping[str, tuple[int, ...]]:
  """Returns the shape of each parameter by path."""
  return layers.shapes(_MODULE, SIDE, SIDE, 3)


NETWORK = base.register(
  base.FeatureNetwork(
    name='vgg16_fc2',
    title='VGG-16, second fully connected layer',
    dims={'features': _MODULE.width},
    apply=apply,
    protocol=(
      f'uint8 RGB (grey repeated, alpha dropped), resized to {SIDE} x {SIDE} '
      'by an antialiased linear filter without rounding, normalised by the '
      'statistics of ImageNet; the activation of the second fully connected '
      'layer after its rectifier, in float32'
    ),
    shapes=shapes,
    remedy=(
      'download vgg16-397923af.pth, the VGG-16 of torchvision, from '
      'download.pytorch.org/models, then run sg3jax weights import FILE'
    ),
  )
)
