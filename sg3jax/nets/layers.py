"""Layers that several networks share."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.ops import bias_act, resample_conv
from sg3jax.types import AnyArray, Array

# The binomial filter of all of StyleGAN2's resampling, per axis.
LOWPASS = np.array([1, 3, 3, 1]) / 8


class Dense(nn.Module):
  """A fully connected layer with equalised learning rate.

  Weights are stored as N(0, 1) / lr_multiplier and scaled at run time by
  lr_multiplier / sqrt(fan_in), so that Adam's steps mean the same in every
  layer (math.md 2.2). Computes in float32.

  Attributes:
    features: Outputs.
    activation: 'linear', or 'lrelu' with slope 0.2 and gain sqrt(2).
    lr_multiplier: Factor on the learning rate of weights and biases.
    bias_init: Initial biases, one for all or one each.
    weight_init_scale: Standard deviation of the weights at run time, relative
      to 1 / sqrt(fan_in); 0 starts from constant outputs.
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
    weight = self.param(
      'weight', nn.initializers.normal(stddev), (fan_in, self.features)
    )
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
    up: Upsampling factor, behind which the binomial filter follows.
    down: Downsampling factor, before which it comes; one of the two is 1.
    activation: 'linear' or 'lrelu'.
    gain: Factor on the result, beside the activation's own sqrt(2) for lrelu.
    clamp: Limit of the result's magnitude, before `gain`; or None.
    use_bias: Whether there is a bias.
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
    weight = self.param('weight', nn.initializers.normal(1.0), shape)
    bias = None
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x = resample_conv.resample_conv(
      x,
      weight / np.sqrt(np.prod(shape[:3])),
      LOWPASS,
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
