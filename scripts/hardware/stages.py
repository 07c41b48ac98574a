"""Runs stages of tasks within a time budget, and writes each result at once.

Every stage runs in processes of its own: a kernel that faults spoils the device
for its process, and Python compiles kernels one at a time in each. A stage that
is not timed shares its tasks among several. For one that is, several compile
its programs into a cache, and a single one then runs them. A process that dies
is replaced by another, which goes on behind the task at which it died.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import queue
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from sg3jax import files
from sg3jax import text as text_lib

Row = dict[str, Any]
Measure = Callable[[], Mapping[str, Any]]

# What a worker prints in front of the columns of a task that it begins, and of
# a row.
_TASK, _ROW = 'task: ', 'row: '

# Workers that compile what is timed. Compilers for GPUs try out forms of
# products on the device, and would disturb each other.
_COMPILERS = 4

# For workers that are not timed: no trying out, which takes most of the time.
_UNTUNED = '--xla_gpu_autotune_level=0'

# Status of a worker whose last row says why it has given up.
_SPOILED = 75


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
    grace_seconds: Time that it has beyond the deadline, to end by itself.
  """

  name: str
  title: str
  make_tasks: Callable[[], Sequence[Task]]
  is_timed: bool = False
  summarize: Callable[[Sequence[Row]], Sequence[str]] = lambda rows: ()
  grace_seconds: float = 0.0


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
    files.write_text(self._path, text + '\n')
    files.write_text(self._folder / 'results.md', self._markdown())

  def _markdown(self) -> str:
    parts = [f'# {self._session["date"]}, `{self._session["command"]}`']
    for stage in self._begun:
      rows = self.rows(stage.name)
      parts.append(f'## {stage.title}')
      if error := self._session['stages'][stage.name].get('error'):
        parts.append(f'The stage failed: {error}')
      if rows:
        shown = [{k: v for k, v in r.items() if k != 'traceback'} for r in rows]
        parts.append(text_lib.markdown(shown))
        parts.extend(stage.summarize([r for r in rows if not is_failure(r)]))
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
    command: Starts a worker, see `work`, when `--worker=...` is appended.
    seconds: The budget.
    processes: Workers at the same time.
  """
  deadline = time.monotonic() + seconds
  failures = 0
  for stage in stages:
    print(f'-- {stage.title}', flush=True)
    results.begin(stage)
    end = deadline + stage.grace_seconds
    try:
      if stage.is_timed and processes > 1:
        # What cannot be compiled here is reported when it is to run.
        compilers = min(processes, _COMPILERS)
        for _ in _work_apart(command, stage, compilers, 'compile', end):
          pass
      parts = 1 if stage.is_timed else processes
      for row in _work_apart(command, stage, parts, 'run', end):
        results.add(stage, row)
        print(_line(row), flush=True)
        failures += is_failure(row)
      if not results.rows(stage.name):
        raise LookupError('no task is in it: is --only right?')
    except (TimeoutError, LookupError) as error:
      results.fail(stage, str(error))
      print(error, flush=True)
      failures += 1
  return failures


def is_failure(row: Row) -> bool:
  """Returns whether a row says that something is wrong."""
  return 'error' in row or row.get('ok') is False


class _Worker:
  """A part of a stage in a process of its own, again if that process dies."""

  def __init__(
    self,
    command: Sequence[str],
    which: str,
    *,
    is_alone: bool,
    is_tuned: bool,
  ):
    self._command, self._which = command, which
    self._environment = dict(os.environ)
    if not is_alone:  # None may take the memory of all.
      self._environment['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
    if not is_tuned:
      flags = self._environment.get('XLA_FLAGS', '')
      self._environment['XLA_FLAGS'] = f'{flags} {_UNTUNED}'
    self._done = 0  # Tasks that have a row.
    self._current: Row | None = None  # What is being done.
    self._process: subprocess.Popen[str] | None = None

  def rows(self) -> Iterator[Row]:
    """Yields the rows as they are printed; prints whatever else is."""
    while True:
      self._process = process = subprocess.Popen(
        [*self._command, f'--worker={self._which}:{self._done}'],
        stdout=subprocess.PIPE,
        env=self._environment,
        text=True,
        start_new_session=True,
      )
      assert process.stdout is not None
      self._current = None
      for line in process.stdout:
        if line.startswith(_TASK):
          self._current = json.loads(line.removeprefix(_TASK))
        elif line.startswith(_ROW):
          self._done, self._current = self._done + 1, None
          yield json.loads(line.removeprefix(_ROW))
        else:
          print(line, end='', flush=True)
      status = process.wait()
      if not status:
        return
      if status != _SPOILED:
        # Without a task it died before the first or after the last.
        yield {
          **(self._current or {'what': 'worker'}),
          'error': f'the process ended with status {status}',
        }
        if self._current is None:
          return
        self._done += 1

  def kill(self) -> None:
    """Ends the process, and those that it has started."""
    if self._process is not None:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)
      self._process.wait()


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
  """
  if time.monotonic() >= deadline:
    raise TimeoutError('the time was up before it began')
  workers = [
    _Worker(
      command,
      f'{stage.name}:{part}/{parts}:{mode}',
      is_alone=parts == 1,
      is_tuned=stage.is_timed,
    )
    for part in range(parts)
  ]
  rows: queue.Queue[Row | None] = queue.Queue()

  def follow(worker: _Worker) -> None:
    for row in worker.rows():
      rows.put(row)
    rows.put(None)

  for worker in workers:
    threading.Thread(target=follow, args=(worker,), daemon=True).start()
  try:
    alive = len(workers)
    while alive:
      row = rows.get(timeout=max(deadline - time.monotonic(), 0))
      if row is None:
        alive -= 1
      else:
        yield row
  except queue.Empty:
    raise TimeoutError('the time was up') from None
  finally:
    for worker in workers:
      worker.kill()


def work(stages: Sequence[Stage], which: str, only: str) -> None:
  """Does a worker's part of a stage, and prints its rows.

  Args:
    stages: All of them.
    which: `STAGE:PART/PARTS:MODE:DONE`, the mode being `run`, or `compile` for
      no more than that; so many of the part's tasks are done already.
    only: Tasks whose name lacks this are left out.
  """
  name, share, mode, done = which.split(':')
  part, parts = map(int, share.split('/'))
  stage = next(stage for stage in stages if stage.name == name)
  try:
    tasks = [task for task in stage.make_tasks() if only in task.name]
  except Exception as error:
    if not part:
      _print(_ROW, {'what': 'tasks', **_describe(error)})
    return
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    upcoming = iter(tasks[part::parts][int(done) :])
    task = next(upcoming, None)
    following: concurrent.futures.Future[Measure] | None = None
    while task is not None:
      _print(_TASK, task.columns)
      prepare = following.result if following else task.prepare
      task, columns, following = next(upcoming, None), task.columns, None
      try:
        measure = prepare()
        # The next one is compiled meanwhile, except beside what is timed.
        if task is not None and not stage.is_timed:
          following = pool.submit(task.prepare)
        values = measure() if mode == 'run' else {}
      except Exception as error:
        values = _describe(error)
        _print(_ROW, {**columns, **values})
        if isinstance(error, jax.errors.JaxRuntimeError):
          # A device that has faulted fails whatever this process does next.
          os._exit(_SPOILED)
        continue
      _print(_ROW, {**columns, **values})


def _print(mark: str, row: Mapping[str, Any]) -> None:
  # JSON has no NaN: what is not finite is null.
  finite = {
    key: None if isinstance(x, float) and not math.isfinite(x) else x
    for key, x in row.items()
  }
  print(mark + json.dumps(finite), flush=True)


def _describe(error: BaseException) -> Row:
  first, *_ = (str(error) or 'no message').splitlines()
  return {
    'error': f'{type(error).__name__}: {first}',
    'traceback': ''.join(traceback.format_exception(error)),
  }


def _line(row: Row) -> str:
  cells = ((k, v) for k, v in row.items() if k != 'traceback')
  return '  '.join(f'{k} {text_lib.cell(v)}' for k, v in cells)
