"""Measures metrics of a trained model and appends them to its metric files.

    sg3jax evaluate --network=runs/quickstart --metrics=eqt,eqt_frac,eqr
    sg3jax evaluate --network=runs/quickstart --metrics=swd --data=embedded
    sg3jax evaluate --network=runs/quickstart --precision=bf16

The values are printed as one line of JSON and appended to `metric-NAME.jsonl`
in `--outdir`, which defaults to the run folder.
"""

import json
import pathlib

from absl import flags

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.cli import common
from sg3jax.data import report, sources
from sg3jax.eval.metrics import base
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import memory_estimate, sharding

flags.declare_key_flag('network')
flags.declare_key_flag('outdir')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('devices')
flags.declare_key_flag('precision')
flags.declare_key_flag('batch')
_METRICS = flags.DEFINE_list(
  'metrics',
  ['eqt', 'eqt_frac', 'eqr'],
  f'The metrics to measure: {", ".join(base.registry())}.',
)
_DATA = flags.DEFINE_string(
  'data', None, 'Source of real images, if a metric or the model needs them.'
)
_SAMPLES = flags.DEFINE_integer(
  'samples', 50_000, 'Number of images per metric.', lower_bound=1
)
SEED = flags.DEFINE_integer(
  'seed',
  0,
  'Random seed for latents, transforms and choice of real images.',
)


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and measures the metrics."""
  common.run(_evaluate, argv)


def _evaluate() -> None:
  network = common.require(common.NETWORK)
  names = base.parse_names(_METRICS.value)
  if not names:
    raise ValueError(
      '--metrics must name at least one metric, got none: choose from '
      f'{", ".join(base.registry())}'
    )
  outdir = pathlib.Path(common.OUTDIR.value or _run_folder(network))
  mesh = sharding.make_mesh(common.DEVICES.value)
  model = model_lib.load_model(network, common.PRECISION.value)
  values = launch.evaluate(
    model,
    names,
    outdir,
    source=_open_source(model, names),
    num_samples=_SAMPLES.value,
    seed=SEED.value,
    mesh=mesh,
    batch_size=common.BATCH.value,
    memory=memory_estimate.device_memory(mesh),
    log=common.say,
  )
  about = {'kimg': model.kimg, 'precision': model.precision}
  print(json.dumps(values | about))


def _open_source(
  model: model_lib.Model, names: tuple[str, ...]
) -> sources.ImageSource | None:
  """Opens the real images of `--data`; returns None if none are needed.

  Raises:
    ValueError: If a metric or the model needs real images and there are none.
  """
  if _DATA.value:
    source = sources.open_source(
      _DATA.value,
      resolution=model.resolution,
      use_labels=model.label_dim > 0,
    )
    for note in sources.notes(source):
      common.say(f'{"Data note:":15} {note}')
    _check_classes(sources.class_names(source), model.class_names)
    return source
  for name in names:
    if base.REALS in base.registry()[name].needs:
      raise ValueError(
        f'the metric {name} compares with real images: pass --data'
      )
  if model.label_dim:
    raise ValueError('a conditional network needs labels: pass --data')
  return None


def _check_classes(
  data: tuple[str, ...] | None, model: tuple[str, ...] | None
) -> None:
  """Raises ValueError if data and model number their classes differently."""
  if data and model and data != model:
    raise ValueError(
      'the classes of --data must be those of the network, got '
      f'{report.examples(data)} for {report.examples(model)}: use the same '
      'folder names, or give class numbers in dataset.json'
    )


def _run_folder(network: str) -> pathlib.Path:
  """Returns the run folder of a network, which may be a checkpoint in it."""
  path = pathlib.Path(network)
  return (
    path.parent.parent if path.parent.name == checkpoint_lib.FOLDER else path
  )
