r"""Draws pictures with a trained model, one file a seed.

    sg3jax generate --network=runs/quickstart --seeds=0,1,4-6 --outdir=out
    sg3jax generate --network=runs/quickstart --seeds=2 --outdir=out \
      --trunc=0.7 --translate=0.3,0 --rotate=15
    sg3jax generate --network=runs/animals --seeds=0-7 --outdir=cats \
      --class=cat --trunc=0.7 --truncation_towards=class

Existing files are kept, unless `--overwrite` says otherwise.
"""

import math
import pathlib

import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float

from sg3jax import model as model_lib
from sg3jax import text
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
_SEEDS = flags.DEFINE_string('seeds', None, 'Such as 0,1,4-6.')
_TRUNC = flags.DEFINE_float(
  'trunc', 1.0, 'Truncation psi: 1 for none, 0 for the mean picture.'
)
_CUTOFF = flags.DEFINE_integer(
  'trunc_cutoff', None, 'How many styles to truncate; all by default.'
)
_TOWARDS = flags.DEFINE_enum(
  'truncation_towards',
  'global',
  model_lib.TRUNCATION_CENTERS,
  'The mean picture: that of all, or of the class that is drawn.',
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
  """Parses the flags and draws."""
  common.run(_generate, argv)


def _generate() -> None:
  network, outdir = (
    common.require(common.NETWORK),
    common.require(common.OUTDIR),
  )
  seeds = common.parse_seeds(common.require(_SEEDS))
  transform = _inverse_transform(_TRANSLATE.value, _ROTATE.value)
  paths = {s: pathlib.Path(outdir) / f'seed{s:04d}.png' for s in seeds}
  existing = [str(path) for path in paths.values() if path.exists()]
  if existing and not _OVERWRITE.value:
    raise FileExistsError(
      f'{existing[0]} exists: pass --overwrite or another --outdir'
    )
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
  generate = text.announce_first_call(
    model,
    common.say,
    f'the generator, for {min(size, len(seeds))} images at a time',
  )
  for first in range(0, len(seeds), size):
    batch = seeds[first : first + size]
    # Whole batches, so that one program serves all.
    padded = batch + batch[:1] * (size - len(batch) if first else 0)
    images = generate(
      model_lib.seed_latents(padded, model.z_dim),
      None if label is None else np.tile(label, (len(padded), 1)),
      truncation_psi=_TRUNC.value,
      truncation_cutoff=_CUTOFF.value,
      noise_mode=_NOISE_MODE.value,
      transform=transform,
      noise_seed=batch[0],
      truncation_towards=_TOWARDS.value,
    )
    for seed, image in zip(batch, np.asarray(images), strict=False):
      grids.save_image(image, paths[seed])
      print(paths[seed])


def _inverse_transform(
  translate: list[str], rotate: float
) -> Float[np.ndarray, '3 3'] | None:
  """Returns the inverse of a turn by degrees followed by a shift; or None.

  Raises:
    ValueError: If `translate` is not two numbers.
  """
  try:
    x, y = (float(value) for value in translate)
  except ValueError as error:
    raise ValueError(
      f'--translate={",".join(translate)} is not understood: use X,Y'
    ) from error
  if not (x or y or rotate):
    return None
  turn = resampling.rotation_matrix(math.radians(rotate))
  shift = resampling.translation_matrix(jnp.array([x, y]))
  return np.linalg.inv(np.asarray(shift @ turn))
