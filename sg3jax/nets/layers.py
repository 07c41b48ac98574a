"""Layers that several networks share."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import spec as spec_lib
from sg3jax.ops import bias_act, filters, resample_conv
from sg3jax.types import AnyArray, Array, Shape

NOISE_MODES = ('const', 'random', 'none')


def normal(stddev: float) -> Callable[..., Array]:
  """Returns the initializer N(0, stddev^2), always float32."""
  return nn.initializers.normal(stddev, jnp.float32)


def zeros(key: Array, shape: Shape) -> Array:
  """Initializes with zeros, always float32."""
  del key
  return jnp.zeros(shape, jnp.float32)


def check_noise_mode(mode: str) -> None:
  """Raises ValueError unless the mode is known."""
  spec_lib.check_choice('noise_mode', mode, NOISE_MODES)


def scaled_noise(
  module: nn.Module,
  mode: str,
  shape: Shape,
  strength: AnyArray,
  const: AnyArray,
) -> Float[Array, '#n #h #w 1']:
  """Returns noise for a module's features, equal in all channels.

  Args:
    module: The module whose rng 'noise' samples random noise.
    mode: 'const' for `const`, 'random' for new noise, 'none' for no noise.
    shape: Shape of the features, [n, h, w, c].
    strength: Factor on the noise.
    const: Stored noise [h, w], or noise for each image [n, h, w].
  """
  n, height, width, _ = shape
  if mode == 'random':
    noise = jax.random.normal(
      module.make_rng('noise'), (n, height, width, 1), jnp.float32
    )
  elif mode == 'const':
    noise = jnp.asarray(const).reshape(-1, height, width, 1)
  else:
    noise = jnp.zeros((1, 1, 1, 1), jnp.float32)
  return noise * strength


def check_styles(ws: Array, num_ws: int) -> None:
  """Raises ValueError unless `ws` is [n, num_ws, w_dim]."""
  if ws.ndim != 3 or ws.shape[1] != num_ws:
    raise ValueError(
      f'ws must have the shape [n, {num_ws}, w_dim], got {list(ws.shape)}'
    )


class Dense(nn.Module):
  """A fully connected layer with equalised learning rate.

  Weights are initialized to N(0, 1) / lr_multiplier and scaled at run time by
  lr_multiplier / sqrt(fan_in), so that a step of Adam has the same relative
  effect in every layer (math.md 2.2). The layer computes in float32.

  Attributes:
    features: Number of outputs.
    activation: 'linear', or 'lrelu' with slope 0.2 and gain sqrt(2).
    lr_multiplier: Factor on the learning rate of weights and biases.
    bias_init: Initial biases: one value for all outputs, or one for each.
    weight_init_scale: Standard deviation of the weights at run time, relative
      to 1 / sqrt(fan_in); with 0, the initial outputs are constant.
  """

  features: int
  activation: str = 'linear'
  lr_multiplier: float = 1.0
  bias_init: float | Sequence[float] = 0.0
  weight_init_scale: float = 1.0

  @nn.compact
  def __call__(self, x: Float[AnyArray, 'n i']) -> Float[Array, 'n o']:
    """Returns the activated outputs, float32."""
    fan_in = x.shape[-1]
    stddev = self.weight_init_scale / self.lr_multiplier
    weight = self.param('weight', normal(stddev), (fan_in, self.features))
    bias = self.param(
      'bias',
      lambda _: jnp.broadcast_to(
        jnp.asarray(self.bias_init, jnp.float32) / self.lr_multiplier,
        (self.features,),
      ),
    )
    y = jnp.dot(
      jnp.asarray(x, jnp.float32),
      weight * (self.lr_multiplier / fan_in**0.5),
      precision=jax.lax.Precision.HIGHEST,
    )
    return bias_act.bias_act(
      y, bias * self.lr_multiplier, activation=self.activation
    )


class Conv(nn.Module):
  """A convolution with equalised learning rate, bias and activation.

  Attributes:
    features: Output channels.
    kernel_size: Side of the kernel, odd.
    up: Upsampling factor; the binomial filter follows the upsampling.
    down: Downsampling factor; the binomial filter precedes the downsampling.
      One of the two factors is 1.
    activation: 'linear' or 'lrelu'.
    gain: Factor on the result, in addition to the gain sqrt(2) of lrelu.
    clamp: Bound on the magnitude of the result before `gain`, or None.
    use_bias: Whether the layer has a bias.
  """

  features: int
  kernel_size: int
  up: int = 1
  down: int = 1
  activation: str = 'lrelu'
  gain: float = 1.0
  clamp: float | int | None = None
  use_bias: bool = True

  @nn.compact
  def __call__(
    self, x: Float[AnyArray, 'n h w i']
  ) -> Float[Array, 'n h2 w2 o']:
    """Returns the activations at the new rate, in the dtype of `x`."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    weight = self.param('weight', normal(1.0), shape)
    bias = None
    if self.use_bias:
      bias = self.param('bias', zeros, (self.features,))
    x = resample_conv.resample_conv(
      x,
      weight / math.sqrt(math.prod(shape[:3])),
      filters.BINOMIAL,
      up=self.up,
      down=self.down,
    )
    return bias_act.bias_act(
      x,
      bias,
      activation=self.activation,
      gain=self.gain * bias_act.DEFAULT_GAINS[self.activation],
      clamp=None if self.clamp is None else self.clamp * self.gain,
    )


def normalize_second_moment(
  x: Float[AnyArray, 'n f'], eps: float = 1e-8
) -> Float[Array, 'n f']:
  """Divides each row by its root mean square."""
  x = jnp.asarray(x, jnp.float32)
  return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), 1, keepdims=True) + eps)
