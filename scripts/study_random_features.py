"""Measures how metrics without a download rank known degradations.

  python scripts/study_random_features.py --outdir=runs/random_features

Half of the embedded photographs' crops stand for real images. The other half,
unseen crops, are degraded: blurred, with noise, with modes dropped, or replaced
by copies of a few real images. The command writes `study.csv` and `study.md`,
with one row for each set and one column for each metric, and the rank
correlation of each metric with the Fréchet distance in LPIPS's features of
VGG-16, if their weights are there.
"""

import csv
import io
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags, logging
from scipy import ndimage, stats

from sg3jax import files, launch, text
from sg3jax.data import labels as labels_lib
from sg3jax.data import sources
from sg3jax.eval import feature_sets
from sg3jax.eval.metrics import base, formulas
from sg3jax.nets.features import base as networks
from sg3jax.train import sharding

_OUTDIR = flags.DEFINE_string(
  'outdir', None, 'Folder for the study.', required=True
)
_COUNT = flags.DEFINE_integer('count', 1000, 'Images in each set.')
_RESOLUTION = flags.DEFINE_integer('resolution', 64, 'Pixels of their sides.')

_METRICS = (
  'rfd',
  'rkd',
  'rprecision',
  'rrecall',
  'rdensity',
  'rcoverage',
  'spectral',
  'swd',
)
_REFERENCE = 'vgg16'  # Its Fréchet distance is the column fd_vgg16.

Images = np.ndarray


class Pictures:
  """A source of images in memory, without labels."""

  label_dim = 0

  def __init__(self, name: str, images: Images):
    self.name, self._images = name, images
    self.resolution, self.channels = images.shape[1], images.shape[3]

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns an image, and its empty label."""
    label = np.zeros(0, np.float32)
    return {'image': self._images[index], 'label': label}

  def labels(self) -> labels_lib.Labels:
    """Returns the empty labels."""
    return labels_lib.none(len(self))


def read(count: int, resolution: int) -> tuple[Images, Images]:
  """Returns real images and unseen ones, uint8 [count, h, w, 3] each."""
  source = sources.open_source(f'embedded:{2 * count}', resolution=resolution)
  images = np.stack([source[i]['image'] for i in range(2 * count)])
  return images[::2], images[1::2]


def degradations(
  reals: Images, unseen: Images
) -> dict[str, Callable[[], Images]]:
  """Returns functions that make the sets, by name; the levels of each rise."""
  order = np.argsort(unseen.mean((1, 2, 3)))  # From dark to bright.

  def blurred(sigma: float) -> Images:
    return ndimage.gaussian_filter(unseen, (0, sigma, sigma, 0), mode='nearest')

  def noisy(std: float) -> Images:
    noise = std * np.random.RandomState(0).standard_normal(unseen.shape)
    return np.clip(np.round(unseen + noise), 0, 255).astype(np.uint8)

  def darkest(fraction: float) -> Images:
    return unseen[np.resize(order[: round(fraction * len(order))], len(order))]

  def copies(fraction: float) -> Images:
    return reals[np.resize(np.arange(round(fraction * len(reals))), len(reals))]

  return {
    'unseen crops': lambda: unseen,
    **{f'blur of {s:g} pixels': lambda s=s: blurred(s) for s in (0.5, 1, 2)},
    **{f'noise of {s:g} levels': lambda s=s: noisy(s) for s in (5, 15, 40)},
    **{
      f'only the darkest {100 * f:g} %': lambda f=f: darkest(f)
      for f in (0.5, 0.1, 0.02)
    },
    **{
      f'copies of {100 * f:g} % of the reals': lambda f=f: copies(f)
      for f in (1, 0.1, 0.02)
    },
  }


def measure(count: int, resolution: int) -> list[dict[str, str | float]]:
  """Returns one row of values for each set."""
  reals, unseen = read(count, resolution)
  mesh = sharding.make_mesh()
  kept = {}
  try:
    launch.feature_weights([_REFERENCE])
  except (ValueError, OSError) as error:
    logging.warning('No rank correlation: %s', error)
    reference = None
  else:
    reference = feature_sets.Wanted(_REFERENCE)
  metrics = [base.registry()[name] for name in _METRICS]
  wanted = [m.features for m in metrics if m.features]
  rows = []
  for name, make in degradations(reals, unseen).items():
    context = base.Context(
      None,
      {},
      metrics=_METRICS,
      num_samples=count,
      seed=0,
      source=Pictures('reals', reals),
      against=Pictures(name, make()),
      mesh=mesh,
      kept=kept,
      wanted=[*wanted, *([reference] if reference else [])],
      weights=launch.feature_weights(
        [w.network for w in wanted] + ([_REFERENCE] if reference else [])
      ),
    )
    row: dict[str, str | float] = {'set': name}
    with jax.set_mesh(mesh):
      for metric in metrics:
        row[metric.name] = metric.measure(context).values[metric.result]
      if reference:
        a, b = context.features(reference)
        row[f'fd_{_REFERENCE}'] = formulas.frechet(a.moments, b.moments)
    logging.info('%s', row)
    rows.append(row)
  return rows


def correlations(rows: list[dict[str, str | float]]) -> dict[str, str | float]:
  """Returns the rank correlation of each metric with the reference."""
  column = f'fd_{_REFERENCE}'
  found: dict[str, str | float] = {'set': f'Spearman with {column}'}
  for name in _METRICS:
    ranks = [
      stats.rankdata([float(row[key]) for row in rows])
      for key in (name, column)
    ]
    found[name] = float(np.corrcoef(*ranks)[0, 1])
  return found


def main(argv: list[str]) -> None:
  """Measures all sets, and writes the tables."""
  del argv
  if _REFERENCE not in networks.names():
    logging.info('This version has no %s', _REFERENCE)
  rows = measure(_COUNT.value, _RESOLUTION.value)
  if f'fd_{_REFERENCE}' in rows[0]:
    rows.append(correlations(rows))
  outdir = pathlib.Path(_OUTDIR.value)
  outdir.mkdir(parents=True, exist_ok=True)
  table = text.markdown(rows)
  files.write_text(outdir / 'study.md', table + '\n')
  buffer = io.StringIO()
  writer = csv.DictWriter(buffer, text.columns(rows))
  writer.writeheader()
  writer.writerows(rows)
  files.write_text(outdir / 'study.csv', buffer.getvalue())
  print(table)


if __name__ == '__main__':
  app.run(main)
