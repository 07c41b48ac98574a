"""Average spectra of the real images and of each model (paper Fig. 13)."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from sg3jax.eval.analysis import spectra
from sg3jax.eval.plots import figures
from sg3jax.eval.plots import spectra as plots
from sg3jax.report import base
from sg3jax.types import ImagesU8

_REALS = 'real images'


@base.register(
  'spectra',
  title='Average spectra',
  place=20,
  about=(
    'The average power of images by frequency: the squared Fourier transform '
    'of images times a Kaiser window (β = 8), normalised with one mean and one '
    'standard deviation for all sets. Regular bright dots away from the centre '
    'are the grids that upsampling leaves; a generator without them follows '
    'the real images in all directions. The heat maps cover the plane and are '
    'smoothed (1.25 cycles); the slices follow the horizontal axis and the '
    'diagonal.'
  ),
)
def analyse(context: base.Context) -> base.Findings:
  """Plots the spectra of all sets; measures the distance from the reals."""
  sets = _sets(context)
  first = next(iter(sets))
  try:
    statistics = spectra.measure_statistics(sets[first]())
  except ValueError as error:  # All images are equal: a model has collapsed.
    return base.Findings(notes=[f'{first}: {error}.'])
  maps = {}
  powers = {}
  for name, batches in sets.items():
    power = spectra.average_spectrum(batches(), statistics)
    powers[name] = spectra.heatmap(power)
    maps[name] = spectra.heatmap(power, smooth=spectra.SMOOTH * spectra.INTERP)
  findings = base.Findings()
  count = context.samples
  about = f'{count} images of each model (seeds from {context.seed}, psi 1)'
  if context.reals:
    read = min(count, len(context.reals))
    about += f' and {read} of {len(context.reals)} real images'
    findings.tables.append(_compare(powers))
  else:
    findings.notes.append(
      'Real images were not given (--data), so there is no spectrum to compare '
      f'with, and the images of {first} give the normalisation.'
    )
  normalisation = (
    f'{about}; mean {statistics.mean:.3f} and standard deviation '
    f'{statistics.std:.3f} of {first}.'
  )
  findings.figures.append(
    [
      _figure(f'heatmap-{name}', plots.plot_heatmap(decibels), '', name)
      for name, decibels in maps.items()
    ]
  )
  slices = {name: spectra.take_slices(x) for name, x in powers.items()}
  reals = _REALS if context.reals else None
  findings.figures.append(
    [
      _figure(
        f'slice-{angle}',
        plots.plot_slices(slices, angle, reals=reals),
        normalisation,
        '',
      )
      for angle in (0, 45)
    ]
  )
  return findings


def _sets(
  context: base.Context,
) -> dict[str, Callable[[], Iterable[ImagesU8]]]:
  """Returns a function that yields the batches of each set."""
  sets: dict[str, Callable[[], Iterable[ImagesU8]]] = {}
  if context.reals:
    sets[_REALS] = lambda reals=context.reals: _opaque(
      reals.batches(context.samples)
    )
  for subject in context.subjects:
    sets[subject.name] = functools.partial(
      lambda subject: _opaque(subject.batches(context.seed, context.samples)),
      subject,
    )
  return sets


def _opaque(batches: Iterable[ImagesU8]) -> Iterator[ImagesU8]:
  """Yields images without alpha: RGBA is composited over mid-grey.

  Colours of transparent pixels have no meaning.
  """
  for batch in batches:
    if batch.shape[3] != 4:
      yield batch
      continue
    alpha = batch[..., 3:].astype(np.float32) / 255
    yield np.round(batch[..., :3] * alpha + 128 * (1 - alpha)).astype(np.uint8)


def _compare(powers: dict[str, np.ndarray]) -> base.Table:
  """Returns how far the spectrum of each model is from that of the reals."""
  reference = powers[_REALS]
  size = len(reference) - 1
  steps = np.abs(np.arange(size + 1) - size // 2) / size
  radius = np.hypot(steps[:, None], steps)  # In cycles per pixel.
  bands = {
    'low (up to 1/8)': radius <= 1 / 8,
    'middle (1/8 to 1/4)': (radius > 1 / 8) & (radius <= 1 / 4),
    'high (1/4 to 1/2)': (radius > 1 / 4) & (radius <= 1 / 2),
    'corners (above 1/2)': radius > 1 / 2,
  }
  rows = []
  for name, decibels in powers.items():
    if name == _REALS:
      continue
    difference = decibels - reference
    rows.append(
      {'model': name}
      | {
        band: round(float(difference[m].mean()), 2) for band, m in bands.items()
      }
    )
  return base.Table(
    'Mean difference from the real images, in dB, by frequency in cycles per '
    'pixel. 0 is best; positive values are too much power.',
    rows,
  )


def _figure(name: str, figure: Any, caption: str, title: str) -> base.Figure:
  return base.Figure(name, figures.to_png(figure), caption, title)
