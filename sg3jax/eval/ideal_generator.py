"""An ideal generator: waves of random phases, evaluated where a pixel asks.

It is perfectly equivariant, so that the value of a metric of equivariance is
what the metric's own resampler and rounding allow: its ceiling. That depends on
the spectrum of the images, so the waves have the power spectrum of a model's.

Every metric's mean squared error is a quadratic form of the images. For
independent random phases its mean is a sum over frequencies: power times the
error of a wave of this frequency. The waves are a sample of frequencies with
weights that make this sum unbiased.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.types import AnyArray, Array, Images

# Waves of an image. Half of them sample the power, half of them the plane.
_WAVES = 1024

_EXACT = jax.lax.Precision.HIGHEST


def power_spectrum(images: Images) -> Float[Array, 'h w']:
  """Returns the mean power of each frequency of the discrete transform.

  The images are multiplied by a Hann window, because their opposite borders do
  not match. The sum of the spectrum is the mean variance within an image and
  channel, as the window weights it.
  """
  height, width = images.shape[1:3]
  rows, columns = (
    0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)
    for n in (height, width)
  )
  window = np.outer(rows, columns)[:, :, None]
  mean = jnp.sum(images * window, (1, 2), keepdims=True) / window.sum()
  spectrum = jnp.fft.fft2((images - mean) * window, axes=(1, 2))
  power = jnp.square(jnp.abs(spectrum)).mean((0, 3))
  return power / (height * width * np.square(window).sum())


def sample_waves(
  power: Float[AnyArray, 'h w'], key: Array, n: int
) -> Float[Array, 'n k 4']:
  """Samples the waves of `n` images with a power spectrum; may be traced.

  Returns:
    For each wave its frequency (x, y) in cycles per side, its amplitude, and
    its phase in cycles.
  """
  power = jnp.asarray(power, jnp.float32)
  height, width = power.shape
  row_key, column_key, plane_key, jitter_key, phase_key = jax.random.split(
    key, 5
  )
  half = (n, _WAVES // 2)
  rows = _choose(row_key, power.sum(1)[None], half, jnp.zeros(half, jnp.int32))
  columns = _choose(column_key, power, half, rows)
  u = jax.random.uniform(plane_key, (2, *half))
  rows = jnp.concatenate([rows, (u[0] * height).astype(jnp.int32)], 1)
  columns = jnp.concatenate([columns, (u[1] * width).astype(jnp.int32)], 1)
  # The density of both halves together.
  density = power / power.sum() / 2 + 0.5 / power.size
  share = (power / density)[rows, columns]
  # Frequencies are between those of the transform, too: images do not repeat.
  jitter = jax.random.uniform(jitter_key, (2, n, _WAVES), minval=-0.5)
  x = _signed(columns, width) + jitter[0]
  y = _signed(rows, height) + jitter[1]
  return jnp.stack(
    [
      jnp.clip(x, -width / 2, width / 2),
      jnp.clip(y, -height / 2, height / 2),
      jnp.sqrt(2 * share / _WAVES),
      jax.random.uniform(phase_key, (n, _WAVES)),
    ],
    axis=-1,
  )


def render(
  waves: Float[AnyArray, 'n k 4'],
  transforms: Float[AnyArray, 'n 3 3'],
  size: tuple[int, int],
) -> Float[Array, 'n h w 1']:
  """Evaluates waves at the transformed positions of pixels.

  Waves that the transform moves beyond the Nyquist frequency are omitted, as an
  ideal generator limits its band.

  Args:
    waves: The result of `sample_waves`.
    transforms: Inverse transforms, in units of the sides.
    size: Rows and columns of the images.
  """
  height, width = size
  matrix = jnp.asarray(transforms, jnp.float32)
  moved, offset = (
    jnp.einsum('nkf,nfj->nkj', waves[..., :2], part, precision=_EXACT)
    for part in (matrix[:, :2, :2], matrix[:, :2, 2:])
  )
  x, y = moved[..., 0], moved[..., 1]
  # Rounding must not omit a wave at the limit.
  limit = 1 + 1e-6
  kept = (abs(x) <= limit * width / 2) & (abs(y) <= limit * height / 2)
  amplitude = jnp.where(kept, waves[..., 2], 0.0)
  across, down = ((jnp.arange(n) + 0.5) / n - 0.5 for n in (width, height))
  phase = waves[..., 3] + offset[..., 0]
  x = 2 * jnp.pi * x[:, None] * across[:, None]
  y = 2 * jnp.pi * (y[:, None] * down[:, None] + phase[:, None])
  a = amplitude[:, None]
  rows = jnp.concatenate([a * jnp.cos(y), -a * jnp.sin(y)], 2)
  columns = jnp.concatenate([jnp.cos(x), jnp.sin(x)], 2)
  out = jnp.einsum('nhk,nwk->nhw', rows, columns, precision=_EXACT)
  return out[..., None]


def _choose(
  key: Array,
  weights: Float[Array, 'm f'],
  shape: tuple[int, int],
  lines: Array,
) -> Array:
  """Samples an index of a line's weights, for each of the given lines."""
  sums = jnp.cumsum(weights, axis=1)
  sums = (sums / jnp.maximum(sums[:, -1:], 1e-30))[lines]
  u = jax.random.uniform(key, shape)
  index = jnp.sum(sums <= u[..., None], axis=-1)
  return jnp.minimum(index, weights.shape[1] - 1)


def _signed(index: Array, size: int) -> Array:
  """Returns the frequency of an index of the discrete transform."""
  return jnp.where(index < (size + 1) // 2, index, index - size)
