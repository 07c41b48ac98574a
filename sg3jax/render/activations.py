"""Shows the features inside a generator, and their spectra."""

import functools
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.eval.plots import grids
from sg3jax.nets import spec as spec_lib
from sg3jax.types import AnyArray

# Shape of the window, which keeps the borders of the features from appearing as
# frequencies.
_KAISER_BETA = 8

# Range of the pictures of spectra, in decibels around the mean power.
_RANGE_DB = 50.0

# Channels of a picture of features, as a square of this side.
_SIDE = 4


def check_names(model: model_lib.Model, names: Sequence[str]) -> None:
  """Checks the names of layers before anything is computed.

  Raises:
    ValueError: If the generator has no such layer, or is StyleGAN2's.
  """
  spec = model.generator.spec
  if not names:
    return
  if not isinstance(spec, spec_lib.SynthesisSpec):
    raise ValueError(
      'activations must be those of an alias-free generator, got StyleGAN2'
    )
  for name in names:
    known = ['input', *(layer.name for layer in spec.layers)]
    spec_lib.check_choice('activations', name, known)


def compute(
  model: model_lib.Model,
  ws: Float[AnyArray, 'n l d'],
  names: Sequence[str],
  transform: Float[AnyArray, '3 3'] | None = None,
) -> Iterator[dict[str, Float[np.ndarray, 'h w c']]]:
  """Yields the features of each image by layer, with their margins, float32.

  Args:
    model: The model, with an alias-free generator.
    ws: Styles. The images are computed one by one, because features are large.
    names: Names of layers, such as `L5`, or `input`.
    transform: Inverse transform of the images.

  Raises:
    ValueError: If the generator has no such layer.
  """
  check_names(model, names)
  apply = jax.jit(
    functools.partial(
      model.generator.apply, method='activations', names=tuple(names)
    )
  )
  for i in range(len(ws)):
    found = apply(model.variables, ws[i : i + 1], transform)
    yield {name: np.asarray(found[name][0]) for name in names}


def spectrum_db(x: Float[np.ndarray, 'h w c']) -> Float[np.ndarray, 'h w']:
  """Returns the power spectrum of features in dB, relative to its mean.

  The mean of each channel is subtracted, the features are multiplied by a
  Kaiser window, and the power is summed over the channels. Zero frequency is in
  the centre, at index [h // 2, w // 2].
  """
  height, width, _ = x.shape
  window = np.outer(
    np.kaiser(height, _KAISER_BETA), np.kaiser(width, _KAISER_BETA)
  )
  x = x.astype(np.float64)
  x = (x - x.mean((0, 1))) * window[..., None]
  power = (np.abs(np.fft.fft2(x, axes=(0, 1))) ** 2).sum(-1)
  power = np.fft.fftshift(power)
  mean = power.mean()
  # Constant features have no spectrum: show them as the lower limit.
  power = power / mean if mean > 0 else power
  return 10 * np.log10(np.maximum(power, 1e-20))


def spectrum_picture(
  spectrum: Float[np.ndarray, 'h w'],
) -> UInt8[np.ndarray, 'h w 3']:
  """Colours a spectrum from -50 dB (dark) to 50 dB (bright)."""
  import matplotlib  # Slow to import.

  scaled = np.clip(spectrum / (2 * _RANGE_DB) + 0.5, 0, 1)
  colours = matplotlib.colormaps['viridis'](scaled)[..., :3]
  return np.round(colours * 255).astype(np.uint8)


def features_picture(
  x: Float[np.ndarray, 'h w c'],
) -> UInt8[np.ndarray, 'height width 1']:
  """Shows the 16 channels with the largest variance, in grey, largest first.

  Each channel covers four standard deviations around its mean. Missing channels
  are mid-grey.
  """
  deviation = x.std((0, 1))
  order = np.argsort(-deviation, kind='stable')[: _SIDE**2]
  scaled = (x - x.mean((0, 1))) / np.maximum(2 * deviation, 1e-12)
  cells = np.zeros((_SIDE**2, *x.shape[:2], 1), np.float32)
  cells[: len(order)] = np.moveaxis(scaled[..., order], -1, 0)[..., None]
  return grids.tile(np.clip(cells, -1, 1), (_SIDE, _SIDE))


def save(
  x: Float[np.ndarray, 'h w c'], folder: pathlib.Path, name: str
) -> list[pathlib.Path]:
  """Writes features and their spectrum as arrays and as two pictures.

  `NAME.npz` has the arrays `activation` [h, w, c] and `spectrum_db` [h, w].

  Returns:
    The files: `NAME.npz`, `NAME.png` and `NAME-spectrum.png`.

  Raises:
    OSError: If a file cannot be written.
  """
  spectrum = spectrum_db(x)
  arrays, features, picture = paths(folder, name)
  with files.naming_errors(arrays):
    with files.replacing(arrays) as temporary:
      np.savez(temporary, activation=x, spectrum_db=spectrum)
    grids.save_image(features_picture(x), features)
    grids.save_image(spectrum_picture(spectrum), picture)
  return [arrays, features, picture]


def paths(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  """Returns the files that `save` writes."""
  return [folder / f'{name}{end}' for end in ('.npz', '.png', '-spectrum.png')]
