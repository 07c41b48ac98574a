"""The radial power spectrum of an image, as a vector of features.

The mean of these vectors over a set of images is the set's average spectrum,
which reveals blur, noise and the traces of upsampling.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from sg3jax.nets.features import base
from sg3jax.types import AnyArray, Array, Variables

BANDS = 32
_KAISER_BETA = 8  # As for the spectra in the paper, figure 13.


def apply(
  variables: Variables, images: UInt8[AnyArray, 'n h w c']
) -> dict[str, Float[Array, 'n d']]:
  """Returns the power in each band, [n, 32].

  Args:
    variables: Empty, because there are no weights.
    images: Images with values in [0, 255].

  Returns:
    The mean power of one grey level at the frequencies of each band, averaged
    over the colours. Bands are equally wide, from 0 to half a cycle per pixel.
  """
  del variables
  x = jnp.asarray(images)[..., :3].astype(jnp.float32)
  h, w = x.shape[1:3]
  window = np.outer(np.kaiser(h, _KAISER_BETA), np.kaiser(w, _KAISER_BETA))
  window /= np.sqrt(np.square(window).sum())
  x = x - x.mean((1, 2), keepdims=True)
  x = x * window.astype(np.float32)[..., None]
  power = jnp.square(jnp.abs(jnp.fft.fft2(x, axes=(1, 2)))).mean(3)
  bands = jnp.einsum('nhw,bhw->nb', power, _weights(h, w), precision='highest')
  return {'power': bands}


def _weights(h: int, w: int) -> Float[np.ndarray, 'b h w']:
  """Returns the weight of each frequency in each band; they sum to 1."""
  radius = np.hypot(
    *np.meshgrid(np.fft.fftfreq(h), np.fft.fftfreq(w), indexing='ij')
  )
  width = 0.5 / BANDS
  centres = width * (np.arange(BANDS) + 1)
  # Small images have fewer frequencies than bands, which therefore overlap.
  reach = max(width, 1 / min(h, w))
  distance = np.abs(radius - centres[:, None, None])
  weights = np.maximum(1 - distance / reach, 0) * (radius > 0)
  sums = weights.sum((1, 2), keepdims=True)
  return (weights / np.maximum(sums, 1e-12)).astype(np.float32)


NETWORK = base.register(
  base.FeatureNetwork(
    name='spectrum',
    title='radial power spectrum',
    dims={'power': BANDS},
    apply=apply,
    protocol=(
      'not resized; alpha dropped; mean of the image subtracted; Kaiser window '
      f'of beta {_KAISER_BETA} and unit energy; {BANDS} bands of radial '
      'frequency up to half a cycle per pixel'
    ),
    init=lambda key: {},
  )
)
