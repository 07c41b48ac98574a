r"""Writes a report on trained models: one HTML file, with pictures beside it.

    sg3jax report runs/quickstart --data=embedded --output=report.html
    sg3jax report runs/t256 runs/r256 --data=images.zip --output=compare.html
    sg3jax report runs/animals --class=cat --output=cats.html --overwrite

The report has average spectra, texture sticking, internal representations,
equivariance errors, aliasing by layer, truncation, nearest real images and the
metrics that were measured before. Several models are side by side. The page
needs no network access; the pictures are also in the folder `report_files`.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags
from jaxtyping import Float

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.cli import common, evaluate, image_flags
from sg3jax.report import base, features, reals, subjects, writer
from sg3jax.train import memory_estimate, sharding

flags.declare_key_flag('output')
flags.declare_key_flag('overwrite')
flags.declare_key_flag('data')
flags.declare_key_flag('class')
flags.declare_key_flag('label')
flags.declare_key_flag('seed')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('devices')
flags.declare_key_flag('precision')
flags.declare_key_flag('batch')
flags.declare_key_flag('weights_dir')
_IMAGES = flags.DEFINE_integer(
  'images', 1000, 'Number of images of each spectrum.', lower_bound=1
)
_SEARCH = flags.DEFINE_integer(
  'search',
  10_000,
  'Maximum number of real images that are searched for the nearest ones.',
  lower_bound=1,
)


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and writes the report."""
  common.run(_report, argv, arguments=1, name='MODEL', optional=None)


def _report(*paths: str) -> None:
  output = writer.check_output(
    common.require(common.OUTPUT), overwrite=image_flags.OVERWRITE.value
  )
  folders = [files.local_path(path) for path in paths]
  subjects.make_names(folders)  # Raises if a model is given twice.
  mesh = sharding.make_mesh(common.DEVICES.value)
  models = [
    model_lib.load_model(folder, common.PRECISION.value) for folder in folders
  ]
  labels = _labels(models)
  context = base.Context(
    subjects=subjects.make_subjects(
      folders,
      models,
      labels,
      mesh=mesh,
      batch_size=common.BATCH.value,
      memory=memory_estimate.device_memory(mesh),
      log=common.say,
    ),
    reals=_open_reals(models, labels),
    seed=evaluate.SEED.value,
    samples=_IMAGES.value,
    searched=_SEARCH.value,
    features=features.choose(common.WEIGHTS_DIR.value),
  )
  found = writer.analyse(context, log=common.say)
  writer.write(output, context, found)
  print(output.page)


def _labels(
  models: Sequence[model_lib.Model],
) -> list[Float[np.ndarray, ' classes'] | None]:
  """Returns the label of the images of each model, None if it takes none.

  Raises:
    ValueError: If a label is missing or out of range, or no model takes one.
  """
  is_any = any(model.label_dim for model in models)
  return [
    image_flags.make_label(
      image_flags.CLASS.value,
      image_flags.LABEL.value,
      model.label_dim,
      model.class_names,
    )
    if model.label_dim or not is_any
    else None
    for model in models
  ]


def _open_reals(
  models: Sequence[model_lib.Model],
  labels: Sequence[Float[np.ndarray, ' classes'] | None],
) -> reals.Reals | None:
  """Opens the real images of `--data`; returns None without it."""
  if not evaluate.DATA.value:
    return None
  # The classes must be those of the models that have some.
  pairs = sorted(
    zip(models, labels, strict=True), key=lambda pair: pair[1] is None
  )
  model, label = pairs[0]
  return reals.prepare(
    evaluate.open_data(model),
    evaluate.SEED.value,
    channels=model.img_channels,
    label=label,
  )
