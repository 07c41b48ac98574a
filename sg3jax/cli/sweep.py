r"""Analyses or trains many variants of a model on Ray.

    sg3jax sweep --file=configs/sweeps/paper_parameters.toml --outdir=sweeps/p
    sg3jax sweep --file=mine.toml --outdir=/shared/mine --mode=train \
      --address=auto --gpus_per_point=1

The file names a configuration and the fields that vary (docs/sweeps.md). The
same command resumes a sweep: finished points are skipped, and interrupted
trainings continue. Results, a table and plots are written to OUTDIR/MODE.

Ctrl-C stops analyses at once, and trainings after their current step, which is
saved; the exit status is 75. Points run on the CPU unless --gpus_per_point or
--resources_per_point is given.
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
  'Whether to train points or only to analyse them.',
)
_METRICS = flags.DEFINE_list(
  'sweep_metrics',
  list(analysis.default_metrics()),
  'The metrics that an analysis measures, or none. Trainings measure the '
  'metrics in log.metrics.',
)
_SAMPLES = flags.DEFINE_integer(
  'sweep_samples',
  analysis.SAMPLES,
  'Number of images per metric of an analysis.',
  lower_bound=1,
)
_ADDRESS = flags.DEFINE_string(
  'address',
  'local',
  'Address of a Ray cluster; auto for the cluster that runs on this machine, '
  'local to start a new one.',
)
_CPUS = flags.DEFINE_float(
  'cpus_per_point', 1.0, 'Number of CPUs per point.', lower_bound=0.0
)
_GPUS = flags.DEFINE_float(
  'gpus_per_point', 0.0, 'Number of GPUs per point.', lower_bound=0.0
)
_RESOURCES = flags.DEFINE_list(
  'resources_per_point', [], 'Other Ray resources per point: TPU=4,...'
)
_RETRIES = flags.DEFINE_integer(
  'max_retries',
  3,
  'Maximum number of restarts of a point whose process dies.',
  lower_bound=0,
)
_ONLY = flags.DEFINE_list(
  'only',
  [],
  'Run only these points, including failed ones; names or patterns with *.',
)
_RETRY_FAILED = flags.DEFINE_bool(
  'retry_failed', False, 'Run failed points again.'
)
_RERUN = flags.DEFINE_bool(
  'rerun', False, 'Run finished points again; earlier results are kept.'
)
_RERUN_CHANGED = flags.DEFINE_bool(
  'rerun_changed', False, 'Run points again whose configuration has changed.'
)
_SKIP_INVALID = flags.DEFINE_bool(
  'skip_invalid', False, 'Skip invalid points and run the others.'
)
_LIST = flags.DEFINE_bool(
  'list', False, 'Run nothing; write and print the current table.'
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
    runner.import_ray()  # Fail before reading anything.
  metrics = list(analysis.parse_metrics(_METRICS.value))
  # This process computes nothing: leave the accelerators to the points.
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
  meaning = 'no further point starts, and trainings finish their step and save'
  with preemption.stop_on_signals(meaning) as stop:
    try:
      if todo:
        work.run(todo, resources, stop)
    finally:
      counts = _report(work)
  if stop.obeyed:
    less = ' without --rerun' if _RERUN.value else ''
    print(f'Stopped: run the same command again{less} to resume')
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
        f'--resources_per_point must be NAME=AMOUNT,..., got {text}'
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
      + '\nCorrect the file, or skip these points with --skip_invalid'
    )


def _report(work: driver.Driver) -> Counter:
  """Writes and prints the table; returns the number of points per status."""
  rows = work.rows()
  # Logging options do not distinguish points.
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
    print(f'{len(others)} result(s) of points that are not in the file')
  print(
    f'Written: {", ".join(path.name for path in paths)} in {work.store.folder}'
  )
  return counts
