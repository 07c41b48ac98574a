"""Compares the speed of two revisions of this repository on this machine.

  python scripts/compare_revisions.py --base=main --head=. --cases=train_step

This command times each case of `revision_cases.py`, in one process per
revision. The processes alternate and never run concurrently, so that other load
on the machine affects both equally. For each case, the table has the median
time of a call at both revisions; the median of the ratios base / head of
neighbouring runs, above 1 if head is faster, with its 95 % bootstrap interval;
and the ratio of the compilation times. `--head=.` is the working tree,
including uncommitted changes.

An interval that contains 1 shows no difference: try more --rounds. Comparing a
revision with itself (`--base=. --head=.`) shows the noise of the machine.
"""

import contextlib
import functools
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import app, flags

_BASE = flags.DEFINE_string(
  'base', 'HEAD', 'Revision to compare with; `.` is the working tree.'
)
_HEAD = flags.DEFINE_string(
  'head', '.', 'Revision to evaluate; `.` is the working tree.'
)
_CASES = flags.DEFINE_list(
  'cases',
  ['conv_kernel_gradient_t', 'r_nonlinearity', 'generator', 'train_step'],
  'Prefixes of the names of cases.',
)
_LIST = flags.DEFINE_bool(
  'list_cases', False, 'Print the names of cases, and exit.'
)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 10, 'Number of runs per revision.', lower_bound=2
)
_COMPILES = flags.DEFINE_integer(
  'compiles', 1, 'Number of compilations per revision.', lower_bound=1
)
_SECONDS = flags.DEFINE_float(
  'seconds', 0.3, 'Minimum duration of a run in seconds.', lower_bound=0.0
)

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_WORKER = pathlib.Path(__file__).with_name('revision_cases.py')
_HEADER = (
  'case', 'base ms', 'head ms', 'base/head', '95 % interval',
  'compile base s', 'compile base/head',
)  # fmt: skip
_RESAMPLES = 10_000


class Revision:
  """A revision with a process that times cases with its code.

  This is a context manager: its exit ends the process and deletes the files.

  Attributes:
    name: Name of the revision in the table.
  """

  def __init__(self, revision: str):
    """Starts the process.

    Args:
      revision: A revision that git knows, or `.` for the working tree.

    Raises:
      ValueError: If there is no such revision.
    """
    with contextlib.ExitStack() as stack:
      root = _ROOT
      self.name = 'the working tree'
      if revision != '.':
        folder = tempfile.TemporaryDirectory(prefix='sg3jax-revision-')
        root = pathlib.Path(stack.enter_context(folder))
        self.name = _extract(revision, root)
      self._process = _start_worker(root)
      stack.callback(self._process.communicate)  # Closes its pipes and waits.
      stack.callback(self._process.kill)
      package = pathlib.Path(self.ask('describe')['package'])
      if package != root.resolve() / 'sg3jax':
        raise ValueError(f'sg3jax must be that of {root}, got {package}')
      self._stack = stack.pop_all()

  def __enter__(self) -> 'Revision':
    return self

  def __exit__(self, *error) -> None:
    self._stack.close()

  def ask(self, method: str, *arguments: Any) -> Any:
    """Calls a method of `revision_cases.Worker`, and returns its result.

    Raises:
      RuntimeError: If the call fails at this revision.
    """
    stdin, stdout = self._process.stdin, self._process.stdout
    assert stdin is not None
    assert stdout is not None
    with contextlib.suppress(BrokenPipeError):  # Reported below.
      stdin.write(json.dumps([method, *arguments]) + '\n')
      stdin.flush()
    line = stdout.readline()
    if not line:
      raise RuntimeError(f'the process of {self.name} has ended')
    answer = json.loads(line)
    if 'error' in answer:
      raise RuntimeError(f'{answer["error"]} ({self.name})')
    return answer['result']


def _extract(revision: str, folder: pathlib.Path) -> str:
  """Writes the files of a revision to a folder; returns its short name.

  This uses an archive rather than a worktree, because a worktree would stay
  registered in git if this process were killed.

  Raises:
    ValueError: If git does not know the revision.
    RuntimeError: If git cannot write its files.
  """
  git = ['git', '-C', str(_ROOT)]
  commit = f'{revision}^{{commit}}'
  found = subprocess.run(
    [*git, 'rev-parse', '--verify', '--short', commit],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  if found.returncode:
    raise ValueError(f'a revision must be known to git, got {revision}')
  name = found.stdout.strip()
  archive = subprocess.Popen(
    [*git, 'archive', '--format=tar', name, 'sg3jax', 'configs'],
    stdout=subprocess.PIPE,
  )
  with (
    archive,
    contextlib.suppress(tarfile.ReadError),
    tarfile.open(fileobj=archive.stdout, mode='r|') as files,
  ):
    files.extractall(folder, filter='data')
  if archive.returncode:
    raise RuntimeError(f'git cannot archive {name}: see above')
  return name


def _start_worker(root: pathlib.Path) -> subprocess.Popen[str]:
  """Starts `revision_cases.py` with the package in a folder."""
  environment = os.environ | {
    'PYTHONPATH': str(root),
    'JAX_ENABLE_COMPILATION_CACHE': 'false',  # Compilation is timed.
    # Two processes share a GPU.
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  }
  return subprocess.Popen(
    # -P keeps the folder of the scripts out of sys.path.
    [sys.executable, '-P', str(_WORKER)],
    env=environment,
    text=True,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    start_new_session=True,  # Ctrl-C reaches this process alone.
  )


def select(names: Sequence[str], beginnings: Sequence[str]) -> list[str]:
  """Returns the names that start with one of the prefixes.

  Raises:
    ValueError: If no name starts with one of the prefixes.
  """
  for beginning in beginnings:
    if not any(name.startswith(beginning) for name in names):
      raise ValueError(
        f'--cases must be prefixes of names, got {beginning}: '
        '--list_cases prints the names'
      )
  return [name for name in names if name.startswith(tuple(beginnings))]


def compare(
  name: str,
  revisions: Sequence[Revision],
  *,
  rounds: int,
  compiles: int,
  seconds: float,
) -> tuple[str, ...]:
  """Returns the row of a case.

  Args:
    name: The case.
    revisions: Base and head.
    rounds: Number of runs per revision.
    compiles: Number of compilations per revision.
    seconds: Minimum duration of a run in seconds.

  Raises:
    RuntimeError: If the case fails at one of the revisions.
  """
  for revision in revisions:
    revision.ask('load', name)
  compile_times = np.array(
    [[r.ask('compile') for r in revisions] for _ in range(compiles)]
  )
  # The first call may be slow. The second one determines the number of calls in
  # a run, which is the same for both revisions.
  once = [[r.ask('time', 1) for r in revisions] for _ in range(2)][-1]
  repeats = max(1, math.ceil(seconds / max(once)))
  times = np.empty((rounds, 2))
  for i in range(rounds):  # The revisions alternate in going first.
    for j in (i % 2, 1 - i % 2):
      times[i, j] = revisions[j].ask('time', repeats)
  ratio, low, high = ratio_with_interval(times[:, 0], times[:, 1])
  base_ms, head_ms = 1e3 * np.median(times, axis=0)
  compile_base, compile_head = np.median(compile_times, axis=0)
  return (
    name, f'{base_ms:.2f}', f'{head_ms:.2f}', f'{ratio:.3f}',
    f'{low:.3f}..{high:.3f}', f'{compile_base:.2f}',
    f'{compile_base / compile_head:.2f}',
  )  # fmt: skip


def ratio_with_interval(
  base: np.ndarray, head: np.ndarray
) -> tuple[float, float, float]:
  """Returns the median ratio of neighbouring runs and its 95 % interval.

  Args:
    base: Times [n] at the base revision.
    head: Times [n] at the head revision, each measured next to that of base.

  Returns:
    The median of base / head, and the 2.5th and 97.5th percentiles of its
    bootstrap distribution.
  """
  ratios = base / head
  rng = np.random.default_rng(0)
  samples = rng.choice(ratios, (_RESAMPLES, len(ratios)))
  low, high = np.percentile(np.median(samples, axis=1), [2.5, 97.5])
  return float(np.median(ratios)), float(low), float(high)


def _format_row(cells: Sequence[str], width: int) -> str:
  """Returns a row of a Markdown table that is also legible as plain text."""
  first, *others = cells
  numbers = (
    cell.rjust(len(title))
    for cell, title in zip(others, _HEADER[1:], strict=True)
  )
  return ' | '.join([f'| {first:{width}}', *numbers]) + ' |'


def main(argv: Sequence[str]) -> None:
  """Prints the table, each row as soon as it is measured."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  for number in (signal.SIGINT, signal.SIGTERM):  # Exit with cleanup.
    signal.signal(number, lambda number, _: sys.exit(128 + number))
  with Revision(_HEAD.value) as head:
    names = head.ask('names')
    if _LIST.value:
      print('\n'.join(names))
      return
    names = select(names, _CASES.value)
    with Revision(_BASE.value) as base:
      about = head.ask('describe')
      print(
        f'base {base.name}, head {head.name}; {about["device"]}, '
        f'{about["versions"]}, {time.strftime("%Y-%m-%d")}\n'
      )
      failures = print_table(
        names,
        functools.partial(
          compare,
          revisions=(base, head),
          rounds=_ROUNDS.value,
          compiles=_COMPILES.value,
          seconds=_SECONDS.value,
        ),
      )
  if failures:
    sys.exit('\n'.join(['', *failures]))


def print_table(
  names: Sequence[str], measure: Callable[[str], Sequence[str]]
) -> list[str]:
  """Prints the rows of cases; returns the errors of the cases that failed."""
  width = max(map(len, names))
  print(_format_row(_HEADER, width))
  print('|---' + '|---:' * (len(_HEADER) - 1) + '|')
  failures = []
  for name in names:
    try:
      row = measure(name)
    except RuntimeError as error:
      failures.append(f'{name}: {error}')
      continue
    print(_format_row(row, width), flush=True)
  return failures


if __name__ == '__main__':
  app.run(main)
