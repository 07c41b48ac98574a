"""Texture sticking: means of nearby latents, and slit scans (paper Fig. 1)."""

import numpy as np

from sg3jax import model as model_lib
from sg3jax.eval.analysis import sticking
from sg3jax.eval.plots import grids, panels
from sg3jax.report import base
from sg3jax.report.subjects import Subject

_RADIUS = 0.1  # Styles are nearby within so much of the spread of all.
_NEARBY = 100  # Images of a mean.
_CENTERS = 4  # Means whose ratio is averaged; the first two are shown.
_SHOWN = 2
_FRAMES = 256  # Frames of the interpolation.
_TRAVEL = 1 / 2  # Distance that the camera moves, as a fraction of the height.
_CELL = 192
_NEARBY_SEED = 1  # Beside the seed of the report.


@base.register(
  'sticking',
  title='Texture sticking',
  place=30,
  about=(
    'Detail sticks if it stays at its place on the screen while the content '
    'moves. Left in each panel of means: an image, and the mean of images of '
    'latents near it. Detail that moves blurs evenly; detail that sticks stays '
    'sharp. Slit scans show the central column of pixels over time, which runs '
    'to the right. Detail that sticks forms horizontal streaks; in the scan of '
    'the moving camera, detail that moves forms diagonals.'
  ),
)
def analyse(context: base.Context) -> base.Findings:
  """Shows means and scans of each model, and measures both."""
  findings = base.Findings()
  rows = []
  means, walks, cameras = [], [], []
  for subject in context.subjects:
    row: dict[str, object] = {'model': subject.name}
    figure, row['detail ratio'] = _mean_of_nearby(subject, context.seed)
    means.append(figure)
    scan = _scan_walk(subject, context.seed)
    row['streakiness, interpolation'] = sticking.streakiness(scan)
    walks.append(
      _scan_figure(
        subject,
        'walk',
        scan,
        f'Interpolation between the latents of seeds {context.seed} and '
        f'{context.seed + 1}, {_FRAMES} frames.',
      )
    )
    if subject.takes_transforms:
      scan = _scan_camera(subject, context.seed)
      row['streakiness, camera'] = sticking.streakiness(scan)
      cameras.append(
        _scan_figure(
          subject,
          'camera',
          scan,
          f'Seed {context.seed}; the input moves down by one pixel per frame, '
          f'{scan.shape[1]} frames.',
        )
      )
    else:
      findings.notes.append(
        f'{subject.name}: the input of the generator is a learned constant, '
        'which no camera can move, so there is only the interpolation.'
      )
    rows.append(row)
  findings.tables.append(
    base.Table(
      'Detail ratio: energy above 1/4 cycle per pixel in the mean of '
      f'{_NEARBY} nearby images (radius {_RADIUS:g}) relative to the central '
      f'one, mean of {_CENTERS} seeds; 0 is best, 1 means that nothing moves. '
      'Streakiness: (V - T) / (V + T) of the energies of differences along the '
      'slit and over time; 1 is sticking, 0 is a camera that moves all detail. '
      'A shorter way between two latents also gives more streaks, so compare '
      'models of the same data.',
      rows,
    )
  )
  findings.figures += [means, walks, *([cameras] if cameras else [])]
  return findings


def _mean_of_nearby(subject: Subject, seed: int) -> tuple[base.Figure, float]:
  """Returns central images beside means, and the mean ratio of detail."""
  rng = np.random.RandomState((seed, _NEARBY_SEED))
  z = rng.randn(_NEARBY, subject.model.z_dim).astype(np.float32)
  others, mean = subject.styles(z), subject.mean_style()
  rows, ratios = [], []
  for i in range(_CENTERS):
    ws = subject.seeds([seed + i])
    nearby = sticking.nearby_styles(ws, others, mean, _RADIUS)
    central = subject.render(ws)[0]
    average = subject.render(nearby).mean(0)
    ratios.append(sticking.detail_ratio(average, central))
    rows.append(
      [panels.fit(grids.to_rgb(x), _CELL) for x in (central, average)]
    )
  panel = panels.compose(
    rows[:_SHOWN],
    columns=('central image', f'mean of {_NEARBY}'),
  )
  shown = ' and '.join(f'{ratio:.3g}' for ratio in ratios[:_SHOWN])
  figure = base.Figure(
    f'mean-{subject.name}',
    panels.to_png(panel),
    f'Seeds {seed} and {seed + 1}, radius {_RADIUS:g}; detail ratios {shown}.',
    subject.name,
  )
  return figure, float(np.mean(ratios))


def _scan_walk(subject: Subject, seed: int) -> np.ndarray:
  start, end = model_lib.seed_latents([seed, seed + 1], subject.model.z_dim)
  z = sticking.interpolate_latents(start, end, _FRAMES)
  return _scan(subject, subject.styles(z), None)


def _scan_camera(subject: Subject, seed: int) -> np.ndarray:
  height = subject.model.resolution
  pixels = np.arange(max(2, round(height * _TRAVEL)))
  # Centred on the untransformed image.
  pixels = pixels - pixels.mean().round()
  transforms = np.tile(np.eye(3, dtype=np.float32), (len(pixels), 1, 1))
  transforms[:, 1, 2] = -pixels / height
  ws = np.repeat(subject.seeds([seed]), len(pixels), axis=0)
  return _scan(subject, ws, transforms)


def _scan(
  subject: Subject, ws: np.ndarray, transforms: np.ndarray | None
) -> np.ndarray:
  """Returns the slit scan of frames, without keeping the frames."""
  size = subject.images.batch_size
  scans = []
  for i in range(0, len(ws), size):
    moved = None if transforms is None else transforms[i : i + size]
    frames = subject.render(ws[i : i + size], moved)
    scans.append(sticking.scan_slit(frames))
  return np.concatenate(scans, axis=1)


def _scan_figure(
  subject: Subject, kind: str, scan: np.ndarray, caption: str
) -> base.Figure:
  # The pixels stay square, so that diagonals are diagonals.
  factor = max(1, _CELL // scan.shape[0])
  image = grids.to_rgb(scan).repeat(factor, axis=0).repeat(factor, axis=1)
  image = panels.fit(image, min(image.shape[1], 4 * _CELL))
  return base.Figure(
    f'{kind}-{subject.name}',
    panels.to_png(panels.compose([[image]])),
    f'{caption} Streakiness {sticking.streakiness(scan):.3g}.',
    subject.name,
  )
