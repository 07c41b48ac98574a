"""Writes the files of a projection.

w.npz              styles of all images; see `editing.ws`
NAME.png           target, mean image or start, projection; tuned image
NAME_projected.png the projection alone
trajectory.webp    all images during the optimisation, beside their targets
model/             the tuned model, if there was pivotal tuning
projection.json    losses, PSNR and settings; written last
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.editing import ws as ws_lib
from sg3jax.eval.plots import clips, grids
from sg3jax.interop import model_files
from sg3jax.inversion import pivotal, projector, targets

SUMMARY = 'projection.json'
STYLES = 'w.npz'
TRAJECTORY = 'trajectory.webp'
MODEL = 'model'

_FPS = 12
# Largest width of an image in the clip, in pixels, and its number of columns.
_CLIP_SIDE, _CLIP_COLUMNS = 256, 4


def join(parts: Sequence[projector.Projection]) -> projector.Projection:
  """Returns the projection of all images from those of batches.

  Images of a batch that was finished early keep their last look.
  """
  length = max(len(part.checks) for part in parts)
  padded = [
    [*part.checks, *[part.checks[-1]] * (length - len(part.checks))]
    for part in parts
  ]
  checks = [
    projector.Check(
      max(check.step for check in row),
      *(
        np.concatenate([getattr(check, name) for check in row])
        for name in ('loss', 'psnr', 'images')
      ),
    )
    for row in zip(*padded, strict=True)
  ]
  styles = [part.styles for part in parts]
  transform = None
  if any(s.transform is not None for s in styles):
    transform = np.concatenate(
      [
        np.tile(np.eye(3, dtype=np.float32), (len(s), 1, 1))
        if s.transform is None
        else s.transform
        for s in styles
      ]
    )
  noise = {
    path: np.concatenate([s.noise[path] for s in styles])
    for path in styles[0].noise
  }
  arrays = {
    name: np.concatenate([getattr(part, name) for part in parts])
    for name in ('images', 'loss', 'psnr', 'mean_loss', 'start_loss')
  }
  return projector.Projection(
    ws_lib.Styles(np.concatenate([s.w for s in styles]), transform, noise),
    checks=tuple(checks),
    **arrays,
  )


def write(
  outdir: str | pathlib.Path,
  photos: targets.Targets,
  projection: projector.Projection,
  about: Mapping[str, Any],
  *,
  model: model_lib.Model,
  tuned: pivotal.Tuned | None = None,
) -> dict[str, Any]:
  """Writes the files of a projection, and returns the contents of its JSON.

  Args:
    outdir: The folder, which is new or empty.
    photos: The photographs.
    projection: Their projection.
    about: Settings to record.
    model: The model.
    tuned: Result of pivotal tuning, if there was any.

  Raises:
    FileExistsError: If the folder contains files.
    OSError: If a file cannot be written.
  """
  outdir = pathlib.Path(outdir)
  model_files.check_is_new(outdir)
  with files.naming_errors(outdir):
    columns = [photos.images, projection.checks[0].images, projection.images]
    if tuned is not None:
      columns.append(tuned.images)
    for i, name in enumerate(photos.names):
      row = np.stack([column[i] for column in columns])
      grids.save_grid(row, outdir / f'{name}.png', (len(row), 1))
      grids.save_image(columns[-1][i], outdir / f'{name}_projected.png')
    clips.save_clip(_frames(photos, projection), outdir / TRAJECTORY, _FPS)
  if tuned is not None:
    save_model(outdir / MODEL, model, tuned.variables, about)
  ws_lib.write(outdir / STYLES, projection.styles)
  summary = {**about, 'images': _rows(photos, projection, tuned)}
  files.write_text(outdir / SUMMARY, json.dumps(summary, indent=2) + '\n')
  return summary


def save_model(
  path: str | pathlib.Path,
  model: model_lib.Model,
  variables: Any,
  source: Mapping[str, Any],
) -> None:
  """Writes a model with other variables of its generator.

  Args:
    path: The folder, which is new or empty.
    model: The model, from which the design and the discriminator are.
    variables: Variables of the generator.
    source: Where the variables came from.

  Raises:
    FileExistsError: If the folder contains files.
  """
  networks = {'generator_ema': variables}
  if model.discriminator_variables is not None:
    networks['discriminator'] = dict(model.discriminator_variables)
  model_files.save(path, model.options['model'], networks, source)


def _rows(
  photos: targets.Targets,
  projection: projector.Projection,
  tuned: pivotal.Tuned | None,
) -> list[dict[str, Any]]:
  """Returns the values of each image, with the course of its loss."""
  rows = []
  for i, name in enumerate(photos.names):
    row = {
      'name': name,
      'loss_of_mean': float(projection.mean_loss[i]),
      'loss_of_start': float(projection.start_loss[i]),
      'loss': float(projection.loss[i]),
      'psnr': _decibels(projection.psnr[i]),
    }
    if tuned is not None:
      row['loss_tuned'] = float(tuned.loss[i])
      row['psnr_tuned'] = _decibels(tuned.psnr[i])
    row['course'] = [
      {'step': check.step, 'loss': float(check.loss[i])}
      for check in projection.checks
    ]
    rows.append(row)
  return rows


def _decibels(value: Any) -> float | None:
  """Returns a PSNR for JSON, which has no infinity: None if nothing differs."""
  return float(value) if np.isfinite(value) else None


def _frames(
  photos: targets.Targets, projection: projector.Projection
) -> np.ndarray:
  """Returns the frames of the clip: each target above its image."""
  n = len(photos.names)
  columns = min(n, _CLIP_COLUMNS)
  rows = -(-n // columns)
  blank = np.full((rows * columns - n, *photos.images.shape[1:]), -1.0)
  above = np.concatenate([photos.images, blank])

  def frame(images: Float[np.ndarray, 'n h w c']) -> np.ndarray:
    below = np.concatenate([images, blank])
    pairs = np.concatenate([above, below], axis=1)
    return grids.tile(pairs, (columns, rows))

  step = max(photos.images.shape[1] // _CLIP_SIDE, 1)
  return np.stack([frame(c.images) for c in projection.checks])[
    :, ::step, ::step
  ]
