"""The residual discriminator of StyleGAN2, which StyleGAN3 keeps unchanged."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import layers
from sg3jax.nets import mapping as mapping_lib
from sg3jax.ops import explicit
from sg3jax.types import AnyArray, Array, Images, Labels


def block_resolutions(resolution: int) -> list[int]:
  """Returns the resolutions of the blocks, from that of the image downwards.

  Args:
    resolution: b * 2^k with 4 <= b <= 7 and k >= 1; b is the last resolution.

  Raises:
    ValueError: If the resolution has another value.
  """
  resolutions = [resolution]
  while resolutions[-1] > 7 and resolutions[-1] % 2 == 0:
    resolutions.append(resolutions[-1] // 2)
  if not 4 <= resolutions[-1] <= 7 or len(resolutions) < 2:
    raise ValueError(
      'the resolution must be b * 2^k with 4 <= b <= 7 and k >= 1, such as 64, '
      f'80, 96 or 112, got {resolution}'
    )
  return resolutions


def images_in_group(n: int, group_size: int) -> int:
  """Returns the size of the groups into which `minibatch_std` divides n images.

  Raises:
    ValueError: See `minibatch_std`.
  """
  if group_size < 1:
    raise ValueError(f'mbstd_group must be at least 1, got {group_size}')
  size = max(g for g in range(1, min(group_size, n) + 1) if n % g == 0)
  if size == 1 < min(group_size, n):
    raise ValueError(
      'the batch must be divisible into groups of 2 to '
      f'{group_size} images for the minibatch standard deviation, got {n} '
      f'images: use a multiple of {group_size}, or another mbstd_group'
    )
  return size


def minibatch_std(
  x: Float[AnyArray, 'n h w c'], group_size: int
) -> Float[Array, 'n h w c+1']:
  """Appends the standard deviation within groups of images as a channel.

  Of N images in groups of G, image m shares its group with images m + N/G,
  m + 2N/G, ... of the whole batch, regardless of sharding. G is the largest
  divisor of N that is at most `group_size`.

  Args:
    x: Activations.
    group_size: Largest number of images in a group, at least 1.

  Returns:
    `x` with one more channel, which is constant over an image:
    sqrt(variance within the group + 1e-8), averaged over positions and
    channels.

  Raises:
    ValueError: If the group size is not positive, or if the batch can only be
      divided into groups of one image.
  """
  n = x.shape[0]
  size = images_in_group(n, group_size)

  def statistic(x: Array) -> Array:
    groups = jnp.reshape(x, (size, n // size, *x.shape[1:]))
    stddev = jnp.sqrt(jnp.var(groups, axis=0) + 1e-8)
    of_images = jnp.tile(jnp.mean(stddev, axis=(1, 2, 3)), size)
    return jnp.broadcast_to(of_images[:, None, None, None], (*x.shape[:3], 1))

  x = jnp.asarray(x)
  # The images of a group are on several devices: no type expresses how groups
  # are sharded.
  spec = explicit.spec_of(x)
  y = explicit.automatic(statistic, *spec[:3], None)(x)
  return jnp.concatenate([x, y], axis=3)


class Block(nn.Module):
  """A residual block that halves the resolution.

  Attributes:
    in_features: Channels of the input.
    features: Channels of the output.
    dtype: Dtype of all computations.
    clamp: Bound on the magnitudes of convolutions except the skip, or None.
    from_image: Whether the input is an image, which a 1x1 convolution maps to
      `in_features` channels.
  """

  in_features: int
  features: int
  dtype: Any
  clamp: float | int | None
  from_image: bool

  @nn.compact
  def __call__(
    self, x: Float[AnyArray, 'n h w i']
  ) -> Float[Array, 'n h2 w2 o']:
    """Returns the activations at half the resolution, in `dtype`."""
    x = jnp.asarray(x, self.dtype)
    if self.from_image:
      x = layers.Conv(self.in_features, 1, clamp=self.clamp, name='fromrgb')(x)
    skip = layers.Conv(
      self.features,
      1,
      down=2,
      activation='linear',
      gain=0.5**0.5,
      use_bias=False,
      name='skip',
    )(x)
    x = layers.Conv(self.in_features, 3, clamp=self.clamp, name='conv0')(x)
    x = layers.Conv(
      self.features,
      3,
      down=2,
      gain=0.5**0.5,
      clamp=self.clamp,
      name='conv1',
    )(x)
    return skip + x


class Epilogue(nn.Module):
  """The last block, from activations of 4x4 to 7x7 to features, in float32.

  `fc/weight` is [h * w * c, features], with rows in the order (h, w, c).

  Attributes:
    hidden: Channels of the convolution and of the fully connected layer.
    features: Number of outputs.
    mbstd_group: Images in a group of the minibatch standard deviation.
    clamp: Bound on the magnitude of the convolution, or None.
  """

  hidden: int
  features: int
  mbstd_group: int
  clamp: float | int | None

  @nn.compact
  def __call__(self, x: Float[AnyArray, 'n h w c']) -> Float[Array, 'n o']:
    """Returns the features of each image, float32."""
    x = minibatch_std(jnp.asarray(x, jnp.float32), self.mbstd_group)
    x = layers.Conv(self.hidden, 3, clamp=self.clamp, name='conv')(x)
    x = x.reshape(x.shape[0], -1)
    x = layers.Dense(self.hidden, activation='lrelu', name='fc')(x)
    return layers.Dense(self.features, name='out')(x)


class Discriminator(nn.Module):
  """Scores how real images look (math.md 2.2).

  Parameters are always float32: b{res}/{fromrgb,conv0,conv1,skip} for every
  resolution except the last, with fromrgb only in the first;
  b{last}/{conv,fc,out}; and mapping/{embed,fc0,...} for labels. Kernels are
  HWIO.

  Attributes:
    resolution: Side of the images, b * 2^k with 4 <= b <= 7 and k >= 1.
    img_channels: Channels of the images, such as 1, 3 or 4.
    label_dim: Features of a label, 0 for none.
    channel_base: A block has min(channel_base // resolution, channel_max)
      channels at its input.
    channel_max: See channel_base.
    mbstd_group: Images in a group of the minibatch standard deviation; see
      `minibatch_std` for batches that are not a multiple.
    mapping_layers: Fully connected layers of the mapping of labels.
    conv_clamp: Bound on the magnitudes of convolutions, or None. 256 keeps
      float16 from overflowing; float32 needs no bound.
    low_precision_dtype: Dtype of the highest resolutions, such as
      jnp.bfloat16, or None for float32 everywhere.
    num_low_precision: Number of resolutions in that dtype, never the last.
    remat: Whether gradients compute the activations inside of blocks again
      instead of saving them.
  """

  resolution: int
  img_channels: int
  label_dim: int = 0
  channel_base: int = 32768
  channel_max: int = 512
  mbstd_group: int = 4
  mapping_layers: int = 8
  conv_clamp: float | int | None = None
  low_precision_dtype: Any = None
  num_low_precision: int = 4
  remat: bool = False

  @nn.compact
  def __call__(
    self, img: Images, c: Labels | None = None
  ) -> Float[Array, 'n 1']:
    """Returns one logit per image, float32.

    Args:
      img: Images in [-1, 1].
      c: Labels [n, label_dim]; ignored if label_dim is 0.

    Raises:
      ValueError: If the resolution is impossible, the images have the wrong
        shape, labels are missing, or the batch cannot be grouped.
    """
    resolutions = block_resolutions(self.resolution)
    expected = (self.resolution, self.resolution, self.img_channels)
    if img.shape[1:] != expected:
      raise ValueError(
        f'img must have the shape [n, {expected[0]}, {expected[1]}, '
        f'{expected[2]}], got {list(img.shape)}'
      )

    x = img
    channels = [
      min(self.channel_base // res, self.channel_max) for res in resolutions
    ]
    block_class: Any = nn.remat(Block) if self.remat else Block
    for i, res in enumerate(resolutions[:-1]):
      low = self.low_precision_dtype and i < self.num_low_precision
      x = block_class(
        in_features=channels[i],
        features=channels[i + 1],
        dtype=self.low_precision_dtype if low else jnp.float32,
        clamp=self.conv_clamp,
        from_image=i == 0,
        name=f'b{res}',
      )(x)
    width = channels[-1]
    x = Epilogue(
      hidden=width,
      features=width if self.label_dim else 1,
      mbstd_group=self.mbstd_group,
      clamp=self.conv_clamp,
      name=f'b{resolutions[-1]}',
    )(x)
    if not self.label_dim:
      return x
    embedding = mapping_lib.Mapping(
      z_dim=0,
      label_dim=self.label_dim,
      w_dim=width,
      num_layers=self.mapping_layers,
      name='mapping',
    )(None, c)
    return jnp.sum(x * embedding, axis=1, keepdims=True) / width**0.5
