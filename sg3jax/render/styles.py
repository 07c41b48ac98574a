"""Styles over time: keyframes, curves through them, walks, and files of styles.

A path is a function of the time, which counts keyframes, not seconds. Its
values are the styles of all cells of a grid, row by row.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import interpolate

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.nets import spec as spec_lib

KINDS = {'linear': 1, 'cubic': 3}  # The degree of each kind of curve.

# Copies of the keyframes of a loop before and after it, which make the motion
# continuous where it begins again.
_WRAPS = 2


@dataclasses.dataclass(frozen=True)
class StylePath:
  """Styles as a function of time.

  Attributes:
    length: The time at which the path ends, in keyframes; it starts at 0.
    is_loop: Whether the end equals the start, so that it needs no frame.
    evaluate: Maps times [f] to styles [f, cells, num_ws, w_dim], float32.
  """

  length: float
  is_loop: bool
  evaluate: Callable[
    [Float[np.ndarray, ' f']], Float[np.ndarray, 'f cells l d']
  ]

  def frame_times(self, frames_per_keyframe: int) -> Float[np.ndarray, ' f']:
    """Returns the time of each frame, in keyframes."""
    count = round(self.length * frames_per_keyframe) + (not self.is_loop)
    return np.arange(count) / frames_per_keyframe


def keyframe_seeds(
  seeds: Sequence[int],
  grid: tuple[int, int] = (1, 1),
  *,
  num_keyframes: int | None = None,
  shuffle_seed: int | None = None,
) -> Int[np.ndarray, 'rows columns k']:
  """Assigns seeds to the keyframes of each cell, as the official tool does.

  Args:
    seeds: The seeds: those of the first cell, of the second, and so on.
    grid: The grid's (columns, rows).
    num_keyframes: Number of keyframes of each cell; seeds are then repeated or
      left out as needed. By default, the seeds are divided among the cells.
    shuffle_seed: Random seed with which the seeds are shuffled; None to keep
      their order.

  Raises:
    ValueError: If there are no seeds, or they cannot be divided.
  """
  columns, rows = grid
  cells = columns * rows
  if not len(seeds):
    raise ValueError('seeds must be at least one number, got none')
  if num_keyframes is None:
    if len(seeds) % cells:
      raise ValueError(
        f'seeds must be a multiple of {cells}, the number of images in the '
        f'grid, got {len(seeds)}: add some or leave some out, or choose the '
        'number of keyframes'
      )
    num_keyframes = len(seeds) // cells
  chosen = np.resize(np.array(seeds, np.int64), num_keyframes * cells)
  if shuffle_seed is not None:
    np.random.RandomState(shuffle_seed).shuffle(chosen)
  return chosen.reshape(rows, columns, num_keyframes)


def spline_path(
  keyframes: Float[np.ndarray, 'k cells l d'],
  kind: str = 'cubic',
  *,
  loop: bool = True,
  wraps: int = _WRAPS,
) -> StylePath:
  """Returns a curve through keyframes, one per unit of time.

  Args:
    keyframes: Styles of each keyframe.
    kind: 'cubic' for a spline with continuous second derivatives and
      not-a-knot ends, or 'linear'.
    loop: Whether the curve returns to the first keyframe.
    wraps: Copies of the keyframes before and after a loop.

  Raises:
    ValueError: If the kind is unknown, or there are no keyframes.
  """
  spec_lib.check_choice('interpolation', kind, KINDS)
  count = len(keyframes)
  if not count:
    raise ValueError('a path must have at least one keyframe, got 0')
  wraps = wraps if loop else 0
  times = np.arange(-count * wraps, count * (wraps + 1))
  values = np.tile(keyframes, (2 * wraps + 1, 1, 1, 1))
  if len(times) == 1:  # The image rests.
    times, values = np.array([0, 1]), np.repeat(values, 2, axis=0)
  # A curve through few keyframes has a lower degree.
  degree = min(KINDS[kind], len(times) - 1)
  curve = interpolate.make_interp_spline(times, values, k=degree)
  return StylePath(
    length=count if loop else count - 1,
    is_loop=loop,
    evaluate=lambda t: curve(t).astype(np.float32),
  )


def walk_path(
  centers: Float[np.ndarray, 'cells l d'],
  offsets: Float[np.ndarray, 'k cells l d'],
  radius: float,
) -> StylePath:
  """Returns a random walk around styles: a cubic loop through points near them.

  Args:
    centers: Styles of each cell.
    offsets: Differences between random styles and the mean style.
    radius: Factor on the offsets, for example 0.2; 1 leads as far from the
      centre as other images are.
  """
  return spline_path(centers + np.float32(radius) * offsets)


def circle_path(
  centers: Float[np.ndarray, 'cells l d'],
  offsets: Float[np.ndarray, 'k cells l d'],
  radius: float,
) -> StylePath:
  """Returns a closed ellipse around styles, in the plane of two offsets.

  Args:
    centers: Styles of each cell.
    offsets: Differences between random styles and the mean style, of which the
      first two are the axes. The length of the path is the number of offsets.
    radius: See `walk_path`.

  Raises:
    ValueError: If there are fewer than two offsets.
  """
  if len(offsets) < 2:
    raise ValueError(
      f'a circle must have at least 2 keyframes, got {len(offsets)}'
    )

  def evaluate(times: Float[np.ndarray, ' f']) -> np.ndarray:
    angle = (times * (2 * math.pi / len(offsets)))[:, None, None, None]
    across = np.cos(angle) * offsets[0] + np.sin(angle) * offsets[1]
    return (centers + radius * across).astype(np.float32)

  return StylePath(len(offsets), True, evaluate)


def of_seeds(
  model: model_lib.Model,
  seeds: Sequence[int],
  label: Float[np.ndarray, ' classes'] | None = None,
  **options: Any,
) -> Float[np.ndarray, 'n l d']:
  """Returns the styles of seeds, float32.

  Args:
    model: The model.
    seeds: Seeds of the latents: see `model.seed_latents`.
    label: The label of all images, for a conditional model.
    **options: Further arguments of `Model.mapping`.
  """
  z = model_lib.seed_latents(seeds, model.z_dim)
  c = None if label is None else np.tile(label, (len(z), 1))
  return np.asarray(model.mapping(z, c, **options))


def of_keyframes(
  model: model_lib.Model,
  seeds: Int[np.ndarray, 'rows columns k'],
  labels: Sequence[Float[np.ndarray, ' classes'] | None],
  psis: Sequence[float | int],
  **options: Any,
) -> Float[np.ndarray, 'k cells l d']:
  """Returns the styles of keyframes, whose labels and truncation may differ.

  Args:
    model: The model.
    seeds: See `keyframe_seeds`.
    labels: The label of each keyframe.
    psis: Truncation psi of each keyframe.
    **options: Further arguments of `Model.mapping`.
  """
  rows, columns, count = seeds.shape
  of_cells = seeds.reshape(rows * columns, count)
  return np.stack(
    [
      of_seeds(
        model,
        [int(seed) for seed in of_cells[:, k]],
        labels[k],
        truncation_psi=float(psis[k]),
        **options,
      )
      for k in range(count)
    ]
  )


def random_offsets(
  model: model_lib.Model,
  count: int,
  cells: int,
  seed: int,
  label: Float[np.ndarray, ' classes'] | None = None,
) -> Float[np.ndarray, 'k cells l d']:
  """Returns differences between random styles and their mean, for walks.

  Args:
    model: The model.
    count: Number of points of the walk.
    cells: Number of walks.
    seed: Random seed of the latents.
    label: The label, whose mean is then subtracted, for a conditional model.
  """
  z = np.random.RandomState(seed).randn(count * cells, model.z_dim)
  z = z.astype(np.float32)
  c = None if label is None else np.tile(label, (len(z), 1))
  towards = 'global' if label is None else 'class'
  ws = np.asarray(model.mapping(z, c))
  mean = np.asarray(model.mapping(z, c, 0.0, truncation_towards=towards))
  return (ws - mean).reshape(count, cells, *ws.shape[1:])


def mean_style(model: model_lib.Model) -> Float[np.ndarray, 'l d']:
  """Returns the mean style of all images, of all classes."""
  # With psi = 0, neither the latent nor the label matters.
  dim = model.label_dim
  label = np.eye(1, dim, dtype=np.float32)[0] if dim else None
  return of_seeds(model, [0], label, truncation_psi=0.0)[0]


def anchor(
  ws: Float[np.ndarray, '*n l d'], mean: Float[np.ndarray, 'l d']
) -> Float[np.ndarray, '*n l d']:
  """Replaces the style of the input by that of the mean style.

  The first style only determines the learned transform of the Fourier features
  (section 3.2). Images whose first styles are equal are therefore equally
  translated and rotated: the camera holds still while the content changes.
  """
  ws = np.array(ws)
  ws[..., 0, :] = mean[0]
  return ws


def mix(
  rows: Float[np.ndarray, 'r l d'],
  columns: Float[np.ndarray, 'c l d'],
  layers: Sequence[int],
) -> Float[np.ndarray, 'r c l d']:
  """Returns all combinations of styles of two sets of images.

  Args:
    rows: Styles of one set.
    columns: Styles of the other.
    layers: Indices of the styles to take from `columns`: 0 is that of the
      input, the first ones are coarse, and the last ones fine.

  Raises:
    ValueError: If an index is out of range.
  """
  num_ws = rows.shape[1]
  if not layers or not all(0 <= layer < num_ws for layer in layers):
    raise ValueError(
      f'layers must be among the styles 0 to {num_ws - 1}, got '
      f'{",".join(map(str, layers)) or "none"}'
    )
  mixed = np.repeat(rows[:, None], len(columns), axis=1)
  mixed[:, :, list(layers)] = columns[None, :, list(layers)]
  return mixed


def save(path: str | pathlib.Path, ws: Float[np.ndarray, 'n l d']) -> None:
  """Writes styles to an .npz file, under the key `w`."""
  with files.naming_errors(path), files.replacing(path) as temporary:
    np.savez(temporary, w=np.asarray(ws, np.float32))
