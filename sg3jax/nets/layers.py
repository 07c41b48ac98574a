"""Layers that several networks share."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.ops import bias_act
from sg3jax.types import AnyArray, Array


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


def normalize_second_moment(
  x: Float[AnyArray, 'n f'], eps: float = 1e-8
) -> Float[Array, 'n f']:
  """Divides each row by its root mean square."""
  x = jnp.asarray(x, jnp.float32)
  return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), 1, keepdims=True) + eps)
