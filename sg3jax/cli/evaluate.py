"""Measures a trained model and appends the figures to a run's metric files.

    sg3jax evaluate --network=runs/quickstart --metrics=eqt,eqt_frac,eqr
    sg3jax evaluate --network=runs/quickstart --metrics=swd --data=embedded
    sg3jax evaluate --network=runs/quickstart --precision=bf16

Figures are printed as JSON lines and appended to `metric-NAME.jsonl` in
`--outdir`, or in the run folder.
"""

import json
import pathlib

import jax
from absl import flags

from sg3jax import model as model_lib
from sg3jax.cli import common
from sg3jax.data import report, sources
from sg3jax.eval import evaluators
from sg3jax.train import memory_estimate, sharding
from sg3jax.types import Snapshot

flags.declare_key_flag('network')
flags.declare_key_flag('outdir')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('devices')
flags.declare_key_flag('precision')
flags.declare_key_flag('batch')
_METRICS = flags.DEFINE_list(
  'metrics', ['eqt', 'eqt_frac', 'eqr'], ', '.join(evaluators.METRICS)
)
_DATA = flags.DEFINE_string(
  'data', None, 'Real images, for metrics and models that need them.'
)
_SAMPLES = flags.DEFINE_integer(
  'samples', 50_000, 'How many images to draw.', lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of latents and transforms.')


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and measures."""
  common.run(_evaluate, argv)


def _evaluate() -> None:
  network = common.require(common.NETWORK)
  outdir = pathlib.Path(common.OUTDIR.value or _run_folder(network))
  mesh = sharding.make_mesh(common.DEVICES.value)
  model = model_lib.load_model(network, common.PRECISION.value)
  source = None
  if _DATA.value:
    source = sources.open_source(
      _DATA.value,
      resolution=model.resolution,
      use_labels=model.label_dim > 0,
    )
    for note in sources.notes(source):
      common.say(f'{"Data note:":15} {note}')
    _check_classes(sources.class_names(source), model.class_names)
  measurements = evaluators.Measurements(
    source,
    metrics=_METRICS.value,
    num_samples=_SAMPLES.value,
    seed=_SEED.value,
    mesh=mesh,
    takes_transforms=model.generator.spec.takes_transforms,
  )
  snapshot = Snapshot(
    workdir=outdir,
    kimg=model.kimg,
    is_last=True,
    generator=model.generator,
    variables=model.variables,
  )
  with jax.set_mesh(mesh):
    painter = evaluators.Painter(
      model.generator,
      mesh,
      batch_size=common.BATCH.value,
      memory=memory_estimate.device_memory(mesh),
      log=common.say,
    )
    figures = measurements(painter, snapshot)
  about = {'kimg': model.kimg, 'precision': model.precision}
  print(json.dumps(figures | about))


def _check_classes(
  data: tuple[str, ...] | None, model: tuple[str, ...] | None
) -> None:
  """Raises a ValueError if data and model number their classes differently."""
  if data and model and data != model:
    raise ValueError(
      'the classes of --data must be those of the network, got '
      f'{report.examples(data)} for {report.examples(model)}: name the folders '
      'alike, or give class numbers in dataset.json'
    )


def _run_folder(network: str) -> pathlib.Path:
  """Returns the run that a network, possibly one of its checkpoints, is of."""
  path = pathlib.Path(network)
  return path.parent.parent if path.parent.name == 'checkpoints' else path
