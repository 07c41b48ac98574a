"""Runs stages of tasks within a time budget, and writes each result at once.

Every stage runs in processes of its own: a kernel that faults spoils the device
for its process, and Python compiles kernels one at a time in each. A stage that
is not timed shares its tasks among several. For one that is, several compile
its programs into a cache, and a single one then runs them.
"""

import concurrent.futures
import dataclasses
import json
import math
import os
import pathlib
import queue
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sg3jax import storage
from sg3jax.eval import tables

Row = dict[str, Any]
Measure = Callable[[], Mapping[str, Any]]

# What a worker prints in front of a row.
_MARK = 'row: '


@dataclasses.dataclass(frozen=True)
class Task:
  """One row of a stage's table.

  Attributes:
    columns: What tells the row from others: layer, direction and so on.
    prepare: Compiles; returns a function that runs on the device and returns
      the row's values. If they have `error`, or `ok` is false, it failed.
  """

  columns: Mapping[str, Any]
  prepare: Callable[[], Measure]

  @property
  def name(self) -> str:
    """The columns as one text, such as `t-256 L8 forward`."""
    return ' '.join(map(str, self.columns.values()))


@dataclasses.dataclass(frozen=True)
class Stage:
  """A table of results.

  Attributes:
    name: How `--stages` calls it.
    title: Heading of its table.
    make_tasks: Returns its tasks, the worthiest first.
    is_timed: Whether nothing else may run beside a task.
    summarize: Returns lines that follow the table.
  """

  name: str
  title: str
  make_tasks: Callable[[], Sequence[Task]]
  is_timed: bool = False
  summarize: Callable[[Sequence[Row]], Sequence[str]] = lambda rows: ()


class Results:
  """The results of all sessions in a folder: `results.json`, `results.md`.

  Both files are written anew, whole, at each row. A session is one run of the
  script; those that the folder has already are kept.
  """

  def __init__(self, folder: pathlib.Path, session: Mapping[str, Any]):
    self._folder = folder
    self._path = folder / 'results.json'
    self._sessions: list[dict[str, Any]] = []
    if self._path.exists():
      self._sessions = json.loads(self._path.read_text())['sessions']
    self._session = {**session, 'stages': {}}
    self._sessions.append(self._session)
    self._begun: list[Stage] = []

  def begin(self, stage: Stage) -> None:
    """Begins a stage."""
    self._begun.append(stage)
    self._session['stages'][stage.name] = {'rows': []}
    self._write()

  def fail(self, stage: Stage, error: str) -> None:
    """Records that a stage did not end as it should."""
    self._session['stages'][stage.name]['error'] = error
    self._write()

  def add(self, stage: Stage, row: Row) -> None:
    """Records a row."""
    self._session['stages'][stage.name]['rows'].append(row)
    self._write()

  def rows(self, stage: str) -> list[Row]:
    """Returns the rows of a stage in this session."""
    return self._session['stages'].get(stage, {}).get('rows', [])

  def _write(self) -> None:
    text = json.dumps({'sessions': self._sessions}, indent=1)
    storage.write_text(self._path, text + '\n')
    storage.write_text(self._folder / 'results.md', self._markdown())

  def _markdown(self) -> str:
    parts = [f'# {self._session["date"]}, `{self._session["command"]}`']
    for stage in self._begun:
      rows = self.rows(stage.name)
      parts.append(f'## {stage.title}')
      if error := self._session['stages'][stage.name].get('error'):
        parts.append(f'The stage failed: {error}')
      if rows:
        shown = [{k: v for k, v in r.items() if k != 'traceback'} for r in rows]
        parts.append(tables.markdown(shown))
        parts.extend(stage.summarize(rows))
    return '\n\n'.join(parts) + '\n'


def run(
  stages: Sequence[Stage],
  results: Results,
  command: Sequence[str],
  *,
  seconds: float,
  processes: int,
) -> int:
  """Runs stages in turn until the time is up; returns how many rows failed.

  Args:
    stages: In order of worth.
    results: Where rows go.
    command: Starts a worker, see `work`, when `--worker=STAGE:PART/PARTS:MODE`
      is appended.
    seconds: The budget.
    processes: Workers at the same time.
  """
  deadline = time.monotonic() + seconds
  failures = 0
  for stage in stages:
    print(f'-- {stage.title}', flush=True)
    results.begin(stage)
    try:
      if stage.is_timed and processes > 1:
        for _ in _work_apart(command, stage, processes, 'compile', deadline):
          pass
      parts = 1 if stage.is_timed else processes
      for row in _work_apart(command, stage, parts, 'run', deadline):
        results.add(stage, row)
        print(_line(row), flush=True)
        failures += 'error' in row or row.get('ok') is False
    except (TimeoutError, ChildProcessError) as error:
      results.fail(stage, str(error))
      print(error, flush=True)
      failures += 1
  return failures


def _work_apart(
  command: Sequence[str],
  stage: Stage,
  parts: int,
  mode: str,
  deadline: float,
) -> Iterator[Row]:
  """Yields the rows of a stage as its workers print them.

  Raises:
    TimeoutError: At the deadline.
    ChildProcessError: If a worker has ended before its time; the others have
      done what they had to.
  """
  environment = dict(os.environ)
  if parts > 1:  # None may take the memory of all.
    environment['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  workers = [
    subprocess.Popen(
      [*command, f'--worker={stage.name}:{part}/{parts}:{mode}'],
      stdout=subprocess.PIPE,
      env=environment,
      text=True,
    )
    for part in range(parts)
  ]
  lines: queue.Queue[str | None] = queue.Queue()

  def read(worker: subprocess.Popen[str]) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
      lines.put(line)
    lines.put(None)

  for worker in workers:
    threading.Thread(target=read, args=(worker,), daemon=True).start()
  try:
    alive = len(workers)
    while alive:
      line = lines.get(timeout=max(deadline - time.monotonic(), 0))
      if line is None:
        alive -= 1
      elif line.startswith(_MARK):
        yield json.loads(line.removeprefix(_MARK))
      else:
        print(line, end='', flush=True)
    if statuses := [s for worker in workers if (s := worker.wait())]:
      raise ChildProcessError(f'a worker ended with status {statuses[0]}')
  except queue.Empty:
    raise TimeoutError('the time was up') from None
  finally:
    for worker in workers:
      worker.kill()
      worker.wait()


def work(stages: Sequence[Stage], which: str, only: str) -> None:
  """Does a worker's part of a stage, and prints its rows.

  Args:
    stages: All of them.
    which: `STAGE:PART/PARTS:MODE`, the mode being `run`, or `compile` for no
      more than that.
    only: Tasks whose name lacks this are left out.
  """
  name, share, mode = which.split(':')
  part, parts = map(int, share.split('/'))
  stage = next(stage for stage in stages if stage.name == name)
  try:
    tasks = [task for task in stage.make_tasks() if only in task.name]
  except Exception as error:
    if not part:
      _print({'what': 'tasks', **_describe(error)})
    return
  # The next task is compiled while one runs, except where that is timed.
  ahead = 1 if stage.is_timed else 2
  with concurrent.futures.ThreadPoolExecutor(ahead) as pool:
    mine = tasks[part::parts]
    prepared = [] if stage.is_timed else [pool.submit(t.prepare) for t in mine]
    for i, task in enumerate(mine):
      try:
        measure = prepared[i].result() if prepared else task.prepare()
        values = measure() if mode == 'run' else {}
      except Exception as error:
        values = _describe(error)
      _print({**task.columns, **values})


def _print(row: Row) -> None:
  # JSON has no NaN: what is not finite is null.
  finite = {
    key: None if isinstance(x, float) and not math.isfinite(x) else x
    for key, x in row.items()
  }
  print(_MARK + json.dumps(finite), flush=True)


def _describe(error: BaseException) -> Row:
  first, *_ = (str(error) or 'no message').splitlines()
  return {
    'error': f'{type(error).__name__}: {first}',
    'traceback': ''.join(traceback.format_exception(error)),
  }


def _line(row: Row) -> str:
  cells = ((k, v) for k, v in row.items() if k != 'traceback')
  return '  '.join(f'{k} {tables.cell(v)}' for k, v in cells)
