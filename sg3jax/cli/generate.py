r"""Generates images with a trained model, one file a seed.

    sg3jax generate --network=runs/quickstart --seeds=0,1,4-6 --outdir=out
    sg3jax generate --network=runs/quickstart --seeds=2 --outdir=out \
      --trunc=0.7 --translate=0.3,0 --rotate=15
    sg3jax generate --network=runs/animals --seeds=0-7 --outdir=cats \
      --class=cat --trunc=0.7 --truncation_towards=class

Existing files are kept, unless `--overwrite` says otherwise.
"""

import pathlib

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
  'Truncation psi: 1 for none, 0 for the mean image.',
  lower_bound=-model_lib.MAX_PSI,
  upper_bound=model_lib.MAX_PSI,
)
_CUTOFF = flags.DEFINE_integer(
  'trunc_cutoff',
  None,
  'How many styles to truncate; all by default.',
  lower_bound=0,
)
_TOWARDS = flags.DEFINE_enum(
  'truncation_towards',
  'global',
  model_lib.TRUNCATION_CENTERS,
  'The mean image: that of all, or of the class that is generated.',
)
_CLASS = flags.DEFINE_string(
  'class', None, 'Class of a conditional model: its index or its name.'
)
_LABEL = flags.DEFINE_list(
  'label', None, 'Label of a model of vector labels: numbers X,Y,...'
)
_NOISE_MODE = flags.DEFINE_enum(
  'noise_mode', 'const', ['const', 'random', 'none'], 'Noise inputs, if any.'
)
flags.DEFINE_alias('noise-mode', 'noise_mode')
_TRANSLATE = flags.DEFINE_list(
  'translate', ['0', '0'], 'Shift x,y, in units of the width.'
)
_ROTATE = flags.DEFINE_float('rotate', 0.0, 'Turn, in degrees.')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace existing files.')

# Images at a time where the memory of the device is unknown.
_DEFAULT_BATCH = 8


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and generates."""
  common.run(_generate, argv)


def _generate() -> None:
  network = common.require(common.NETWORK)
  seeds = common.parse_seeds(common.require(_SEEDS))
  options = {
    'truncation_psi': _TRUNC.value,
    'truncation_cutoff': _CUTOFF.value,
    'truncation_towards': _TOWARDS.value,
    'noise_mode': _NOISE_MODE.value,
    'transform': _parse_transform(_TRANSLATE.value, _ROTATE.value),
  }
  paths = _output_paths(seeds)
  model = model_lib.load_model(network, common.PRECISION.value)
  label = common.make_label(
    _CLASS.value, _LABEL.value, model.label_dim, model.class_names
  )
  if label is not None and model.class_names and _LABEL.value is None:
    index = int(label.argmax())
    common.say(
      f'{"Class:":15} {index} {report.printable(model.class_names[index])}'
    )
  size = common.BATCH.value or batches.fitting_batch(
    model.generator,
    memory_estimate.device_memory(sharding.make_mesh(1)),
    default=_DEFAULT_BATCH,
  )
  images = model.generate(seeds, label, batch_size=size, **options)
  advance = text.announce_first_call(
    images.__next__,
    common.say,
    f'the generator, for {min(size, len(seeds))} images at a time',
  )
  for _ in seeds:
    seed, image = advance()
    with files.naming_errors(paths[seed]):
      grids.save_image(image, paths[seed])
    print(paths[seed], flush=True)


def _output_paths(seeds: list[int]) -> dict[int, pathlib.Path]:
  """Returns the file of each seed.

  Raises:
    OSError: If a file exists already, or none can be written.
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


def _parse_transform(translate: list[str], rotate: float):
  """Returns the transform that is asked for, or None.

  Raises:
    ValueError: If `translate` is not two numbers, or they are too large.
  """
  try:
    x, y = (float(value) for value in translate)
    return resampling.inverse_transform((x, y), rotate)
  except ValueError as error:
    raise ValueError(
      f'--translate={",".join(translate)} is not understood: use X,Y, numbers '
      'that say how many widths to move'
    ) from error
