r"""Finds directions in which a model's images change, and names them.

    sg3jax directions --network=runs/quickstart --outdir=edits
    sg3jax directions --network=models/ffhq --outdir=pose --method=pca \
      --layer_range=0-3 --name=turn=0 --name=zoom=2
    sg3jax generate --network=models/ffhq --seeds=0-7 --outdir=out \
      --directions=pose --direction=turn:2.5 --direction=zoom:-1

The folder then has `directions.npz`, which is reused by the same command with
other names, and `sheet.png`, with a row for each direction and a column for
each strength from -3 to 3 standard deviations.
"""

import pathlib
import re

import numpy as np
from absl import flags

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.cli import common, evaluate, image_flags
from sg3jax.editing import direction_files
from sg3jax.editing import directions as directions_lib

flags.declare_key_flag('network')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('outdir')
flags.declare_key_flag('class')
flags.declare_key_flag('seed')
_METHOD = flags.DEFINE_enum(
  'method',
  'sefa',
  directions_lib.METHODS,
  'sefa for what changes layers most, pca for how random styles vary.',
)
_COUNT = flags.DEFINE_integer(
  'count', 10, 'Number of directions.', lower_bound=1
)
_RANGE = flags.DEFINE_string(
  'layer_range',
  None,
  'First and last style that the directions move, such as 1-6; all but that of '
  'the input by default.',
)
_STYLES = flags.DEFINE_integer(
  'num_styles',
  100_000,
  'Number of random styles whose spread is measured.',
  lower_bound=1000,
)
_NAMES = flags.DEFINE_multi_string(
  'name', [], 'A name for a direction by its row: NAME=ROW'
)

_STRENGTHS = (-3, -2, -1, 0, 1, 2, 3)


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and finds the directions."""
  common.run(_directions, argv)


def _directions() -> None:
  network = common.require(common.NETWORK)
  outdir = pathlib.Path(common.require(common.OUTDIR))
  layers = _parse_range(_RANGE.value)
  files.check_folder(outdir)
  model = model_lib.load_model(network)
  ws = _seed_ws(model)
  found, is_read = direction_files.find_once(
    model,
    outdir,
    _METHOD.value,
    count=_COUNT.value,
    layers=layers,
    num_samples=_STYLES.value,
    seed=evaluate.SEED.value,
  )
  named = directions_lib.rename(found, _NAMES.value)
  path = outdir / direction_files.FILE
  if named != found:
    direction_files.write(path, named, direction_files.read(path)[1])
  sheet = outdir / direction_files.SHEET
  if not (is_read and sheet.exists()):
    direction_files.save_sheet(model, ws, named, _STRENGTHS, sheet)
  common.say(f'{"Directions:":15} {path}{", read" if is_read else ""}')
  for i, direction in enumerate(named):
    first, last = direction.layers
    print(f'{i:3d}  {direction.name:20s} {first}-{last}  {direction.std:.4g}')


def _seed_ws(model: model_lib.Model) -> np.ndarray:
  """Returns the styles of the image of `--seed`."""
  z = model_lib.seed_latents([evaluate.SEED.value], model.z_dim)
  label = image_flags.class_label(model)
  c = None if label is None else label[None]
  return np.asarray(model.mapping(z, c, 0.7))


def _parse_range(text: str | None) -> tuple[int, int] | None:
  """Returns the first and last style of a range such as `1-6` or `4`.

  Raises:
    ValueError: If it is malformed.
  """
  if text is None:
    return None
  match = re.fullmatch(r'(\d+)(?:-(\d+))?', text, re.ASCII)
  if not match:
    raise ValueError(f'--layer_range must be FIRST-LAST, got {text!r}')
  return int(match[1]), int(match[2] or match[1])
