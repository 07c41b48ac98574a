r"""Projects photographs into a model: finds the styles that generate them.

    sg3jax project --network=runs/quickstart --target=photo.png --outdir=photo
    sg3jax project --network=models/ffhq --target=faces --outdir=out --pti
    sg3jax project --network=models/afhq --target=cat.jpg --outdir=cat \
      --space=w --input_transform=fixed --class=cat

The results are `w.npz`, with the key `w`, which other commands accept as
`--load_w`; pictures and a clip of each photograph and its projection; with
`--pti`, a model that is tuned to the photographs; and `projection.json`.
Photographs are cropped to their central square and resized, but not aligned.
"""

import dataclasses
import functools
import json
import sys

import jax
import numpy as np
from absl import flags

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.cli import common, evaluate, image_flags
from sg3jax.interop import model_files
from sg3jax.inversion import losses, pivotal, projector, results, targets
from sg3jax.inversion import settings as settings_lib
from sg3jax.nets.features import lpips

flags.declare_key_flag('network')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('outdir')
flags.declare_key_flag('batch')
flags.declare_key_flag('class')
flags.declare_key_flag('weights_dir')
flags.declare_key_flag('seed')
_TARGET = flags.DEFINE(
  common.PATH, 'target', None, 'A photograph, or a folder of photographs.'
)
_SPACE = flags.DEFINE_enum(
  'space',
  'w+',
  settings_lib.SPACES,
  'w for one style in all layers, w+ for one style per layer, which is closer '
  'to the photograph and less editable.',
)
_TRANSFORM = flags.DEFINE_enum(
  'input_transform',
  None,
  ['fixed', 'free', 'later'],
  'Rotation and translation of the input: held, optimised, or held for the '
  'first third of the steps; later by default if the generator takes '
  'transforms.',
)
# Pixels a side at which LPIPS compares images, as StyleGAN2's projector does.
_LPIPS_SIDE = 256

_LOSS = flags.DEFINE_enum(
  'loss',
  'auto',
  losses.NAMES,
  'The distance to minimise: LPIPS, which needs weights; a Laplacian pyramid, '
  'which needs none; or LPIPS if its weights are there.',
)
_STEPS = flags.DEFINE_integer(
  'steps', 1000, 'Number of steps of Adam.', lower_bound=1
)
_REFINE_STEPS = flags.DEFINE_integer(
  'refine_steps',
  400,
  'Number of steps of L-BFGS, which finishes; 0 for none.',
  lower_bound=0,
)
_RATE = flags.DEFINE_float(
  'learning_rate', 0.1, 'Learning rate, in units of the spread of styles.'
)
_CANDIDATES = flags.DEFINE_integer(
  'candidates',
  256,
  'Number of random images of which the closest is the start; 0 to start from '
  'the mean image.',
  lower_bound=0,
)
_STOP = flags.DEFINE_float(
  'stop_psnr',
  None,
  'PSNR in dB at which an image is finished.',
  lower_bound=0,
)
_PTI = flags.DEFINE_bool(
  'pti', False, 'Tune the generator to the photographs (pivotal tuning).'
)
_PTI_STEPS = flags.DEFINE_integer(
  'pti_steps', 350, 'Number of steps of pivotal tuning.', lower_bound=1
)
_PTI_RATE = flags.DEFINE_float(
  'pti_learning_rate', 3e-4, 'Learning rate of pivotal tuning.'
)
_LOCALITY = flags.DEFINE_float(
  'pti_locality',
  1.0,
  'How strongly pivotal tuning keeps other images as they are.',
  lower_bound=0,
)

# Images projected at a time.
_DEFAULT_BATCH = 4


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and projects the photographs."""
  common.run(_project, argv)


def _project() -> None:
  network = common.require(common.NETWORK)
  target = common.require(_TARGET)
  outdir = common.require(common.OUTDIR)
  model_files.check_is_new(outdir)
  settings, tuning = _settings()
  name, loss = losses.choose(_LOSS.value, _lpips())
  model = model_lib.load_model(network)
  photos = targets.read(target, model.resolution, model.img_channels)
  for note in photos.notes:
    common.say(f'{"Note:":15} {note}')
  is_given = image_flags.CLASS.value is not None
  label = image_flags.class_label(model) if is_given else None
  project = projector.Projector(model, loss, settings, label=label)
  projection = _run(project, photos)
  tuned = None
  if _PTI.value:
    common.say(f'{"Tuning:":15} {tuning.steps} steps')
    tuned = pivotal.tune(
      model,
      photos.images,
      projection.styles,
      loss,
      tuning,
      label=label,
      log=lambda step, psnr: common.say(
        f'{"step":>8} {step:5d}  {np.mean(psnr):.2f} dB'
      ),
    )
  about = {
    'network': str(network),
    'step': model.step,
    'target': str(target),
    'loss': name,
    'settings': dataclasses.asdict(project.settings),
    'tuning': dataclasses.asdict(tuning) if _PTI.value else None,
    'command': sys.argv,
    'jax': jax.__version__,
    'device': jax.devices()[0].device_kind,
  }
  summary = results.write(
    outdir, photos, projection, about, model=model, tuned=tuned
  )
  for row in summary['images']:
    print(json.dumps({k: v for k, v in row.items() if k != 'course'}))


def _settings() -> tuple[settings_lib.Settings, pivotal.Settings]:
  """Returns the settings of the projection and of pivotal tuning."""
  settings = settings_lib.Settings(
    space=_SPACE.value,
    transform=_TRANSFORM.value,
    steps=_STEPS.value,
    refine_steps=_REFINE_STEPS.value,
    learning_rate=_RATE.value,
    candidates=_CANDIDATES.value,
    stop_psnr=_STOP.value,
    seed=evaluate.SEED.value,
  )
  tuning = pivotal.Settings(
    steps=_PTI_STEPS.value,
    learning_rate=_PTI_RATE.value,
    locality_weight=_LOCALITY.value,
    seed=evaluate.SEED.value,
  )
  return settings, tuning


def _run(
  project: projector.Projector, photos: targets.Targets
) -> projector.Projection:
  """Projects the photographs in batches of one size."""
  n = len(photos.names)
  size = min(common.BATCH.value or _DEFAULT_BATCH, n)
  parts = []
  for first in range(0, n, size):
    names = photos.names[first : first + size]
    common.say(f'{"Projecting:":15} {", ".join(names)}')
    part = project(
      photos.images[first : first + size],
      first=first,
      log=lambda check: common.say(
        f'{"step":>8} {check.step:5d}  loss {np.mean(check.loss):.4f}, '
        f'{np.mean(check.psnr):.2f} dB'
      ),
      log_refining=lambda i, names=names: common.say(
        f'{"Refining:":15} {names[i]}'
      ),
    )
    parts.append(part)
  return results.join(parts)


def _lpips() -> losses.Loss | None:
  """Returns LPIPS if it may be used and its weights are there."""
  if _LOSS.value == 'pyramid':
    return None
  try:
    weights = launch.feature_weights(['vgg16'], common.WEIGHTS_DIR.value)
  except FileNotFoundError:
    if _LOSS.value == 'lpips':
      raise
    return None
  distance = functools.partial(lpips.distance, weights['vgg16'])
  return losses.at_most(distance, _LPIPS_SIDE)
