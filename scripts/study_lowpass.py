"""Compares the ringing and wrap-around of a layer's possible low-pass filters.

  python scripts/study_lowpass.py

The layer is the first one of StyleGAN3-T at 256 pixels that doubles the rate.
For its upsampling filter and each alternative, the command prints:

  overshoot   overshoot of an upsampled edge, in percent of its height
  stopband    maximum gain beyond the transition band, in dB
  far         energy of the impulse response beyond ten samples, the width of
              the margins, in dB relative to its total energy
  wrapped     maximum response in the other half of the map to an impulse at
              one border, in dB relative to the peak response
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from sg3jax import text
from sg3jax.nets import spec as spec_lib
from sg3jax.ops.ideal_lowpass import ideal_resample

_NAMES = ('kaiser', 'lanczos', 'gaussian', 'ideal')
_SIZE = 64  # Samples per side of a map.


def upsample(layer: spec_lib.LayerSpec, x: np.ndarray) -> np.ndarray:
  """Returns a row [n], upsampled to the layer's inner rate, [n * up]."""
  up = layer.up_factor
  if layer.is_ideal:
    cutoff = layer.in_cutoff / layer.tmp_sampling_rate
    rows = ideal_resample(
      jnp.asarray(x)[None, None, :, None], up=up, cutoff=cutoff
    )
    return np.asarray(rows)[0, 0, :, 0]
  f = layer.up_filter()
  assert f is not None
  spread = np.zeros(len(x) * up)
  spread[::up] = x * up
  before = (len(f) - up) // 2  # This keeps the centres of samples in place.
  return np.convolve(spread, f)[before : before + len(spread)]


def measure(layer: spec_lib.LayerSpec) -> dict[str, str]:
  """Returns the measurements of a layer's upsampling filter, as text."""
  up, n = layer.up_factor, _SIZE

  edge = upsample(layer, np.repeat([0.0, 1.0], n // 2))
  middle = edge[n // 4 * up : -n // 4 * up]

  pulse = upsample(layer, np.eye(n)[n // 2])
  distance = np.abs((np.arange(n * up) + 0.5) / up - (n // 2 + 0.5))
  far = np.sum(pulse[distance > 10] ** 2) / np.sum(pulse**2)

  gain = np.abs(np.fft.rfft(pulse)) / up
  frequencies = np.arange(len(gain)) * layer.in_sampling_rate / n
  end = layer.in_cutoff + layer.in_half_width
  stopband = np.max(gain[frequencies > end])

  border = upsample(layer, np.eye(n)[0])
  wrapped = np.max(np.abs(border[n // 2 * up :])) / np.max(np.abs(border))
  return {
    'overshoot': f'{100 * (np.max(middle) - 1):.1f} %',
    'stopband': _decibels(stopband),
    'far': _decibels(far**0.5),
    'wrapped': _decibels(wrapped),
  }


def _decibels(ratio: float) -> str:
  # Smaller values are rounding errors of zero in double precision.
  return 'none' if ratio < 1e-12 else f'{20 * np.log10(ratio):.1f} dB'


def main(_: list[str]) -> None:
  """Measures and prints a table."""
  jax.config.update('jax_enable_x64', True)
  rows = []
  for name in _NAMES:
    spec = spec_lib.stylegan3_t(256, filter=name)
    layer = next(x for x in spec.layers if x.up_factor == 4)
    rows.append({'filter': name} | measure(layer))
  print(text.markdown(rows))


if __name__ == '__main__':
  app.run(main)
