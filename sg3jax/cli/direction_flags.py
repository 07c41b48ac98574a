"""Flags of commands whose images can be edited along directions."""

import numpy as np
from absl import flags

from sg3jax import editing
from sg3jax import model as model_lib
from sg3jax.cli import common
from sg3jax.editing import direction_files
from sg3jax.editing import directions as directions_lib

DIRECTIONS = flags.DEFINE(
  common.PATH,
  'directions',
  None,
  'A folder of `sg3jax directions`, or its directions.npz.',
)
DIRECTION = flags.DEFINE_multi_string(
  'direction',
  [],
  'Edit of all images: NAME:STRENGTH, in standard deviations',
)


def read_edits() -> directions_lib.Edits:
  """Returns the directions and strengths that the flags specify.

  Raises:
    ValueError: If they are malformed, or only one of the flags is given.
    OSError: If the file cannot be read.
  """
  if not DIRECTION.value:
    if DIRECTIONS.value:
      raise ValueError(
        '--direction is required with --directions: pass NAME:STRENGTH'
      )
    return ()
  directions, _ = direction_files.read(common.require(DIRECTIONS))
  return directions_lib.parse_edits(DIRECTION.value, directions)


def edited(
  model: model_lib.Model, edits: directions_lib.Edits
) -> model_lib.Model:
  """Returns the model with edited styles, or the model itself without edits.

  Raises:
    ValueError: If a direction is for a model of another design.
  """
  if not edits:
    return model
  # Raise now, not at the first image.
  editing.apply(np.zeros((1, model.num_ws, model.w_dim), np.float32), edits)
  return editing.EditedModel(model, edits)
