import errno
import importlib
import json
import logging
import os
import re
import warnings

import jax
import ml_collections
import pytest

from sg3jax.train.config import compare
from sg3jax.train.run_folder import tensorboard, ticks
from sg3jax.train.run_folder import writer as writer_lib

# Made by protobuf at import, where type checkers do not look.
Event = importlib.import_module('tensorboardX.proto.event_pb2').Event

STATS = {'Loss/G/loss': {'num': 64, 'mean': 0.75, 'std': 0.125}}


def make_tick(tick=3, nimg=12000, **changes):
  values = {
    'tick': tick,
    'nimg': nimg,
    'total_sec': 80.0,
    'sec_per_tick': 20.08,
    'sec_per_kimg': 5.02,
    'maintenance_sec': 0.3,
    'left_sec': 310.0,
    'memory': ticks.Memory(1.2, 0.0, 0.0),
    'augment': 0.0,
  }
  return ticks.Tick(**(values | changes))


def read_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def read_events(folder):
  """Yields the events of a folder: length, its checksum, data, checksum."""
  for path in sorted(folder.glob('events.out.tfevents.*')):
    data = path.read_bytes()
    while data:
      length = int.from_bytes(data[:8], 'little')
      yield Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]


def test_tick_line_has_the_order_that_users_parse():
  line = make_tick().line()
  assert re.split(r' {2,}', line)[:4] == [
    'tick 3',
    'kimg 12.0',
    'time 1m 20s',
    'sec/tick 20.1',
  ]
  names = re.findall(r'[a-z/]{4,} ', line)
  assert [name.strip() for name in names] == [
    'tick',
    'kimg',
    'time',
    'sec/tick',
    'sec/kimg',
    'maintenance',
    'cpumem',
    'gpumem',
    'reserved',
    'augment',
    'left',
  ]
  assert line.endswith('left 5m 10s')


def test_tick_lines_are_aligned():
  early = make_tick().line()
  late = make_tick(tick=6249, nimg=24_996_000, total_sec=99999.0).line()
  for name in ('kimg', 'time', 'sec/tick', 'augment', 'left'):
    assert early.index(name) == late.index(name)


def test_memory_is_measured():
  memory = ticks.measure_memory()
  assert 0.05 < memory.cpu < 100
  assert memory.peak_device == 0  # A CPU keeps no count.


def test_memory_takes_the_fullest_device(monkeypatch):
  class Device:
    def __init__(self, stats):
      self._stats = stats

    def memory_stats(self):
      return self._stats

  devices = [
    Device({'peak_bytes_in_use': 2**30, 'pool_bytes': 2**32}),
    Device({'peak_bytes_in_use': 3 * 2**30}),
    Device(None),
  ]
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  memory = ticks.measure_memory()
  assert (memory.peak_device, memory.reserved_device) == (3, 4)


def test_clock_separates_training_from_maintenance():
  seconds = iter([100.0, 107.0, 127.0, 130.0, 140.0, 140.0, 150.0])
  clock = ticks.TickClock(
    nimg=1000,
    total_nimg=11000,
    tick=5,
    elapsed_sec=50,
    now=lambda: next(seconds),
  )
  clock.start_tick()  # 107: seven seconds of preparation.
  first = clock.end_tick(2000)  # 127: twenty, with compilation.
  clock.start_tick()  # 130
  second = clock.end_tick(4000, augment=0.25)  # 140
  assert (first.tick, first.nimg, first.kimg) == (5, 2000, 2.0)
  assert first.total_sec == 77
  assert first.maintenance_sec == 7
  assert first.sec_per_tick == first.sec_per_kimg == 20
  assert first.left_sec == 9 * 20
  assert (second.tick, second.sec_per_tick, second.sec_per_kimg) == (6, 10, 5)
  assert second.maintenance_sec == 3
  assert second.augment == 0.25
  # 13 seconds for 2 kimg since the first tick ended, 7 kimg to go.
  assert second.left_sec == pytest.approx(7 * 13 / 2)
  clock.start_tick()
  assert clock.end_tick(12000).left_sec == 0


def test_config_difference_names_keys_and_values():
  old = {'data': {'source': 'photos', 'resolution': 64}, 'seed': 0, 'a': 1}
  new = {'data': {'source': 'photos', 'resolution': 128}, 'seed': 0, 'b': None}
  assert compare.config_difference(old, new) == [
    'data.resolution: 64 -> 128',
    'a: 1 -> (absent)',
    'b: (absent) -> null',
  ]


def test_config_difference_ignores_how_json_stores_values():
  old = {'betas': (0.0, 0.99), 'gamma': 2, 'limit': float('nan')}
  config = ml_collections.ConfigDict(
    {'betas': [0, 0.99], 'gamma': 2.0, 'limit': float('nan')}
  )
  assert compare.config_difference(old, config) == []


def test_config_difference_names_what_json_cannot_hold():
  with pytest.raises(TypeError, match=r'option data\.loader .* JSON'):
    compare.config_difference({}, {'data': {'loader': object()}})


def test_options_are_written_once_and_then_compared(tmp_path):
  config = ml_collections.ConfigDict({'batch': 32, 'net': {'w_dim': 512}})
  with writer_lib.RunWriter(tmp_path / 'runs' / '00000') as run:
    assert run.open_options(config) == []
    path = run.workdir / 'training_options.json'
    assert json.loads(path.read_text()) == config.to_dict()
  text = path.read_text()
  config.update_from_flattened_dict({'net.w_dim': 256})
  with writer_lib.RunWriter(tmp_path / 'runs' / '00000') as run:
    assert run.open_options(config) == ['net.w_dim: 512 -> 256']
    assert path.read_text() == text
    run.write_options(config)
    assert run.open_options(config) == []
  # Nothing temporary stays behind.
  names = {path.name for path in run.workdir.iterdir()}
  assert names == {'training_options.json', 'log.txt', '.lock'}


def test_broken_options_are_an_error_that_names_the_file(tmp_path):
  (tmp_path / 'training_options.json').write_text('{"batch": ')
  with (
    writer_lib.RunWriter(tmp_path) as run,
    pytest.raises(ValueError, match=r'training_options\.json must be valid'),
  ):
    run.open_options({'batch': 32})


def test_unwritable_workdir_is_an_error_that_names_it(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match=r'Cannot write to the workdir .*file/run'):
    writer_lib.RunWriter(tmp_path / 'file' / 'run')


def test_log_keeps_what_was_printed_and_warnings(tmp_path, capsys):
  with writer_lib.RunWriter(tmp_path) as run:
    run.log('Loading the data')
    logging.getLogger('absl').warning('slow path: %s', 'reference')
    logging.getLogger('absl').debug('not let through')
    with warnings.catch_warnings():
      warnings.simplefilter('always')
      warnings.warn('a buffer was not donated', UserWarning, stacklevel=1)
    run.log()
  logging.getLogger('absl').warning('after the run')
  assert capsys.readouterr().out == 'Loading the data\n\n'
  text = (tmp_path / 'log.txt').read_text()
  assert text.startswith('Loading the data\n')
  assert 'WARNING absl: slow path: reference\n' in text
  assert 'a buffer was not donated' in text
  assert 'not let through' not in text
  assert 'after the run' not in text


def test_log_keeps_the_traceback_of_a_crash_and_earlier_sessions(tmp_path):
  def crash():
    with writer_lib.RunWriter(tmp_path) as run:
      run.log('first session')
      raise RuntimeError('out of memory')

  with pytest.raises(RuntimeError, match='out of memory'):
    crash()
  with writer_lib.RunWriter(tmp_path) as run:
    run.log('second session')
  text = (tmp_path / 'log.txt').read_text()
  assert text.startswith('first session\nTraceback')
  assert text.endswith('RuntimeError: out of memory\nsecond session\n')


def test_ticks_go_to_log_statistics_and_tensorboard(tmp_path, capsys):
  with writer_lib.RunWriter(tmp_path) as run:
    run.write_tick(make_tick(), STATS)
    run.write_tick(make_tick(tick=4, nimg=16500), STATS)
  assert capsys.readouterr().out.splitlines()[0] == make_tick().line()
  first, second = read_lines(tmp_path / 'stats.jsonl')
  assert first['Loss/G/loss'] == STATS['Loss/G/loss']
  assert first['Progress/kimg'] == {'num': 1, 'mean': 12.0, 'std': 0.0}
  assert first['Timing/sec_per_kimg']['mean'] == 5.02
  assert first['Resources/cpu_mem_gb']['mean'] == 1.2
  assert second['timestamp'] >= first['timestamp'] > 1.7e9
  points = [
    (value.tag, event.step, value.simple_value)
    for event in read_events(tmp_path)
    for value in event.summary.value
    if value.tag == 'Loss/G/loss'
  ]
  assert points == [('Loss/G/loss', 12, 0.75), ('Loss/G/loss', 16, 0.75)]


def test_resume_cuts_the_record_and_loses_nothing(tmp_path):
  stats = tmp_path / 'stats.jsonl'
  metric = tmp_path / 'metric-eqt50k_int.jsonl'
  with writer_lib.RunWriter(tmp_path) as run:
    assert run.truncate_after(0) == {}
    for tick in range(5):
      run.write_tick(make_tick(tick=tick, nimg=4000 * tick), STATS)
  original = stats.read_text()
  stats.write_text(original + '{"Loss/G/lo')  # Killed while writing.
  metric.write_text('{"kimg": 8.0}\n{"kimg": 16.0}\n{"kimg": null}\n')

  with writer_lib.RunWriter(tmp_path) as run:
    last = run.truncate_after(8.0)
    run.write_tick(make_tick(tick=3, nimg=12000), STATS)
  assert last['Progress/tick']['mean'] == 2
  kimg = [line['Progress/kimg']['mean'] for line in read_lines(stats)]
  assert kimg == [0, 4, 8, 12]
  orphaned = (tmp_path / 'stats.jsonl.orphaned').read_text()
  lines = original.splitlines(keepends=True)
  assert orphaned == ''.join([*lines[3:], '{"Loss/G/lo\n'])
  assert [line['kimg'] for line in read_lines(metric)] == [8.0, None]
  assert 'Moved 3 line(s) after 8 kimg' in (tmp_path / 'log.txt').read_text()
  # TensorBoard hides what a session that starts at step 9 repeats.
  starts = [
    event.step
    for event in read_events(tmp_path)
    if event.session_log.status == event.session_log.START
  ]
  assert starts[-1] == 9


def test_a_line_without_its_newline_is_completed(tmp_path):
  with writer_lib.RunWriter(tmp_path) as run:
    run.write_tick(make_tick(tick=0, nimg=0), STATS)
    stats = tmp_path / 'stats.jsonl'
    stats.write_text(stats.read_text().rstrip('\n'))
    run.truncate_after(0)
    run.write_tick(make_tick(tick=1, nimg=4000), STATS)
    assert len(read_lines(stats)) == 2
    run.truncate_after(-1)  # Starting over.
  assert stats.read_text() == ''
  assert len(read_lines(tmp_path / 'stats.jsonl.orphaned')) == 2


def test_other_hosts_write_and_print_nothing(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with writer_lib.RunWriter(tmp_path / 'run') as run:
    assert run.open_options({'batch': 32}) == []
    run.log('hello')
    run.write_tick(make_tick(), STATS)
    assert run.truncate_after(4.0) == {}
  assert capsys.readouterr().out == ''
  assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_and_writes_nothing(tmp_path):
  with writer_lib.RunWriter(tmp_path) as run:
    run.log('first')
    with pytest.raises(
      ValueError, match=rf'in use by another process \(process {os.getpid()} on'
    ):
      writer_lib.RunWriter(tmp_path)
    assert (tmp_path / 'log.txt').read_text() == 'first\n'
    run.log('still here')
  with writer_lib.RunWriter(tmp_path) as run:
    run.log('the next one')
  text = (tmp_path / 'log.txt').read_text()
  assert text == 'first\nstill here\nthe next one\n'


def test_a_crash_gives_the_folder_back(tmp_path):
  with pytest.raises(RuntimeError), writer_lib.RunWriter(tmp_path):
    raise RuntimeError
  writer_lib.RunWriter(tmp_path).close()


def test_the_home_folder_and_addresses_are_understood(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  with writer_lib.RunWriter('~/run') as run:
    assert run.workdir == tmp_path / 'run'
  monkeypatch.chdir(tmp_path)
  with pytest.raises(
    ValueError, match=r'local .* got the address gs://bucket/run'
  ):
    writer_lib.RunWriter('gs://bucket/run')
  assert [path.name for path in tmp_path.iterdir()] == ['run']


@pytest.mark.parametrize('captured', [False, True])
@pytest.mark.parametrize('has_handler', [False, True])
def test_logging_is_afterwards_as_before(
  tmp_path, monkeypatch, captured, has_handler
):
  root = logging.getLogger()
  handlers = [logging.NullHandler()] if has_handler else []
  monkeypatch.setattr(root, 'handlers', handlers)
  logging.captureWarnings(captured)
  try:
    show = warnings.showwarning
    with writer_lib.RunWriter(tmp_path):
      assert len(root.handlers) == 2  # The console too, in any case.
      warnings.warn('kept', UserWarning, stacklevel=1)
    assert warnings.showwarning is show
    assert root.handlers == handlers
  finally:
    logging.captureWarnings(False)
  assert (tmp_path / 'log.txt').read_text().count('UserWarning: kept') == 1


def test_events_that_cannot_be_written_are_named(tmp_path, monkeypatch):
  def fail(*_):
    raise PermissionError(errno.EACCES, 'Permission denied')

  monkeypatch.setattr(tensorboard, 'EventsFile', fail)
  with (
    writer_lib.RunWriter(tmp_path) as run,
    pytest.raises(OSError, match=rf'Cannot write {tmp_path}/events.*: Permiss'),
  ):
    run.write_metrics({'swd': 1.0}, 1.0)


def test_small_runs_show_their_progress():
  kimg = [make_tick(nimg=n).line().split()[3] for n in (0, 16, 992, 1000, 4032)]
  assert kimg == ['0.0', '0.016', '0.992', '1.0', '4.0']


def test_clock_adds_up_evaluations():
  seconds = iter([100.0, 110.0, 110.0, 130.0, 130.0, 140.0, 150.0])
  clock = ticks.TickClock(
    nimg=1000,
    total_nimg=11000,
    elapsed_sec=60,
    evaluation_sec=5,
    now=lambda: next(seconds),
  )
  clock.start_tick()  # 110
  with clock.evaluation():  # From 110 to 130.
    pass
  assert clock.evaluation_share() == 25 / 90  # 130
  clock.start_tick()  # 140
  assert clock.end_tick(2000).evaluation_sec == 25  # 150
