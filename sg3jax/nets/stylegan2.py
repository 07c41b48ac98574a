"""The synthesis network of StyleGAN2, configs A to C (math.md 2.3)."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import fourier, layers
from sg3jax.nets import spec as spec_lib
from sg3jax.nets.discriminator import block_resolutions
from sg3jax.ops import filters
from sg3jax.ops.bias_act import DEFAULT_GAINS, bias_act
from sg3jax.ops.modulated_conv import modulated_conv
from sg3jax.ops.upfirdn import upfirdn
from sg3jax.types import AnyArray, Array, Shape

ARCHITECTURES = ('skip', 'resnet', 'orig')
INPUTS = ('constant', 'fourier')

# Bandwidth of the Fourier features of config B, in cycles per canvas side.
_FOURIER_BANDWIDTH = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleGAN2Spec:
  """A design of StyleGAN2's synthesis network (config A by default).

  Each block doubles the resolution of the previous one. The first block has one
  3x3 convolution; the others have two, of which the first upsamples.

  Attributes:
    resolution: Pixels per side of the image, b * 2^k with 4 <= b <= 7 and
      k >= 1; b is the size of the first block.
    img_channels: Image channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    channel_base: The block of a resolution has
      min(channel_base // resolution, channel_max) channels.
    channel_max: See channel_base.
    architecture: 'skip' sums the images of a ToRGB in every block; 'resnet'
      has residual blocks, and 'orig' plain ones, with one ToRGB at the end.
    input: 'constant' for a learned constant, or 'fourier' for fixed Fourier
      features (config B).
    noise: Whether every layer adds noise (not in config C).

  Raises:
    ValueError: If the design is impossible; the message names the field.
  """

  resolution: int
  img_channels: int = 3
  channel_base: int = 32768
  channel_max: int = 512
  architecture: str = 'skip'
  input: str = 'constant'
  noise: bool = True

  def __post_init__(self):
    block_resolutions(self.resolution)  # Raises.
    spec_lib.check_img_channels(self.img_channels)
    if self.channel_max < 1 or self.channel_base < self.resolution:
      raise ValueError(
        f'channel_base must be at least {self.resolution} and channel_max at '
        f'least 1, got {self.channel_base} and {self.channel_max}: blocks '
        'would have no channels'
      )
    for name, known in (('architecture', ARCHITECTURES), ('input', INPUTS)):
      spec_lib.check_choice(name, getattr(self, name), known)

  @property
  def resolutions(self) -> list[int]:
    """Resolutions of the blocks, from the first to that of the image."""
    return block_resolutions(self.resolution)[::-1]

  @property
  def num_layers(self) -> int:
    """Number of convolutions before the last ToRGB, except 1x1 ones."""
    return 2 * len(self.resolutions) - 1

  @property
  def num_ws(self) -> int:
    """Number of styles.

    Each layer and the last ToRGB has one; every other ToRGB shares the style of
    the layer that follows it.
    """
    return self.num_layers + 1

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Rows, columns and channels of an image."""
    return (self.resolution, self.resolution, self.img_channels)

  @property
  def takes_transforms(self) -> bool:
    """Whether a transform of the input can move images."""
    return self.input == 'fourier'

  def channels(self, resolution: int) -> int:
    """Returns the number of channels of the block with a resolution."""
    return min(self.channel_base // resolution, self.channel_max)


class StyledConv(nn.Module):
  """A layer: modulated 3x3 convolution, noise, bias and leaky ReLU.

  Attributes:
    features: Output channels.
    up: Upsampling factor, 1 or 2.
    gain: Factor on the result, in addition to the activation's gain sqrt(2).
    clamp: Bound on the magnitude of the result before `gain`, or None.
    noise: Whether noise is added: N(0, 1) per pixel, times a learned strength.
  """

  features: int
  up: int = 1
  gain: float = 1.0
  clamp: float | None = None
  noise: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'n h w i'],
    w: Float[Array, 'n d'],
    *,
    noise_mode: str = 'const',
  ) -> Float[Array, 'n h2 w2 o']:
    """Returns features [n, h up, w up, features] in the dtype of `x`."""
    in_channels = x.shape[-1]
    shape = (3, 3, in_channels, self.features)
    weight = self.param('weight', layers.normal(1.0), shape)
    bias = self.param('bias', layers.zeros, (self.features,))
    styles = layers.Dense(in_channels, bias_init=1.0, name='affine')(w)
    x = modulated_conv(
      x,
      weight,
      styles,
      padding=1 if self.up == 1 else 0,
      up=self.up,
      up_filter=filters.BINOMIAL,
    )
    if self.noise:
      x = x + self._noise(x.shape, noise_mode).astype(x.dtype)
    return bias_act(
      x,
      bias,
      activation='lrelu',
      gain=DEFAULT_GAINS['lrelu'] * self.gain,
      clamp=None if self.clamp is None else self.clamp * self.gain,
    )

  def _noise(self, shape: Shape, mode: str) -> Float[Array, '#n #h #w 1']:
    """Returns scaled noise, equal in all channels."""
    strength = self.param('noise_strength', layers.zeros, ())
    const = self.variable(
      'noise',
      'noise_const',
      lambda: jax.random.normal(
        self.make_rng('params'), shape[1:3], jnp.float32
      ),
    )
    value = jnp.asarray(const.value)
    return layers.scaled_noise(self, mode, shape, strength, value)


class ToRGB(nn.Module):
  """Maps features to an image: a modulated 1x1 convolution, not demodulated.

  Attributes:
    features: Image channels.
    clamp: Bound on the magnitude of the image, or None.
  """

  features: int
  clamp: float | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n h w i'], w: Float[Array, 'n d']
  ) -> Float[Array, 'n h w c']:
    """Returns images [n, h, w, features], float32."""
    in_channels = x.shape[-1]
    shape = (1, 1, in_channels, self.features)
    weight = self.param('weight', layers.normal(1.0), shape)
    bias = self.param('bias', layers.zeros, (self.features,))
    styles = layers.Dense(in_channels, bias_init=1.0, name='affine')(w)
    # Without demodulation, the scale of the weights matters: divide by
    # sqrt(fan-in).
    styles = styles / in_channels**0.5
    x = modulated_conv(x, weight, styles, demodulate=False)
    return bias_act(x, bias, clamp=self.clamp).astype(jnp.float32)


class Block(nn.Module):
  """The layers of one resolution.

  Attributes:
    spec: The design.
    resolution: Pixels per side of the outputs.
    dtype: Dtype of the feature maps; parameters are always float32.
    clamp: Bound on the magnitudes of convolutions except the skip, or None.
    noise_mode: See `Synthesis`.
  """

  spec: StyleGAN2Spec
  resolution: int
  dtype: Any
  clamp: float | None
  noise_mode: str

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'n h w i'] | None,
    image: Float[Array, 'n h w c'] | None,
    ws: Float[Array, 'n l d'],
  ) -> tuple[Float[Array, 'n h2 w2 o'], Float[Array, 'n h2 w2 c'] | None]:
    """Returns the features and the image at the resolution of the block.

    Args:
      x: Features of the previous block or, for the first block, its input; None
        for a learned constant.
      image: The image of the previous blocks, float32, or None.
      ws: Styles of the layers and of ToRGB.
    """
    size, channels = self.resolution, self.spec.channels(self.resolution)
    is_first = size == self.spec.resolutions[0]
    is_last = size == self.spec.resolution
    is_residual = self.spec.architecture == 'resnet' and not is_first
    layer = functools.partial(
      StyledConv, channels, clamp=self.clamp, noise=self.spec.noise
    )
    if x is None:
      shape = (size, size, channels)
      const = self.param('const', layers.normal(1.0), shape)
      x = jnp.broadcast_to(const, (ws.shape[0], *shape))
    x = shortcut = x.astype(self.dtype)
    if not is_first:
      x = layer(up=2, name='conv0')(x, ws[:, 0], noise_mode=self.noise_mode)
      ws = ws[:, 1:]
    gain = 0.5**0.5 if is_residual else 1.0
    x = layer(gain=gain, name='conv1')(x, ws[:, 0], noise_mode=self.noise_mode)
    if is_residual:
      x += layers.Conv(
        channels,
        1,
        up=2,
        activation='linear',
        gain=gain,
        use_bias=False,
        name='skip',
      )(shortcut)
    if self.spec.architecture == 'skip' or is_last:
      to_rgb = ToRGB(self.spec.img_channels, clamp=self.clamp, name='torgb')
      rgb = to_rgb(x, ws[:, 1])
      image = rgb if image is None else _double(image) + rgb
    return x, image


class Synthesis(nn.Module):
  """Maps styles to images with blocks b4, b8, ... up to the full resolution.

  Attributes:
    spec: The design.
    low_precision_dtype: Dtype of the highest resolutions, or None for float32
      everywhere.
    num_low_precision: Number of resolutions in that dtype, never the first.
    conv_clamp: Bound on the magnitudes of convolutions, or None.
    remat: Whether gradients compute the activations inside of blocks again
      instead of saving them.
  """

  spec: StyleGAN2Spec
  low_precision_dtype: Any = None
  num_low_precision: int = 4
  conv_clamp: float | None = None
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    ws: Float[AnyArray, 'n l d'],
    transform: Float[AnyArray, '*n 3 3'] | None = None,
    *,
    noise_mode: str = 'const',
    update_averages: bool = False,
  ) -> Float[Array, 'n h w c']:
    """Returns images [n, resolution, resolution, img_channels], float32.

    Args:
      ws: Styles, one for each layer and one for the last ToRGB.
      transform: Inverse of the transform to apply to the images, as for the
        alias-free network; the constant input accepts none.
      noise_mode: 'const' for stored noise, 'random' for new noise (from the rng
        'noise'), 'none' for no noise.
      update_averages: Ignored, because layers keep no averages.

    Raises:
      ValueError: If `ws` has the wrong shape, the noise mode is unknown, or a
        transform is given although the input is a constant.
    """
    del update_averages
    spec = self.spec
    ws = jnp.asarray(ws, jnp.float32)
    layers.check_styles(ws, spec.num_ws)
    layers.check_noise_mode(noise_mode)
    if transform is not None and not spec.takes_transforms:
      raise ValueError(
        'transform must be None for a generator whose input is a learned '
        'constant: omit the transform, or train a generator with '
        '--config.model.stylegan2.input=fourier'
      )
    x = image = None
    if spec.input == 'fourier':
      size = spec.resolutions[0]
      x = fourier.FourierInput(
        channels=spec.channels(size),
        size=size,
        sampling_rate=float(size),
        bandwidth=_FOURIER_BANDWIDTH,
        learned_transform=False,
        name='input',
      )(ws[:, 0], transform)
    block_class: Any = nn.remat(Block) if self.remat else Block
    first = 0
    for res in spec.resolutions:
      block = block_class(
        spec,
        res,
        self._dtype(res),
        clamp=self.conv_clamp,
        noise_mode=noise_mode,
        name=f'b{res}',
      )
      x, image = block(x, image, ws[:, first:])
      first += 1 if first == 0 else 2
    assert image is not None
    return image

  def _dtype(self, resolution: int) -> Any:
    threshold = self.spec.resolution / 2**self.num_low_precision
    is_high = resolution > max(threshold, self.spec.resolutions[0])
    return (is_high and self.low_precision_dtype) or jnp.float32


def _double(image: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 c']:
  """Upsamples by two with the binomial filter."""
  # The zero after the last sample counts as padding, as it does in
  # `resample_conv`.
  edges = ((2, 1), (2, 1))
  return upfirdn(image, filters.BINOMIAL, up=2, padding=edges, gain=4)
