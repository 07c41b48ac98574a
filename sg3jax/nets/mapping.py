"""The mapping network: latents and labels to intermediate latents."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import layers
from sg3jax.types import AnyArray, Array


class Mapping(nn.Module):
  """Maps z and labels to w with fully connected layers (math.md 2.2).

  Attributes:
    z_dim: Features of z; 0 for a network that maps only labels, as in D.
    label_dim: Features of a label; 0 for an unconditional network.
    w_dim: Features of w.
    num_layers: Fully connected layers: 2 in StyleGAN3, 8 in StyleGAN2 and D.
    lr_multiplier: Factor on the learning rate of these layers.
  """

  z_dim: int
  label_dim: int
  w_dim: int
  num_layers: int
  lr_multiplier: float = 0.01

  @nn.compact
  def __call__(
    self,
    z: Float[AnyArray, 'n z'] | None,
    c: Float[AnyArray, 'n classes'] | None = None,
  ) -> Float[Array, 'n d']:
    """Returns w [n, w_dim], float32.

    Args:
      z: Latents [n, z_dim], N(0, 1), or None if z_dim is 0.
      c: Labels [n, label_dim], or None if label_dim is 0.

    Raises:
      ValueError: If an input is missing or has the wrong shape.
    """
    inputs = []
    if self.z_dim:
      z = _check_features('z', z, self.z_dim)
      inputs.append(layers.normalize_second_moment(z))
    if self.label_dim:
      c = _check_features('c', c, self.label_dim)
      embedding = layers.Dense(self.w_dim, name='embed')(c)
      inputs.append(layers.normalize_second_moment(embedding))
    x = jnp.concatenate(inputs, axis=1)
    for i in range(self.num_layers):
      x = layers.Dense(
        self.w_dim,
        activation='lrelu',
        lr_multiplier=self.lr_multiplier,
        name=f'fc{i}',
      )(x)
    return x


def _check_features(name: str, x: AnyArray | None, features: int) -> AnyArray:
  if x is None:
    raise ValueError(
      f'{name} must have the shape [n, {features}], got None'
      + (': pass labels' if name == 'c' else '')
    )
  if x.ndim != 2 or x.shape[1] != features:
    raise ValueError(
      f'{name} must have the shape [n, {features}], got {list(x.shape)}'
    )
  return x
