r"""Analyses or trains many variants of a model, on Ray.

    sg3jax sweep --file=configs/sweeps/paper_parameters.toml --outdir=sweeps/p
    sg3jax sweep --file=mine.toml --outdir=/shared/mine --mode=train \
      --address=auto --gpus_per_point=1

The file names a configuration and what varies (docs/sweeps.md). Points that are
done are not run again, trainings that were interrupted go on: run the same
command again. Results, with a table and plots, lie in OUTDIR/MODE.

Ctrl-C stops: analyses at once, trainings after their step, saved; status 75.
Points run on the CPU unless --gpus_per_point or --resources_per_point is given.
"""

import pathlib
import sys
from collections import Counter

import jax
from absl import flags

from sg3jax import text as text_lib
from sg3jax.cli import common
from sg3jax.sweeps import (
  analysis,
  driver,
  points,
  report,
  runner,
  store,
  training,
)
from sg3jax.train import preemption

flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('outdir')
_FILE = flags.DEFINE(common.PATH, 'file', None, 'The sweep file.')
_MODE = flags.DEFINE_enum(
  'mode',
  'analyse',
  driver.MODES,
  'Whether points are trained, or only analysed.',
)
_METRICS = flags.DEFINE_list(
  'sweep_metrics',
  list(analysis.metric_names()),
  'The metrics that an analysis measures, or none. Trainings measure '
  'log.metrics of their configuration.',
)
_SAMPLES = flags.DEFINE_integer(
  'sweep_samples',
  analysis.SAMPLES,
  'How many images a metric of an analysis measures.',
  lower_bound=1,
)
_ADDRESS = flags.DEFINE_string(
  'address',
  'local',
  'Address of a Ray cluster; auto for the one that runs on this machine, local '
  'for one of its own.',
)
_CPUS = flags.DEFINE_float(
  'cpus_per_point', 1.0, 'Number of CPUs that a point takes.', lower_bound=0.0
)
_GPUS = flags.DEFINE_float(
  'gpus_per_point', 0.0, 'Number of GPUs that a point takes.', lower_bound=0.0
)
_RESOURCES = flags.DEFINE_list(
  'resources_per_point', [], 'Other resources that a point takes: TPU=4,...'
)
_RETRIES = flags.DEFINE_integer(
  'max_retries',
  3,
  'How often a point is started again whose process dies.',
  lower_bound=0,
)
_ONLY = flags.DEFINE_list(
  'only',
  [],
  'Run these points alone, by name or by patterns with *; failed ones too.',
)
_RETRY_FAILED = flags.DEFINE_bool(
  'retry_failed', False, 'Also run points that have failed.'
)
_RERUN = flags.DEFINE_bool(
  'rerun', False, 'Also run points that are done; older results stay.'
)
_RERUN_CHANGED = flags.DEFINE_bool(
  'rerun_changed', False, 'Also run points whose configuration has changed.'
)
_SKIP_INVALID = flags.DEFINE_bool(
  'skip_invalid', False, 'Run the others if some points are impossible.'
)
_LIST = flags.DEFINE_bool(
  'list', False, 'Run nothing; write and print the table as it is.'
)


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and runs the sweep."""
  common.run(_sweep, argv)


def _sweep() -> None:
  path, outdir = common.require(_FILE), common.require(common.OUTDIR)
  resources = runner.Resources(
    address=_ADDRESS.value,
    cpus=_CPUS.value,
    gpus=_GPUS.value,
    custom=_parse_resources(_RESOURCES.value),
    max_retries=_RETRIES.value,
  )
  if not _LIST.value:
    runner.import_ray()  # Before anything is read.
  metrics = list(analysis.parse_metrics(_METRICS.value))
  # Here nothing is computed: the accelerators are for the points.
  jax.config.update('jax_platforms', 'cpu')
  trains = _MODE.value == 'train'
  check = training.make_check() if trains else analysis.check
  sweep = points.read(path, check)
  _refuse_invalid(sweep)
  folder = store.Store(pathlib.Path(outdir) / _MODE.value)
  options = {'metrics': metrics, 'samples': _SAMPLES.value}
  work = driver.Driver(sweep, folder, mode=_MODE.value, options=options)
  if _LIST.value:
    _report(work)
    return
  folder.lock()
  todo = work.select(
    only=_ONLY.value,
    retry_failed=_RETRY_FAILED.value,
    rerun=_RERUN.value,
    rerun_changed=_RERUN_CHANGED.value,
  )
  print(f'{len(sweep.points)} points, {len(todo)} to run', flush=True)
  meaning = 'no further point begins, trainings finish their step and save'
  with preemption.stop_on_signals(meaning) as stop:
    try:
      if todo:
        work.run(todo, resources, stop)
    finally:
      counts = _report(work)
  if stop.obeyed:
    less = ' without --rerun' if _RERUN.value else ''
    print(f'Stopped: run the same command again{less} to go on')
    sys.exit(preemption.EXIT_CODE)
  if counts['failed']:
    sys.exit(
      f'error: {counts["failed"]} point(s) failed: see {folder.folder}/errors; '
      '--retry_failed runs them again'
    )


def _parse_resources(texts: list[str]) -> dict[str, float]:
  amounts = {}
  for text in texts:
    name, _, amount = text.partition('=')
    try:
      amounts[name] = float(amount)
    except ValueError as error:
      raise ValueError(
        f'--resources_per_point={text} is not understood: use NAME=AMOUNT,...'
      ) from error
  return amounts


def _refuse_invalid(sweep: points.Sweep) -> None:
  invalid = sweep.invalid()
  if len(invalid) == len(sweep.points) or (invalid and not _SKIP_INVALID.value):
    reasons: dict[str, list[str]] = {}
    for point in invalid:
      reasons.setdefault(point.error, []).append(point.name)
    lines = [f'  {", ".join(names)}: {why}' for why, names in reasons.items()]
    raise ValueError(
      f'{len(invalid)} of {len(sweep.points)} points cannot run:\n'
      + '\n'.join(lines)
      + '\nCorrect the file, or leave them out with --skip_invalid'
    )


def _report(work: driver.Driver) -> Counter:
  """Writes and prints what there is; returns how many points of each status."""
  rows = work.rows()
  # The logging of a point is no property of it.
  fields = [
    short
    for field, short in work.sweep.short_names.items()
    if not field.startswith('log.')
  ]
  paths = report.write(rows, fields, work.store)
  print(text_lib.markdown(rows))
  counts = Counter(row['status'] for row in rows)
  print(', '.join(f'{n} {status}' for status, n in counts.items()))
  others = work.store.names() - {point.name for point in work.sweep.points}
  if others:
    print(f'{len(others)} result(s) of points that the file does not have')
  print(
    f'Written: {", ".join(path.name for path in paths)} in {work.store.folder}'
  )
  return counts
