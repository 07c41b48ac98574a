"""The Fourier-feature input of alias-free generators."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import layers
from sg3jax.types import AnyArray, Array


class FourierInput(nn.Module):
  """Sinusoids on a canvas, which the first style rotates and translates.

  See "transformed Fourier features", paper section 3.2, and math.md 2.4. The
  spatial map is a continuous function, so transforms of it are exact.

  Attributes:
    channels: Number of sinusoids, and channels of the output.
    size: Samples per side, margins included.
    sampling_rate: Samples per side of the canvas.
    bandwidth: Largest frequency, in cycles per side of the canvas.
    learned_transform: Whether the style rotates and translates the features;
      without it they are fixed (config B of the ladder).
  """

  channels: int
  size: int
  sampling_rate: float
  bandwidth: float
  learned_transform: bool = True

  @nn.compact
  def __call__(
    self,
    w: Float[AnyArray, 'n d'],
    transform: Float[AnyArray, '*n 3 3'] | None = None,
  ) -> Float[Array, 'n h w c']:
    """Returns the features [n, size, size, channels], float32.

    Args:
      w: Style of the input.
      transform: Inverse of the transform of the images, a homogeneous matrix in
        canvas units: [3, 3] for all images or [n, 3, 3] for each.
    """
    freqs = self.variable('buffers', 'freqs', self._init_freqs).value
    phases = self.variable('buffers', 'phases', self._init_phases).value
    weight = self.param(
      'weight', layers.normal(1.0), (self.channels, self.channels)
    )
    matrix = jnp.broadcast_to(jnp.eye(3, dtype=jnp.float32), (w.shape[0], 3, 3))
    if self.learned_transform:
      t = layers.Dense(
        4, bias_init=(1.0, 0.0, 0.0, 0.0), weight_init_scale=0.0, name='affine'
      )(w)
      matrix = _learned_transform(t)
    if transform is not None:
      matrix = _matmul(matrix, jnp.asarray(transform, jnp.float32))
    phases = phases[None] + _matmul(matrix[:, :2, 2], freqs.T)
    freqs = _matmul(freqs[None], matrix[:, :2, :2])
    amplitudes = self._amplitudes(jnp.linalg.norm(freqs, axis=2))

    centers = jnp.arange(self.size, dtype=jnp.float32) + 0.5 - self.size / 2
    centers = centers / self.sampling_rate
    across = freqs[:, None, :, 0] * centers[None, :, None]
    down = freqs[:, None, :, 1] * centers[None, :, None] + phases[:, None]
    x = jnp.sin(2 * jnp.pi * (across[:, None] + down[:, :, None]))
    x = x * amplitudes[:, None, None]
    return _matmul(x, weight / self.channels**0.5)

  def _amplitudes(self, freqs: Float[Array, 'n c']) -> Float[Array, 'n c']:
    """Fades out sinusoids that a transform scales towards the Nyquist limit."""
    nyquist = self.sampling_rate / 2
    if nyquist <= self.bandwidth:  # There is no band in which to fade out.
      return jnp.ones_like(freqs)
    excess = (freqs - self.bandwidth) / (nyquist - self.bandwidth)
    return jnp.clip(1 - excess, 0, 1)

  def _init_freqs(self) -> Float[Array, 'c 2']:
    """Samples frequencies uniformly from the disc of radius `bandwidth`."""
    g = jax.random.normal(
      self.make_rng('params'), (self.channels, 2), jnp.float32
    )
    radii = jnp.linalg.norm(g, axis=1, keepdims=True)
    # exp(-r²/2) is uniform in (0, 1), so its square root is distributed like
    # the radius of a point in the unit disc.
    return g / radii * jnp.exp(-jnp.square(radii) / 4) * self.bandwidth

  def _init_phases(self) -> Float[Array, ' c']:
    key = self.make_rng('params')
    return jax.random.uniform(key, (self.channels,), jnp.float32) - 0.5


def _learned_transform(t: Float[Array, 'n 4']) -> Float[Array, 'n 3 3']:
  """Returns rotation times translation from (r_c, r_s, t_x, t_y)."""
  t = t / jnp.linalg.norm(t[:, :2], axis=1, keepdims=True)
  r_c, r_s, t_x, t_y = t.T
  zero, one = jnp.zeros_like(r_c), jnp.ones_like(r_c)
  rotation = [[r_c, -r_s, zero], [r_s, r_c, zero], [zero, zero, one]]
  translation = [[one, zero, -t_x], [zero, one, -t_y], [zero, zero, one]]
  rotation, translation = (
    jnp.stack([jnp.stack(row, -1) for row in rows], -2)
    for rows in (rotation, translation)
  )
  return _matmul(rotation, translation)


def _matmul(a: AnyArray, b: AnyArray) -> Array:
  """Multiplies in full float32: bfloat16 passes are too coarse for phases."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
