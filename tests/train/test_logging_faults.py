"""A run reports to full disks, terminals and a service on the net."""

import errno
import io
import json
import os
import pty
import subprocess
import sys
import textwrap
import types

import pytest

from sg3jax.train.run_folder import tensorboard, ticks
from sg3jax.train.run_folder import writer as writer_lib

_STATS = {'Loss/G/loss': {'num': 64, 'mean': 0.75, 'std': 0.125}}
_TICK = ticks.Tick(
  tick=3,
  nimg=12000,
  total_sec=80.0,
  sec_per_tick=20.0,
  sec_per_kimg=5.0,
  maintenance_sec=0.3,
  left_sec=310.0,
  memory=ticks.Memory(1.2, 0.0, 0.0),
  augment=0.0,
)


@pytest.mark.skipif(
  not os.path.exists('/dev/full'), reason='no device that is always full'
)
@pytest.mark.parametrize('name', ['log.txt', 'stats.jsonl'])
def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, name):
  (tmp_path / name).symlink_to('/dev/full')

  def session():
    with writer_lib.RunWriter(tmp_path) as run:
      run.write_tick(_TICK, _STATS)

  with pytest.raises(
    OSError,
    match=rf'^Cannot write {tmp_path}/{name}: No space left on device\. Make '
    'room there, .* run the same command again',
  ):
    session()


def test_events_on_a_full_disk_are_an_error_and_no_endless_wait(tmp_path):
  """As many as would fill the queue of a thread that has died."""
  script = f"""
    import resource
    from sg3jax.train.run_folder import tensorboard
    file = tensorboard.EventsFile({str(tmp_path)!r})
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
    try:
      for i in range(1000):
        file.add({{'Loss/G/loss': 0.5}}, i, 0.0)
    except OSError as error:
      print(error.errno)
  """
  process = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(script)],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert process.stdout == f'{errno.EFBIG}\n', process.stderr


def test_metrics_stand_among_the_curves(tmp_path):
  class Spy(tensorboard.EventsFile):
    def add(self, values, kimg, timestamp):
      added.append((dict(values), kimg))

  added = []
  with writer_lib.RunWriter(tmp_path) as run:
    run._events = Spy(tmp_path)
    run.write_metrics({'swd': 3}, 12.8)
    run.write_metrics({}, 13.8)
  assert added == [({'Metrics/swd': 3.0}, 12)]


def test_changed_options_are_recorded(tmp_path, capsys):
  with writer_lib.RunWriter(tmp_path) as run:
    run.open_options({'lr': 1})
    run.record_change(['lr: 1 -> 2'], {'lr': 2}, 7)
    assert run.open_options({'lr': 2}) == []
  assert 'at step 7: lr: 1 -> 2' in capsys.readouterr().out
  record = json.loads((tmp_path / 'options_changes.jsonl').read_text())
  assert (record['step'], record['changes']) == (7, ['lr: 1 -> 2'])


# Three batches, and a line after each.
_TRACK = """
  import time
  from sg3jax.train.run_folder import progress_bar
  batches = iter(range(3))
  for i in progress_bar.track(batches, done=1, total=4, kimg_per_step=0.5):
    print('line', i, flush=True)
    time.sleep(0.2)
"""


def test_redirected_output_holds_plain_lines():
  process = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(_TRACK)],
    capture_output=True,
    text=True,
    check=True,
  )
  assert process.stdout == 'line 0\nline 1\nline 2\n'
  assert not process.stderr


def test_a_terminal_shows_a_bar_below_the_lines():
  parent, child = pty.openpty()
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(_TRACK)],
    stdout=child,
    stderr=child,
    env=os.environ | {'TERM': 'xterm', 'COLUMNS': '100'},
  )
  os.close(child)
  shown = io.BytesIO()
  try:
    while data := os.read(parent, 4096):
      shown.write(data)
  except OSError:  # How a terminal ends.
    pass
  os.close(parent)
  assert process.wait() == 0
  text = shown.getvalue().decode()
  assert '0.5 / 2 kimg' in text
  assert '1.5 / 2 kimg' in text
  for i in range(3):
    assert f'line {i}' in text


class _Wandb(types.ModuleType):
  """The parts of the package that are called, as it documents them."""

  def __init__(self):
    super().__init__('wandb')
    self.calls = []

  def init(self, *, project, name, dir, id, resume, config):
    self.calls.append(('init', project, name, dir, id, resume, config))
    return self

  def define_metric(self, name, step_metric=None):
    self.calls.append(('define_metric', name, step_metric))

  def log(self, data):
    self.calls.append(('log', data))

  def finish(self):
    self.calls.append(('finish',))


def test_wandb_gets_the_means_of_ticks_and_one_run(tmp_path, monkeypatch):
  wandb = _Wandb()
  monkeypatch.setitem(sys.modules, 'wandb', wandb)
  for _ in range(2):  # The second session goes on in the same run.
    with writer_lib.RunWriter(tmp_path) as run:
      run.open_wandb('faces', {'batch': 32})
      run.write_tick(_TICK, _STATS)
      run.write_metrics({'swd': 3.0}, 12.0)
  init, *axes, tick, figures, finish = wandb.calls[: len(wandb.calls) // 2]
  assert init[1:4] == ('faces', tmp_path.name, str(tmp_path))
  assert init[5:] == ('allow', {'batch': 32})
  assert axes == [
    ('define_metric', 'Progress/kimg', None),
    ('define_metric', '*', 'Progress/kimg'),
  ]
  assert tick[1]['Loss/G/loss'] == 0.75
  assert tick[1]['Progress/kimg'] == 12.0
  assert tick[1]['Resources/cpu_mem_gb'] == 1.2
  assert figures[1] == {'Metrics/swd': 3.0, 'Progress/kimg': 12.0}
  assert finish == ('finish',)
  ids = {call[4] for call in wandb.calls if call[0] == 'init'}
  assert len(ids) == 1


def test_wandb_itself_takes_those_calls(tmp_path, monkeypatch):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  for _ in range(2):
    with writer_lib.RunWriter(tmp_path) as run:
      run.open_wandb('faces', {'batch': 32})
      run.write_tick(_TICK, _STATS)
  records = list(tmp_path.glob('wandb/offline-run-*/*.wandb'))
  assert len(records) == 2
  for record in records:
    assert b'Loss/G/loss' in record.read_bytes()


def test_a_missing_package_is_one_clear_error(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)  # As if not installed.
  with (
    writer_lib.RunWriter(tmp_path) as run,
    pytest.raises(ImportError, match=r'wandb_project .* pip install "sg3jax\['),
  ):
    run.open_wandb('faces', {})
