"""Selects the points of a sweep to run, runs them and records each result."""

import datetime
import fnmatch
import functools
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sg3jax import launch, text, version
from sg3jax.eval.metrics import base
from sg3jax.sweeps import analysis, points, runner, store, training
from sg3jax.train import preemption
from sg3jax.train.config import compare

MODES = ('analyse', 'train')


class Driver:
  """One sweep in one folder.

  The status of a point is `unfinished` when it is handed to Ray, then `done` or
  `failed`. Points that are done are not run again. Points left unfinished by an
  earlier driver are run again, and their trainings resume.

  Args:
    sweep: The points.
    folder: Their records.
    mode: A member of `MODES`.
    options: Keyword arguments of `analysis.analyse`; part of the records.
  """

  def __init__(
    self,
    sweep: points.Sweep,
    folder: store.Store,
    *,
    mode: str,
    options: Mapping[str, Any],
  ):
    self.sweep = sweep
    self.store = folder
    self._mode = mode
    self._options = dict(options) if mode == 'analyse' else {}

  def select(
    self,
    *,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    rerun: bool = False,
    rerun_changed: bool = False,
  ) -> list[points.Point]:
    """Returns the points to run, and sets aside older results of these points.

    Args:
      only: Names, or patterns with * and ?. If given, only these points are
        selected, including those that have failed.
      retry_failed: Whether to run points that have failed.
      rerun: Whether to also run points that are done.
      rerun_changed: Whether to run points again whose configuration has
        changed.

    Raises:
      ValueError: If a name is unknown; or if the configuration of a point
        differs from its record and the point is not to be run again.
    """
    chosen = self._matching(only)
    todo, again, changed = [], [], {}
    for point in chosen:
      record = self.store.read(point.name)
      if record is None:
        todo.append(point)
        continue
      difference = self._difference(record, point)
      if difference and rerun_changed:
        todo.append(point)
        again.append((point, difference))
      elif rerun and not difference and record['status'] == 'unfinished':
        todo.append(point)  # An earlier --rerun has set its result aside.
      elif rerun:
        todo.append(point)
        again.append((point, difference))
      elif difference:
        changed[point.name] = difference
      elif record['status'] == 'unfinished' or (
        record['status'] == 'failed' and (retry_failed or only)
      ):
        todo.append(point)
    if changed:
      lines = [f'  {name}: {"; ".join(d)}' for name, d in changed.items()]
      raise ValueError(
        f'{len(changed)} point(s) in {self.store.folder} were computed with '
        'another configuration:\n' + '\n'.join(lines) + '\nRun them again with '
        '--rerun_changed (older results are kept under a number), or choose '
        'another --outdir'
      )
    for point, difference in again:
      self._set_aside(point, difference)
    return todo

  def run(
    self,
    todo: Sequence[points.Point],
    resources: runner.Resources,
    stop: preemption.Stop,
  ) -> None:
    """Runs points and records their results.

    Args:
      todo: The points.
      resources: See `runner.run`, which raises the same errors.
      stop: See `runner.run`.
    """
    jobs = [self._job(point) for point in todo]
    by_name = {point.name: point for point in todo}
    for point in todo:
      self._write(point, {'status': 'unfinished'})
    ended = 0

    def report(job: runner.Job, outcome: runner.Outcome) -> None:
      nonlocal ended
      if not outcome.error and outcome.value is None:
        return  # It was asked to stop and stays `unfinished`.
      ended += 1
      self._record(by_name[job.name], outcome)
      summary = outcome.error or _summary(outcome.value)
      verb = 'failed' if outcome.error else 'done'
      print(f'[{ended}/{len(jobs)}] {job.name}: {verb}: {summary}', flush=True)

    patient = self._mode == 'train'
    runner.run(jobs, resources, report, stop=stop, patient=patient)

  def rows(self) -> list[dict[str, Any]]:
    """Returns a table row for each point: name, fields, status and results."""
    rows = []
    for point in self.sweep.points:
      record = self._current(point)
      row: dict[str, Any] = {'point': point.name}
      for field, short in self.sweep.short_names.items():
        row[short] = points.get(point.config, field, point.values)
      row['status'] = record['status']
      row |= record.get('figures', {})
      row |= {name: record.get(name) for name in ('seconds', 'error')}
      rows.append(row)
    return rows

  def _current(self, point: points.Point) -> store.Record:
    """Returns a point's record if its configuration is still the file's."""
    if point.error:
      return {'status': 'invalid', 'error': point.error}
    record = self.store.read(point.name)
    if record is None:
      return {'status': 'not run'}
    # Values of another configuration do not belong to this point.
    changed = self._difference(record, point)
    return {'status': 'changed'} if changed else record

  def _matching(self, only: Sequence[str]) -> list[points.Point]:
    valid = [point for point in self.sweep.points if not point.error]
    if not only:
      return valid
    chosen = set()
    for pattern in only:
      found = {p.name for p in valid if fnmatch.fnmatchcase(p.name, pattern)}
      if not found:
        names = ', '.join(point.name for point in valid)
        raise ValueError(
          f'--only must match a point that can run, got {pattern}: use {names}'
        )
      chosen |= found
    return [point for point in valid if point.name in chosen]

  def _difference(
    self, record: Mapping[str, Any], point: points.Point
  ) -> list[str]:
    difference = compare.config_difference(
      record['config'] | {'options': record['options']},
      point.config.to_dict() | {'options': self._options},
    )
    added = compare.added_fields()
    return [line for line in difference if line not in added]

  def _set_aside(self, point: points.Point, difference: Sequence[str]) -> None:
    # A run can resume in its folder if only fields have changed that do not
    # affect the numerics of a step.
    goes_on = difference and all(
      line.startswith(compare.MAY_CHANGE) for line in difference
    )
    self.store.set_aside(point.name, with_run=not goes_on)

  def _job(self, point: points.Point) -> runner.Job:
    arguments: dict[str, Any] = {'config': point.config}
    if self._mode == 'train':
      function, names = training.train, launch.metric_names(point.config)
      arguments['workdir'] = str(self.store.run_folder(point.name))
    else:
      function = analysis.analyse
      names = analysis.parse_metrics(self._options.get('metrics'))
      arguments |= self._options
    metrics = [base.registry()[name] for name in names]
    call = functools.partial(_call_with, metrics, function)
    return runner.Job(point.name, call, arguments)

  def _record(self, point: points.Point, outcome: runner.Outcome) -> None:
    result: dict[str, Any] = {
      'status': 'failed' if outcome.error else 'done',
      'figures': {
        name: None if value is None or not math.isfinite(value) else value
        for name, value in (outcome.value or {}).items()
      },
      'error': outcome.error or None,
      'seconds': outcome.seconds and round(outcome.seconds, 3),
      'host': outcome.host,
      'device': outcome.device,
    }
    self._write(point, result, outcome.traceback)

  def _write(
    self, point: points.Point, result: Mapping[str, Any], traceback: str = ''
  ) -> None:
    record = {
      'point': point.name,
      **result,
      'values': dict(point.values),
      'options': self._options,
      'time': datetime.datetime.now(datetime.UTC).isoformat(),
      'versions': {
        **version.versions(('sg3jax', 'jax')),
        'python': platform.python_version(),
      },
      'config': point.config.to_dict(),
    }
    record = json.loads(json.dumps(record))  # Tuples become lists.
    self.store.write(point.name, record, traceback)


def _call_with(
  metrics: Sequence[base.Metric],
  function: Callable[..., analysis.Values | None],
  /,  # An argument of the function is called `metrics`, too.
  **arguments: Any,
) -> analysis.Values | None:
  """Calls a function in a worker, which then knows these metrics.

  A worker does not execute the configuration file, which may register metrics.
  Functions of such a file are pickled with their code, because it is no module
  that a worker could import.
  """
  base.restore(metrics)
  return function(**arguments)


def _summary(values: Mapping[str, Any]) -> str:
  return ', '.join(
    f'{name} {text.cell(value)}'
    for name, value in values.items()
    if value is not None
  )
