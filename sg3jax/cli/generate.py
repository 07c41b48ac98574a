r"""Generates images with a trained model, one file per seed.

    sg3jax generate --network=runs/quickstart --seeds=0,1,4-6 --outdir=out
    sg3jax generate --network=runs/quickstart --seeds=2 --outdir=out \
      --trunc=0.7 --translate=0.3,0 --rotate=15
    sg3jax generate --network=runs/animals --seeds=0-7 --outdir=cats \
      --class=cat --trunc=0.7 --truncation_towards=class

An existing file is an error unless `--overwrite` is given.
"""

import pathlib
from typing import Any

from absl import flags

from sg3jax import files, text
from sg3jax import model as model_lib
from sg3jax.cli import common
from sg3jax.data import report
from sg3jax.eval import batches, resampling
from sg3jax.eval.plots import grids
from sg3jax.train import memory_estimate, sharding

flags.declare_key_flag('network')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('outdir')
flags.declare_key_flag('precision')
flags.declare_key_flag('batch')
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

# Images per batch if the memory of the device is unknown.
_DEFAULT_BATCH = 8


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and generates the images."""
  common.run(_generate, argv)


def _generate() -> None:
  network = common.require(common.NETWORK)
  seeds = common.parse_seeds(common.require(_SEEDS))
  transform = _parse_transform(_TRANSLATE.value, _ROTATE.value)
  paths = _output_paths(seeds)
  model = model_lib.load_model(network, common.PRECISION.value)
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
  label = common.make_label(_CLASS.value, _LABEL.value, model.label_dim, names)
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
    return resampling.inverse_transform((x, y), rotate)
  except ValueError as error:
    raise ValueError(
      '--translate must be two numbers X,Y in units of the image width, got '
      f'{",".join(translate)}'
    ) from error
