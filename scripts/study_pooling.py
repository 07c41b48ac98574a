"""Measures the shift equivariance of a small strided network.

  python scripts/study_pooling.py

The network has three stages that each halve the resolution. The command prints
the signal-to-noise ratio in dB between "shift, then network" and "network, then
shift", with binomial filters of several lengths before each subsampling (Zhang
2019). Weights are random, images are the embedded photographs, and borders are
periodic. Features are interpolated ideally to the grid of the input, where they
are compared: a network without aliasing would reach the precision of float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from blur_pool import blur_pool

from sg3jax import text
from sg3jax.data import embedded
from sg3jax.ops import conv
from sg3jax.ops.ideal_lowpass import ideal_resample
from sg3jax.types import Array

_PHOTOGRAPHS = flags.DEFINE_integer(
  'photographs', 64, 'Number of photographs of 64x64 pixels.'
)
_NETWORKS = flags.DEFINE_integer(
  'random_networks', 4, 'Number of networks with random weights.'
)

_CHANNELS, _STAGES, _SIZE = 32, 3, 64
_STRIDE = 2**_STAGES
_TAPS = (1, 2, 3, 5)


def max_pool(x: Array, taps: int) -> Array:
  """Takes dense maxima of 2x2 samples, then blurs and subsamples."""
  x = functools.reduce(
    jnp.maximum,
    [jnp.roll(x, (-i, -j), (1, 2)) for i in range(2) for j in range(2)],
  )
  return blur_pool(x, taps=taps)


def average_pool(x: Array, taps: int) -> Array:
  """Averages 2x2 samples, then blurs and subsamples."""
  return blur_pool(blur_pool(x, taps=2, stride=1), taps=taps)


def strided(x: Array, taps: int) -> Array:
  """Blurs and subsamples, as after a convolution with stride 2."""
  return blur_pool(x, taps=taps)


def features(
  x: Array, key: Array, pool: Callable[[Array, int], Array], taps: int
) -> Array:
  """Returns the network's features of images [n, 64, 64, 3]."""
  for stage_key in jax.random.split(key, _STAGES):
    shape = (3, 3, x.shape[-1], _CHANNELS)
    w = jax.random.normal(stage_key, shape) * (2 / np.prod(shape[:3])) ** 0.5
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jax.nn.relu(conv.conv2d(jnp.pad(x, border, mode='wrap'), w))
    x = pool(x, taps)
  return x


@functools.partial(jax.jit, static_argnums=(2, 3))
def measure(
  images: Array, key: Array, pool: Callable[[Array, int], Array], taps: int
) -> Array:
  """Returns the power of the signal and of the error over horizontal shifts."""

  def on_input_grid(x: Array) -> Array:
    return ideal_resample(x, up=_STRIDE, cutoff=0.5 / _STRIDE)

  still = on_input_grid(features(images, key, pool, taps))
  powers = jnp.var(still, axis=(1, 2))
  errors = [
    jnp.mean(
      jnp.square(
        jnp.roll(still, shift, 2)
        - on_input_grid(features(jnp.roll(images, shift, 2), key, pool, taps))
      )
    )
    for shift in range(1, _STRIDE)
  ]
  return jnp.stack([jnp.mean(powers), jnp.mean(jnp.stack(errors))])


def main(_: list[str]) -> None:
  """Measures and prints a table."""
  source = embedded.EmbeddedPhotographs(
    count=_PHOTOGRAPHS.value, resolution=_SIZE
  )
  images = np.stack([source[i]['image'] for i in range(len(source))])
  images = jnp.asarray(images, jnp.float32) / 127.5 - 1
  rows = []
  for pool in (strided, max_pool, average_pool):
    row = {'pooling': pool.__name__}
    for taps in _TAPS:
      keys = [jax.random.key(seed) for seed in range(_NETWORKS.value)]
      found = [measure(images, key, pool, taps) for key in keys]
      ratios = [10 * np.log10(power / error) for power, error in found]
      name = 'no blur' if taps == 1 else f'{taps} taps'
      row[name] = f'{np.mean(ratios):.1f} ± {np.std(ratios):.1f}'
    rows.append(row)
  print(text.markdown(rows))


if __name__ == '__main__':
  app.run(main)
