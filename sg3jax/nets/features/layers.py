"""Layers and preparation of images that feature networks share.

Parameters have the names of PyTorch's state dictionaries, because published
weights come in these. Products of float32 are exact, without bfloat16 or TF32
passes: otherwise features differ by 1e-2 from the published ones, and metrics
with them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from sg3jax.trees import flatten
from sg3jax.types import AnyArray, Array

_EXACT = lax.Precision.HIGHEST

# Initial values only state the shapes: all weights are imported.
_zeros = nn.initializers.zeros_init()
_ones = nn.initializers.ones_init()


class Conv(nn.Module):
  """A convolution with the parameters `weight` (HWIO) and `bias`.

  Attributes:
    features: Number of output channels.
    kernel: Rows and columns of the kernel.
    stride: Distance between outputs.
    padding: 'SAME', 'VALID' or the number of zeros on every side.
    use_bias: Whether a bias is added.
  """

  features: int
  kernel: tuple[int, int]
  stride: int = 1
  padding: str | int = 'SAME'
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w i']) -> Float[Array, 'n h2 w2 o']:
    """Convolves images."""
    shape = (*self.kernel, x.shape[-1], self.features)
    pad = self.padding
    y = lax.conv_general_dilated(
      x,
      jnp.asarray(self.param('weight', _zeros, shape, jnp.float32)),
      (self.stride, self.stride),
      pad if isinstance(pad, str) else [(pad, pad)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision=_EXACT,
    )
    if self.use_bias:
      y += channels(self.param('bias', _zeros, self.features, jnp.float32))
    return y


class BatchNorm(nn.Module):
  """Batch normalisation with stored statistics.

  Attributes:
    epsilon: Added to the variance.
  """

  epsilon: float

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
    """Normalises images."""

    def parameter(name, init):
      return jnp.asarray(self.param(name, init, x.shape[-1], jnp.float32))

    weight, bias = parameter('weight', _ones), parameter('bias', _zeros)
    mean = parameter('running_mean', _zeros)
    scale = weight * lax.rsqrt(
      parameter('running_var', _ones) + np.float32(self.epsilon)
    )
    return (x - channels(mean)) * channels(scale) + channels(bias)


class Dense(nn.Module):
  """A fully connected layer with the parameters `weight` (IO) and `bias`.

  Attributes:
    features: Number of outputs.
  """

  features: int

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n i']
  ) -> tuple[Float[Array, 'n o'], Float[Array, 'n o']]:
    """Returns the outputs with and without the bias."""
    shape = (x.shape[-1], self.features)
    weight = self.param('weight', _zeros, shape, jnp.float32)
    bias = self.param('bias', _zeros, self.features, jnp.float32)
    product = jnp.matmul(x, weight, precision=_EXACT)
    return product + jnp.asarray(bias).reshape(1, -1), product


def channels(vector: AnyArray) -> Float[Array, '1 1 1 c']:
  """Returns a vector [c] as an array that broadcasts over images."""
  return jnp.asarray(vector).reshape(1, 1, 1, -1)


def max_pool(
  x: Float[Array, 'n h w c'], window: int, stride: int
) -> Float[Array, 'n h2 w2 c']:
  """Returns the largest value in each window, without padding."""
  return nn.max_pool(x, (window, window), (stride, stride), 'VALID')


def average_pool_same(
  x: Float[Array, 'n h w c'], window: int
) -> Float[Array, 'n h w c']:
  """Returns the mean around each position over what lies within the image."""
  sums = lax.reduce_window(
    x, np.float32(0), lax.add, (1, window, window, 1), (1, 1, 1, 1), 'SAME'
  )
  # Computed here, because XLA would take seconds to fold it into a constant.
  rows, columns = (_counts(size, window) for size in x.shape[1:3])
  share = (1 / np.outer(rows, columns)).astype(np.float32)
  return sums * share[None, :, :, None]


def _counts(size: int, window: int) -> np.ndarray:
  """Returns how many positions of each window lie within an axis."""
  position = np.arange(size)
  reach = window // 2
  last = np.minimum(position + reach, size - 1)
  return last - np.maximum(position - reach, 0) + 1


def as_rgb(images: AnyArray) -> Float[Array, 'n h w 3']:
  """Returns images as three channels, in the range in which they are.

  Grey is repeated, and the alpha channel is dropped.

  Args:
    images: [n, h, w, c] of any type, with 1, 3 or 4 channels.

  Raises:
    ValueError: If the number of channels is different.
  """
  x = jnp.asarray(images)
  if x.ndim != 4 or x.shape[-1] not in (1, 3, 4):
    raise ValueError(
      'images must be [n, h, w, c] with 1, 3 or 4 channels, got '
      f'{list(x.shape)}'
    )
  x = x.astype(jnp.float32)
  return jnp.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x[..., :3]


def resize(
  x: Float[Array, 'n h w c'],
  rows: Float[np.ndarray, 'h2 h'],
  columns: Float[np.ndarray, 'w2 w'],
) -> Float[Array, 'n h2 w2 c']:
  """Resamples images by a matrix for the rows and one for the columns."""
  return jnp.einsum(
    'yh,nhwc,xw->nyxc',
    rows.astype(np.float32),
    x,
    columns.astype(np.float32),
    precision=_EXACT,
  )


def shapes(module: nn.Module, *image_shape: int) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of a network's variables by path: `params/fc/weight`.

  Args:
    module: The network.
    *image_shape: Height, width and channels of its images.
  """
  key = jax.eval_shape(lambda: jax.random.key(0))
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  variables = jax.eval_shape(module.init, key, images)
  return {path: leaf.shape for path, leaf in flatten(variables).items()}
