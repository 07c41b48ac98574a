"""Measures metrics of a trained model and appends them to its metric files.

    sg3jax evaluate --network=runs/quickstart --metrics=eqt,eqt_frac,eqr
    sg3jax evaluate --network=runs/quickstart --metrics=swd --data=embedded
    sg3jax evaluate --network=runs/quickstart --precision=bf16
    sg3jax evaluate --data=photos.zip --against=folder --metrics=rfd,rprecision

With `--against`, the images in a folder or zip are measured instead of a
model's. The values are printed as one line of JSON and appended to
`metric-NAME.jsonl` in `--outdir`, which defaults to the run folder, or to
`demo-metrics` for the model `demo` of this package.
"""

import json
import pathlib

from absl import flags

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.cli import common
from sg3jax.data import report, sources
from sg3jax.eval.metrics import base
from sg3jax.interop import packaged_models
from sg3jax.train import memory_estimate, sharding

flags.declare_key_flag('network')
flags.declare_key_flag('outdir')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('stats_cache')
flags.declare_key_flag('weights_dir')
flags.declare_key_flag('devices')
flags.declare_key_flag('precision')
flags.declare_key_flag('batch')
_METRICS = flags.DEFINE_list(
  'metrics',
  ['eqt', 'eqt_frac', 'eqr'],
  f'The metrics to measure: {", ".join(base.registry())}.',
)
DATA = flags.DEFINE_string(
  'data', None, 'Source of real images, if a metric or the model needs them.'
)
_AGAINST = flags.DEFINE_string(
  'against',
  None,
  'Source of images to compare with --data, instead of those of --network.',
)
_MIRROR = flags.DEFINE_bool(
  'mirror',
  False,
  'Compare with the real images flipped left to right, too, in metrics that do '
  'not take all of them.',
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
  names = base.parse_names(_METRICS.value)
  if not names:
    raise ValueError(
      '--metrics must name at least one metric, got none: choose from '
      f'{", ".join(base.registry())}'
    )
  if _AGAINST.value:
    _compare(names)
    return
  network = common.require(common.NETWORK)
  outdir = _outdir(network)
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
    mirror=_MIRROR.value,
    stats_cache=common.stats_cache(),
    weights_dir=common.WEIGHTS_DIR.value,
    log=common.say,
  )
  about = {'kimg': model.kimg, 'precision': model.precision}
  print(json.dumps(values | about))


def _outdir(network: str) -> pathlib.Path:
  """Returns the folder of the metric files."""
  if common.OUTDIR.value:
    return pathlib.Path(common.OUTDIR.value)
  if packaged_models.is_packaged(network):
    # Nothing is written into the installed package.
    outdir = pathlib.Path(f'{network}-metrics')
    common.say(f'{"Metric files:":15} {outdir}')
    return outdir
  return launch.run_folder(network)


def _compare(names: tuple[str, ...]) -> None:
  """Compares the images of `--against` with those of `--data`."""
  if common.NETWORK.value:
    raise ValueError('--against replaces --network: pass one of them')
  needs = {need for name in names for need in base.registry()[name].needs}
  use_labels = base.LABELS in needs
  source, against = (
    sources.open_source(common.require(flag), use_labels=use_labels)
    for flag in (DATA, _AGAINST)
  )
  for opened in (source, against):
    for note in sources.notes(opened):
      common.say(f'{"Data note:":15} {note}')
  values = launch.compare(
    source,
    against,
    names,
    common.require(common.OUTDIR),
    num_samples=_SAMPLES.value,
    seed=SEED.value,
    mesh=sharding.make_mesh(common.DEVICES.value),
    mirror=_MIRROR.value,
    stats_cache=common.stats_cache(),
    weights_dir=common.WEIGHTS_DIR.value,
    log=common.say,
  )
  print(json.dumps(values))


def _open_source(
  model: model_lib.Model, names: tuple[str, ...]
) -> sources.ImageSource | None:
  """Opens the real images of `--data`; returns None if none are needed.

  Raises:
    ValueError: If a metric or the model needs real images and there are none.
  """
  if DATA.value:
    return open_data(model)
  for name in names:
    if base.REALS in base.registry()[name].needs:
      raise ValueError(
        f'the metric {name} compares with real images: pass --data'
      )
  if model.label_dim:
    raise ValueError('a conditional network needs labels: pass --data')
  return None


def open_data(model: model_lib.Model) -> sources.ImageSource:
  """Opens the real images of `--data` to compare a model with, and checks them.

  Raises:
    ValueError: If they do not fit the model; see `sources.open_source`.
  """
  source = sources.open_source(
    common.require(DATA),
    resolution=model.resolution,
    use_labels=model.label_dim > 0,
  )
  for note in sources.notes(source):
    common.say(f'{"Data note:":15} {note}')
  _check_classes(sources.class_names(source), model.class_names)
  return source


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
