r"""Makes models from others, without training.

    sg3jax surgery average --networks=runs/quickstart --half_life=3 \
      --output=models/mean
    sg3jax surgery blend --low=models/faces --high=models/cartoons --layer=8 \
      --ramp=4 --output=models/both
    sg3jax surgery channels --network=models/faces --to=rgba --output=models/a
    sg3jax surgery crop --network=models/faces --size=128 --output=models/f128

`average` takes several models or all checkpoints of one run. `blend` takes the
first layers of one model and the last ones of another. `channels` changes
ToRGB and FromRGB so that images stay the same. `crop` keeps the layers that fit
another resolution; the others are new. The output is a model folder, with
`before_after.png`: a row of each source and, last, a row of the result.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from sg3jax.cli import common, evaluate, image_flags
from sg3jax.editing import channels, surgery
from sg3jax.eval.plots import grids
from sg3jax.interop import model_files

flags.declare_key_flag('network')
flags.declare_key_flag('output')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('seeds')
flags.declare_key_flag('seed')
flags.declare_key_flag('class')
_NETWORKS = flags.DEFINE_list(
  'networks', [], 'Models to average, or one run for all its checkpoints.'
)
_WEIGHTS = flags.DEFINE_list(
  'average_weights', None, 'Weights of the models; equal by default.'
)
_HALF_LIFE = flags.DEFINE_float(
  'half_life',
  None,
  'Thousands of images over which the weight of a checkpoint of a run halves.',
)
_LOW = flags.DEFINE(common.PATH, 'low', None, 'Model of the first layers.')
_HIGH = flags.DEFINE(common.PATH, 'high', None, 'Model of the last layers.')
_LAYER = flags.DEFINE_float('layer', None, 'First layer of the high model.')
_RAMP = flags.DEFINE_float(
  'ramp', 0.0, 'Number of layers between the two models that are interpolated.'
)
_MAPPING = flags.DEFINE_enum(
  'mapping', 'low', ['low', 'high'], 'Model whose mapping network to take.'
)
_TO = flags.DEFINE_enum('to', None, list(channels.NAMES), 'The new channels.')
_GREY = flags.DEFINE_enum(
  'grey', 'luma', list(channels.GREY), 'Weights of the colours in grey.'
)
_SIZE = flags.DEFINE_integer('size', None, 'The new resolution in pixels.')

_ACTIONS = ('average', 'blend', 'channels', 'crop')
PICTURE = 'before_after.png'


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and makes the model."""
  common.run(_surgery, argv, optional=1)


def _surgery(action: str = '') -> None:
  common.check_action(action, _ACTIONS)
  output = common.require(common.OUTPUT)
  model_files.check_is_new(output)
  seeds = image_flags.parse_seeds(flags.FLAGS['seeds'].value or '0-7')
  sources, result = {
    'average': _average,
    'blend': _blend,
    'channels': _channels,
    'crop': _crop,
  }[action]()
  shown = sources if len(sources) <= 4 else [sources[0], sources[-1]]
  rows = [_row(parts, seeds) for parts in (*shown, result)]
  surgery.write(
    output, result, {'surgery': action, 'command': list(common.COMMAND_LINE)}
  )
  _save_rows(rows, pathlib.Path(output) / PICTURE)
  print(output)


def _average() -> tuple[list[surgery.Parts], surgery.Parts]:
  paths = [str(path) for path in _NETWORKS.value]
  if not paths:
    raise ValueError('--networks is required: pass a run, or models A,B,...')
  if len(paths) == 1:
    found = surgery.checkpoints(paths[0])
    paths = [str(path) for path, _ in found]
    weights = surgery.post_hoc_weights([k for _, k in found], _HALF_LIFE.value)
  elif _HALF_LIFE.value is not None:
    raise ValueError('--half_life requires one run in --networks')
  else:
    weights = [1.0] * len(paths)
  if _WEIGHTS.value is not None:
    try:
      weights = [float(x) for x in _WEIGHTS.value]
    except ValueError as error:
      raise ValueError(f'--average_weights must be numbers: {error}') from error
  sources = [surgery.read(path) for path in paths]
  result = surgery.average(sources, weights)
  for path, weight in zip(paths, weights, strict=True):
    common.say(f'{"Weight:":15} {weight / sum(weights):.4f}  {path}')
  return sources, result


def _blend() -> tuple[list[surgery.Parts], surgery.Parts]:
  low, high = common.require(_LOW), common.require(_HIGH)
  if _LAYER.value is None:
    raise ValueError('--layer is required: the first layer of --high')
  sources = [surgery.read(low), surgery.read(high)]
  return sources, surgery.blend(
    sources[0],
    sources[1],
    _LAYER.value,
    ramp=_RAMP.value,
    mapping=_MAPPING.value,
  )


def _channels() -> tuple[list[surgery.Parts], surgery.Parts]:
  to = common.require(_TO)
  parts = surgery.read(common.require(common.NETWORK))
  return [parts], channels.adapt(parts, to, _GREY.value)


def _crop() -> tuple[list[surgery.Parts], surgery.Parts]:
  size = common.require(_SIZE)
  parts = surgery.read(common.require(common.NETWORK))
  result, new = surgery.resize(parts, size, evaluate.SEED.value)
  for network, layers in new.items():
    common.say(f'{"New:":15} {network}: {", ".join(layers) or "nothing"}')
  return [parts], result


def _row(parts: surgery.Parts, seeds: list[int]) -> np.ndarray:
  """Returns the images of seeds side by side, uint8 RGB."""
  model = parts.model()
  label = image_flags.class_label(model)
  images = [image for _, image in model.generate(seeds, label)]
  row: Any = grids.tile(np.stack(images), (len(images), 1))
  if row.shape[-1] == 4:
    row = grids.over_checkerboard(row, cell=max(model.resolution // 8, 1))
  return np.repeat(row, 3, axis=2) if row.shape[-1] == 1 else row


def _save_rows(rows: list[np.ndarray], path: pathlib.Path) -> None:
  """Writes rows below each other, scaled to the widest."""
  width = max(row.shape[1] for row in rows)
  scaled = []
  for row in rows:
    height = row.shape[0] * width // row.shape[1]
    image = Image.fromarray(row).resize(
      (width, height), Image.Resampling.NEAREST
    )
    scaled.append(np.asarray(image))
  grids.save_image(np.concatenate(scaled), path)
