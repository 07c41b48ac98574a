"""Runs stages of tasks within a time budget, and writes each result at once.

Every stage runs in separate processes: a kernel that faults makes the device
unusable for its process, and each process compiles only one kernel at a time.
The tasks of an untimed stage are distributed over several processes. For a
timed stage, several processes compile some of the programs into a cache, then a
single process runs them, and so on until all have run. If a process dies, a new
one continues after the task at which it died.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
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

# Prefixes of the lines in which a worker prints the columns of a task that it
# starts, and the row of a task that has ended.
_TASK, _ROW = 'task: ', 'row: '

# Number of workers that compile a timed stage. XLA's autotuning for GPUs times
# kernels on the device, so more workers would disturb each other.
_COMPILERS = 4

# Number of tasks of a timed stage that are compiled before they are run. If the
# time is up while the stage compiles, it has the rows of the rounds before.
_ROUND = 48

# Disables autotuning, which takes most of the time, in untimed workers.
_UNTUNED = '--xla_gpu_autotune_level=0'

# Exit status of a worker whose last row reports why it gave up.
_SPOILED = 75


@dataclasses.dataclass(frozen=True)
class Task:
  """One row of a stage's table.

  Attributes:
    columns: Cells that identify the row: layer, direction and so on.
    prepare: Compiles the task, and returns a function that runs it on the
      device and returns the row's values. The task has failed if they contain
      `error`, or if `ok` is false.
  """

  columns: Mapping[str, Any]
  prepare: Callable[[], Measure]

  @property
  def name(self) -> str:
    """The columns as a single text, such as `t-256 L8 forward`."""
    return ' '.join(map(str, self.columns.values()))


@dataclasses.dataclass(frozen=True)
class Stage:
  """A set of tasks, with a table of results.

  Attributes:
    name: Name of the stage in `--stages`.
    title: Heading of the table.
    make_tasks: Returns the tasks, the most important first.
    is_timed: Whether tasks must run alone.
    summarize: Returns lines to print below the table.
    grace_seconds: Time beyond the deadline for the stage to end by itself.
  """

  name: str
  title: str
  make_tasks: Callable[[], Sequence[Task]]
  is_timed: bool = False
  summarize: Callable[[Sequence[Row]], Sequence[str]] = lambda rows: ()
  grace_seconds: float = 0.0


class Results:
  """The results of all sessions in a folder: `results.json`, `results.md`.

  Both files are rewritten atomically at each row. A session is one run of the
  script; earlier sessions in the folder are kept.
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
    """Records that a stage has started."""
    self._begun.append(stage)
    self._session['stages'][stage.name] = {'rows': []}
    self._write()

  def fail(self, stage: Stage, error: str) -> None:
    """Records that a stage has failed."""
    self._session['stages'][stage.name]['error'] = error
    self._write()

  def add(self, stage: Stage, row: Row) -> None:
    """Records a row of a stage."""
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
  """Runs stages in turn until the time is up.

  Args:
    stages: The stages in order of importance.
    results: Receives the rows.
    command: Command that starts a worker, see `work`, when `--worker=...` is
      appended.
    seconds: Time budget in seconds.
    processes: Number of concurrent workers.

  Returns:
    The number of failures of rows and stages.
  """
  deadline = time.monotonic() + seconds
  failures = 0
  for stage in stages:
    print(f'-- {stage.title}', flush=True)
    results.begin(stage)
    end = deadline + stage.grace_seconds
    try:
      for row in _rows(command, stage, processes, end):
        results.add(stage, row)
        print(_line(row), flush=True)
        failures += is_failure(row)
      if not results.rows(stage.name):
        raise LookupError('the stage must have tasks, got none: check --only')
    except (TimeoutError, LookupError) as error:
      results.fail(stage, str(error))
      print(error, flush=True)
      failures += 1
  return failures


def _rows(
  command: Sequence[str], stage: Stage, processes: int, deadline: float
) -> Iterator[Row]:
  """Yields the rows of a stage.

  Raises:
    TimeoutError: If the deadline is reached.
  """
  work_apart = functools.partial(_work_apart, command, stage, deadline)
  if not stage.is_timed:
    yield from work_apart(processes, 'run', 0)
    return
  for first in itertools.count(step=_ROUND):
    if processes > 1:
      # Ignore failures to compile here: the run reports them.
      for _ in work_apart(min(processes, _COMPILERS), 'compile', first):
        pass
    number = 0
    for row in work_apart(1, 'run', first):
      yield row
      number += 1
    if number < _ROUND:
      return


def is_failure(row: Row) -> bool:
  """Returns whether a row reports a failure."""
  return 'error' in row or row.get('ok') is False


class Worker:
  """Runs a part of a stage in a process, which is restarted if it dies.

  Attributes:
    task: The columns of the task that runs; None before the first.
  """

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
    if not is_alone:  # Workers share the memory of the device.
      self._environment['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
    if not is_tuned:
      flags = self._environment.get('XLA_FLAGS', '')
      self._environment['XLA_FLAGS'] = f'{flags} {_UNTUNED}'
    self._done = 0  # Number of tasks that have a row.
    self.task: Row | None = None
    self._process: subprocess.Popen[str] | None = None
    self._is_killed = False
    self._starting = threading.Lock()

  def rows(self) -> Iterator[Row]:
    """Yields the rows that the process prints; passes on its other output."""
    while True:
      with self._starting:
        if self._is_killed:
          return
        self._process = process = subprocess.Popen(
          [*self._command, f'--worker={self._which}:{self._done}'],
          stdout=subprocess.PIPE,
          env=self._environment,
          text=True,
          start_new_session=True,
        )
      assert process.stdout is not None
      self.task = None
      for line in process.stdout:
        if line.startswith(_TASK):
          self.task = json.loads(line.removeprefix(_TASK))
        elif line.startswith(_ROW):
          self._done, self.task = self._done + 1, None
          yield json.loads(line.removeprefix(_ROW))
        else:
          print(line, end='', flush=True)
      status = process.wait()
      if not status or self._is_killed:
        return
      if status != _SPOILED:
        # Without a current task, it died before the first or after the last.
        yield {
          **(self.task or {'what': 'worker'}),
          'error': f'the process ended with status {status}',
        }
        if self.task is None:
          return
        self._done += 1

  def kill(self) -> None:
    """Kills the process and its children; `rows` starts no other."""
    with self._starting:
      self._is_killed = True
    if self._process is not None:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)
      self._process.wait()


def _work_apart(
  command: Sequence[str],
  stage: Stage,
  deadline: float,
  parts: int,
  mode: str,
  first: int,
) -> Iterator[Row]:
  """Yields the rows of a stage from a task on, as its workers print them.

  Raises:
    TimeoutError: If the deadline is reached.
  """
  if time.monotonic() >= deadline:
    raise TimeoutError('the time was up before the stage started')
  workers = [
    Worker(
      command,
      f'{stage.name}:{part}/{parts}:{mode}:{first}',
      is_alone=parts == 1,
      is_tuned=stage.is_timed,
    )
    for part in range(parts)
  ]
  rows: queue.Queue[Row | None] = queue.Queue()

  def follow(worker: Worker) -> None:
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
  """Runs a worker's part of a stage, and prints its rows.

  Args:
    stages: All stages.
    which: `STAGE:PART/PARTS:MODE:FIRST:DONE`. MODE is `run`, or `compile` to
      compile only; FIRST is the first task, and of a timed stage `_ROUND` tasks
      are run from there; DONE is the number of the part's tasks to skip.
    only: Text that the names of tasks must contain.
  """
  name, share, mode, first, done = which.split(':')
  part, parts = map(int, share.split('/'))
  stage = next(stage for stage in stages if stage.name == name)
  try:
    tasks = [task for task in stage.make_tasks() if only in task.name]
    if stage.is_timed:
      tasks = tasks[int(first) : int(first) + _ROUND]
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
      start = time.monotonic()
      try:
        measure = prepare()
        if stage.is_timed:  # Others are prepared while the last one runs.
          seconds = time.monotonic() - start
          print(f'compiled in {seconds:.0f} s', flush=True)
        # Compile the next task during this one, unless this one is timed.
        if task is not None and not stage.is_timed:
          following = pool.submit(task.prepare)
        values = measure() if mode == 'run' else {}
      except Exception as error:
        values = _describe(error)
        _print(_ROW, {**columns, **values})
        if isinstance(error, jax.errors.JaxRuntimeError):
          # After a fault, the device fails for the rest of this process.
          os._exit(_SPOILED)
        continue
      _print(_ROW, {**columns, **values})


def _print(mark: str, row: Mapping[str, Any]) -> None:
  # JSON cannot represent NaN and infinity: write null.
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
