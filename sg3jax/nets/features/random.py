"""A convolutional network with random weights, which needs no download.

Each stage convolves with random kernels, takes absolute values and averages
over 2x2 pixels, as in a scattering transform: a stage measures the energy of
the stage before it at a coarser scale. Unlike a trained network, it sees
colours, contrast and texture, but knows no objects. Naeem et al. 2020 (arXiv
2002.09797, section 4) also compare sets of images in the features of a random
network.

Five stages reduce the image from 128 to 8 pixels, and the widths double, so
that all stages cost about as much as each other: 83 million multiplications for
an image in total. The features are the logarithms of each map's mean, because
energies span orders of magnitude, and their logarithms have nearly a normal
distribution, which Fréchet distances assume; and the mean colour.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from sg3jax.nets.features import base
from sg3jax.types import AnyArray, Array, Variables

_SIZE = 128
_WIDTHS = (16, 32, 64, 128, 256)
_GAIN = 2.0  # About keeps the variance from stage to stage.
# Below this, energies count as zero: a tenth of one grey level.
_FLOOR = 1e-3


def init(key: Array) -> Variables:
  """Returns the weights for a key.

  They are standard normal numbers of NumPy's `RandomState`, whose stream is the
  same in all versions and on all machines. The mean over each kernel is zero,
  because the mean of its inputs would otherwise dominate all features.
  """
  rng = np.random.RandomState(int(jax.random.key_data(key).ravel()[-1]))
  kernels, channels = {}, 3
  for i, width in enumerate(_WIDTHS):
    kernel = rng.standard_normal((3, 3, channels, width))
    kernel -= kernel.mean((0, 1, 2))
    gain = _GAIN / np.sqrt(9 * channels)
    kernels[f'stage{i}'] = (gain * kernel).astype(np.float32)
    channels = width
  return {'params': kernels}


def apply(
  variables: Variables, images: UInt8[AnyArray, 'n h w c']
) -> dict[str, Float[Array, 'n d']]:
  """Returns the features, [n, 499]: energies of all stages, and the colour."""
  x = to_rgb(jnp.asarray(images)).astype(jnp.float32) / 127.5 - 1
  x = jax.image.resize(x, (len(x), _SIZE, _SIZE, 3), 'linear', antialias=True)
  features = [x.mean((1, 2))]
  for i in range(len(_WIDTHS)):
    x = jax.lax.conv_general_dilated(
      x,
      variables['params'][f'stage{i}'],
      window_strides=(1, 1),
      padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision=jax.lax.Precision.HIGHEST,
    )
    x = jnp.abs(x)
    features.append(jnp.log(x.mean((1, 2)) + _FLOOR))
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
  return {'features': jnp.concatenate(features, axis=1)}


def to_rgb(
  images: UInt8[AnyArray, 'n h w c'],
) -> UInt8[AnyArray, 'n h w 3']:
  """Repeats grey images as three channels, and drops an alpha channel."""
  return images.repeat(3, axis=3) if images.shape[3] == 1 else images[..., :3]


NETWORK = base.register(
  base.FeatureNetwork(
    name='random',
    title='random convolutions',
    dims={'features': 3 + sum(_WIDTHS)},
    apply=apply,
    protocol=(
      f'grey repeated to RGB, alpha dropped; resized to {_SIZE}x{_SIZE} by a '
      'triangle filter, which is widened for larger images; x / 127.5 - 1'
    ),
    init=init,
  )
)
