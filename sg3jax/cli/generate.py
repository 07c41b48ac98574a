r"""Generates images with a trained model, one file per seed.

    sg3jax generate --network=runs/quickstart --seeds=0,1,4-6 --outdir=out
    sg3jax generate --network=runs/quickstart --seeds=2 --outdir=out \
      --trunc=0.7 --translate=0.3,0 --rotate=15
    sg3jax generate --network=runs/animals --seeds=0-7 --outdir=cats \
      --class=cat --trunc=0.7 --truncation_towards=class
    sg3jax generate --network=runs/quickstart --seeds=0-7 --outdir=smiling \
      --directions=edits --direction=smile:2.5

An existing file is an error unless `--overwrite` is given.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float

from sg3jax import files, text
from sg3jax import model as model_lib
from sg3jax.cli import common, direction_flags
from sg3jax.data import labels as labels_lib
from sg3jax.data import report
from sg3jax.eval import batches, resampling
from sg3jax.eval.plots import grids
from sg3jax.train import memory_estimate, sharding

flags.declare_key_flag('network')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('outdir')
flags.declare_key_flag('precision')
flags.declare_key_flag('batch')
flags.declare_key_flag('directions')
flags.declare_key_flag('direction')
_SEEDS = flags.DEFINE_string(
  'seeds', None, 'Seeds of the images, such as 0,1,4-6.'
)
_TRUNC = flags.DEFINE_float(
  'trunc',
  1.0,
  'Truncation psi: 1 for no truncation, 0 for the mean image.',
  lower_bound=-model_lib.MAX_PSI,
  upper_bound=model_lib.MAX_PSI,
)
_CUTOFF = flags.DEFINE_integer(
  'trunc_cutoff',
  None,
  'Number of styles to truncate, from the first; all by default.',
  lower_bound=0,
)
_TOWARDS = flags.DEFINE_enum(
  'truncation_towards',
  'global',
  model_lib.TRUNCATION_CENTERS,
  'The mean to truncate towards: of all images, or of the class.',
)
_CLASS = flags.DEFINE_string(
  'class', None, 'Class for a conditional model: its index or its name.'
)
_LABEL = flags.DEFINE_list(
  'label', None, 'Label for a model with vector labels: numbers X,Y,...'
)
_NOISE_MODE = flags.DEFINE_enum(
  'noise_mode',
  'const',
  ['const', 'random', 'none'],
  'Noise inputs of StyleGAN2: the stored ones, new ones, or none.',
)
flags.DEFINE_alias('noise-mode', 'noise_mode')
_TRANSLATE = flags.DEFINE_list(
  'translate', ['0', '0'], 'Translation X,Y in units of the image width.'
)
_ROTATE = flags.DEFINE_float('rotate', 0.0, 'Rotation in degrees.')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace existing files.')

_MAX_SEEDS = 1_000_000

# Images per batch if the memory of the device is unknown.
_DEFAULT_BATCH = 8


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and generates the images."""
  common.run(_generate, argv)


def _generate() -> None:
  network = common.require(common.NETWORK)
  seeds = parse_seeds(common.require(_SEEDS))
  transform = _parse_transform(_TRANSLATE.value, _ROTATE.value)
  paths = _output_paths(seeds)
  edits = direction_flags.read_edits()
  model = model_lib.load_model(network, common.PRECISION.value)
  model = direction_flags.edited(model, edits)
  for seed, image in _images(model, seeds, transform):
    with files.naming_errors(paths[seed]):
      grids.save_image(image, paths[seed])
    print(paths[seed], flush=True)


def _images(model: model_lib.Model, seeds: list[int], transform: Any):
  """Yields each seed and its image; announces the compilation at the first."""
  size = common.BATCH.value or batches.fitting_batch(
    model.generator,
    memory_estimate.device_memory(sharding.make_mesh(1)),
    default=_DEFAULT_BATCH,
  )
  images = model.generate(
    seeds,
    _label(model),
    batch_size=size,
    truncation_psi=_TRUNC.value,
    truncation_cutoff=_CUTOFF.value,
    truncation_towards=_TOWARDS.value,
    noise_mode=_NOISE_MODE.value,
    transform=transform,
  )
  advance = text.announce_first_call(
    images.__next__,
    common.say,
    f'the generator, for {min(size, len(seeds))} images at a time',
  )
  for _ in seeds:
    yield advance()


def _label(model: model_lib.Model) -> Any:
  """Returns the label that the flags specify, and prints its class name."""
  names = model.class_names
  label = make_label(_CLASS.value, _LABEL.value, model.label_dim, names)
  if label is not None and names and _LABEL.value is None:
    index = int(label.argmax())
    common.say(f'{"Class:":15} {index} {report.printable(names[index])}')
  return label


def _output_paths(seeds: list[int]) -> dict[int, pathlib.Path]:
  """Returns the output file of each seed.

  Raises:
    OSError: If a file already exists, or the folder cannot be written to.
  """
  outdir = pathlib.Path(common.require(common.OUTDIR))
  files.check_folder(outdir)
  paths = {seed: outdir / f'seed{seed:04d}.png' for seed in seeds}
  for path in paths.values():
    if path.is_dir():
      raise IsADirectoryError(f'{path} is a folder: choose another --outdir')
    if path.exists() and not _OVERWRITE.value:
      raise FileExistsError(
        f'{path} exists: pass --overwrite or another --outdir'
      )
  return paths


def _parse_transform(translate: list[str], rotate: float) -> Any:
  """Returns the inverse transform that the flags specify, or None.

  Raises:
    ValueError: If `translate` is not two numbers, or they are too large.
  """
  try:
    x, y = (float(value) for value in translate)
  except ValueError as error:
    raise ValueError(
      '--translate must be two numbers X,Y in units of the image width, got '
      f'{",".join(translate)}'
    ) from error
  try:
    return resampling.inverse_transform((x, y), rotate)
  except ValueError as error:
    raise ValueError(f'--{error}') from error


def parse_seeds(text: str) -> list[int]:
  """Returns the seeds in a list such as `0,1,4-6`.

  Raises:
    ValueError: If the list is malformed or a seed is out of range.
  """
  seeds = []
  for part in text.split(','):
    match = re.fullmatch(r'\s*(\d+)(?:-(\d+))?\s*', part)
    if not match:
      raise ValueError(
        f'--seeds must be numbers and ranges, got {part!r} in {text}: write '
        '--seeds=0,1,4-6, for example'
      )
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
      raise ValueError(
        f'--seeds must have ascending ranges, got {part!r} in {text}: write '
        f'{last}-{first}'
      )
    if last >= 2**32 or last - first >= _MAX_SEEDS:
      raise ValueError(
        f'--seeds must be below 2^32, with at most {_MAX_SEEDS:,} seeds per '
        f'range, got {part!r} in {text}'
      )
    seeds.extend(range(first, last + 1))
  return seeds


def make_label(
  chosen: str | None,
  numbers: Sequence[str] | None,
  label_dim: int,
  class_names: Sequence[str] | None = None,
) -> Float[np.ndarray, ' classes'] | None:
  """Returns the label that the flags specify; None for unconditional networks.

  Args:
    chosen: A class, given by its index or its name. A number is always an
      index, even if it is also the name of a class.
    numbers: The features of a label, as an alternative to `chosen`.
    label_dim: Number of features of the network's labels.
    class_names: Names of the classes, if known.

  Raises:
    ValueError: If a label is missing or out of range, or the network takes
      none.
  """
  if not label_dim:
    for flag, value in (('class', chosen), ('label', numbers)):
      if value is not None:
        raise ValueError(f'--{flag} was given, but the network takes no labels')
    return None
  if numbers is None:
    index = _find_class(chosen, label_dim, class_names or ())
    return labels_lib.one_hot(index, label_dim)
  try:
    label = np.array([float(x) for x in numbers], np.float32)
  except ValueError:
    label = np.zeros(0, np.float32)
  is_whole = label.shape == (label_dim,) and np.all(np.isfinite(label))
  if chosen is not None or not is_whole:
    raise ValueError(
      f'--label must be {label_dim} finite numbers X,Y,..., with no --class, '
      f'got {",".join(numbers)}'
    )
  return label


def _find_class(
  chosen: str | None, label_dim: int, class_names: Sequence[str]
) -> int:
  """Returns the index of a class that is given by index or name.

  Raises:
    ValueError: If there is no such class; the message lists the valid ones.
  """
  if chosen is not None:
    is_index = chosen.isascii() and chosen.isdecimal()
    if is_index and len(chosen) < 10 and int(chosen) < label_dim:
      return int(chosen)
    if not is_index and chosen in class_names:
      return class_names.index(chosen)
  given = '' if chosen is None else f', and has no class --class={chosen}'
  named = f' (or its name: {report.examples(class_names)})'
  raise ValueError(
    f'the network is conditional{given}: pass --class=0 to '
    f'--class={label_dim - 1}{named if class_names else ""}, or --label with '
    f'{label_dim} numbers'
  )
