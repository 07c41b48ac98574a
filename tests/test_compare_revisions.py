"""The command that compares the speed of two revisions."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import conftest
import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_SCRIPT = _ROOT / 'scripts' / 'compare_revisions.py'
_CASE = 'conv_kernel_gradient_t16/36x36x4-4'

needs_git = pytest.mark.skipif(
  not (_ROOT / '.git').exists(), reason='not a git checkout'
)


@pytest.fixture(scope='module')
def script():
  return conftest.run_file(_SCRIPT)


@pytest.fixture
def start(tmp_path):
  """Starts the command, with its temporary files in `tmp_path`."""

  def start(*args):
    return subprocess.Popen(
      [sys.executable, _SCRIPT, *args],
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'TMPDIR': str(tmp_path)},
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )

  return start


def _children(pid):
  """Returns the processes that a process has started."""
  path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
  return [int(child) for child in path.read_text().split()]


@needs_git
def test_a_revision_against_the_working_tree(start, tmp_path):
  with start(
    '--base=HEAD', '--head=.', f'--cases={_CASE}', '--rounds=2', '--seconds=0'
  ) as process:
    out, error = process.communicate(timeout=120)
  assert process.returncode == 0, error
  about, _, header, rule, row = out.splitlines()
  head = subprocess.check_output(
    ['git', '-C', _ROOT, 'rev-parse', '--short', 'HEAD'], text=True
  ).strip()
  assert about.startswith(f'base {head}, head the working tree; ')
  assert header.count('|') == rule.count('|') == row.count('|')
  name, *cells = (cell.strip() for cell in row.strip('|').split('|'))
  assert name == _CASE
  base, head, ratio, interval, seconds, compile_ratio = cells
  low, high = map(float, interval.split('..'))
  assert 0 < low <= float(ratio) <= high < np.inf
  for value in (base, head, seconds, compile_ratio):
    assert 0 < float(value) < np.inf
  assert not list(tmp_path.iterdir())


@needs_git
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_ctrl_c_leaves_nothing_behind(start, tmp_path):
  with start('--base=HEAD', f'--cases={_CASE}', '--rounds=1000000') as process:
    assert process.stdout.readline().startswith('base ')
    workers = _children(process.pid)
    assert len(workers) == 2
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
  assert process.returncode == 128 + signal.SIGINT
  assert not list(tmp_path.iterdir())
  for worker in workers:
    assert not pathlib.Path(f'/proc/{worker}').exists()


@needs_git
@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--base=none-such', 'must be known to git, got none-such'),
    ('--cases=none-such', 'must be prefixes of names, got none-such'),
  ],
)
def test_what_is_unknown_is_refused(start, tmp_path, flag, message):
  with start(flag) as process:
    _, error = process.communicate(timeout=120)
  assert process.returncode
  assert message in error
  assert not list(tmp_path.iterdir())


def test_ratio_is_that_of_neighbouring_runs(script):
  # The machine slows down to a tenth in between: the ratio does not notice.
  slowdown = np.geomspace(1, 10, 9)
  ratio, low, high = script.ratio_with_interval(3 * slowdown, 2 * slowdown)
  np.testing.assert_allclose([ratio, low, high], 1.5, rtol=1e-12)


def test_interval_holds_what_noise_explains(script):
  # Of 95 % intervals of ten runs, the bootstrap's are known to be a little
  # narrow: nine in ten hold the truth; a standard deviation of that is 2 %.
  rng = np.random.RandomState(0)
  held = []
  for base, head in np.exp(0.1 * rng.randn(200, 2, 10)):
    ratio, low, high = script.ratio_with_interval(base, head)
    assert low <= ratio <= high
    held.append(low <= 1 <= high)
  assert 0.86 < np.mean(held) < 0.995


class _Fake:
  """Stands in for a revision: each call takes so long; some cases fail."""

  def __init__(self, name, milliseconds, fails=()):
    self.name = name
    self._seconds = milliseconds / 1e3
    self._fails = fails
    self.asked = []

  def ask(self, method, *arguments):
    self.asked.append((method, *arguments))
    if method == 'load' and arguments[0] in self._fails:
      raise RuntimeError(f'ImportError: no such thing ({self.name})')
    return self._seconds


def test_both_revisions_run_as_many_calls(script):
  base, head = _Fake('base', 30), _Fake('head', 10)
  row = script.compare('a', (base, head), rounds=3, compiles=2, seconds=0.31)
  assert row == (
    'a', '30.00', '10.00', '3.000', '3.000..3.000', '0.03', '3.00',
  )  # fmt: skip
  # As many calls as make 0.31 seconds at the slower revision.
  assert base.asked == head.asked
  assert base.asked.count(('time', 11)) == 3
  assert base.asked.count(('compile',)) == 2


def test_a_case_that_one_revision_lacks_is_an_error(script, capsys):
  revisions = (_Fake('base', 30, fails=['a']), _Fake('head', 10))
  failures = script.print_table(
    ['a', 'b'],
    lambda name: script.compare(
      name, revisions, rounds=2, compiles=1, seconds=0
    ),
  )
  assert failures == ['a: ImportError: no such thing (base)']
  table = capsys.readouterr().out
  assert re.search(r'^\| b ', table, re.MULTILINE)
  assert not re.search(r'^\| a ', table, re.MULTILINE)
