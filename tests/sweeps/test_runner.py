"""Jobs on a real Ray cluster: two machines that are processes here."""

import os
import pathlib
import threading
import time

import jax
import jobs
import pytest

from sg3jax.sweeps import runner
from sg3jax.train import preemption

ray = pytest.importorskip('ray', reason="needs pip install 'sg3jax[sweep]'")
cluster_utils = pytest.importorskip('ray.cluster_utils')

_MEMORY = 80 * 2**20


@pytest.fixture(scope='module')
def cluster():
  """Two nodes with one CPU each."""
  patch = pytest.MonkeyPatch()
  patch.setenv('RAY_USAGE_STATS_ENABLED', '0')
  # Other machines do not have the one that the tests share.
  patch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  # On real machines what runs is installed.
  patch.setenv('PYTHONPATH', str(pathlib.Path(jobs.__file__).parent))
  node = {'num_cpus': 1, 'object_store_memory': _MEMORY}
  cluster = cluster_utils.Cluster(
    initialize_head=True,
    head_node_args=node
    | {'include_dashboard': False, 'resources': {'RARE': 1}},
  )
  cluster.add_node(**node)
  yield cluster
  cluster.shutdown()
  patch.undo()


def _run(cluster, todo, stop=None, **resources):
  """Runs jobs; returns outcomes by name, in the order of their end."""
  outcomes = {}
  runner.run(
    [runner.Job(name, *call) for name, call in todo.items()],
    runner.Resources(address=cluster.address, **resources),
    lambda job, outcome: outcomes.setdefault(job.name, outcome),
    stop=stop or preemption.Stop(),
    patient=False,
  )
  return outcomes


@pytest.mark.slow
def test_killed_jobs_start_again_and_failing_ones_stop_nobody(
  cluster, tmp_path
):
  once, always = str(tmp_path / 'once'), str(tmp_path / 'always')
  todo = {
    'killed': (jobs.die_once, {'marker': once}),
    'fails': (jobs.fail, {}),
    'doomed': (jobs.die, {'marker': always}),
  } | {f'square{i}': (jobs.square, {'x': i}) for i in range(6)}
  outcomes = _run(cluster, todo, max_retries=1)
  assert set(outcomes) == set(todo)
  for i in range(6):
    assert outcomes[f'square{i}'].value['square'] == i * i
    assert outcomes[f'square{i}'].device == 'cpu'
  # Both machines worked, each in a process of its own.
  pids = {outcomes[f'square{i}'].value['pid'] for i in range(6)}
  assert len(pids) > 1
  assert os.getpid() not in pids
  assert outcomes['killed'].value == {'square': -1}
  assert pathlib.Path(once).read_text() == 'started\n' * 2
  failed = outcomes['fails']
  assert failed.value is None
  assert failed.error == 'FloatingPointError: the losses are not finite'
  assert 'jobs.py' in failed.traceback
  doomed = outcomes['doomed']
  assert 'started again up to 1 times' in doomed.error
  assert '\n' not in doomed.error
  assert pathlib.Path(always).read_text() == 'started\n' * 2


def test_a_stop_kills_what_runs_and_starts_no_more(cluster, tmp_path):
  stop = preemption.Stop()

  def interrupt():
    while not (tmp_path / '0').exists():
      time.sleep(0.05)
    stop.signal = 'SIGINT'

  threading.Thread(target=interrupt, daemon=True).start()
  todo = {
    str(i): (jobs.wait, {'marker': str(tmp_path / str(i))}) for i in range(4)
  }
  start = time.monotonic()
  assert _run(cluster, todo, stop) == {}
  assert stop.obeyed
  assert time.monotonic() - start < 60
  assert not (tmp_path / '3').exists()
  for path in tmp_path.iterdir():
    _wait_for_end(int(path.read_text()))


def _wait_for_end(pid):
  end = time.monotonic() + 30
  while pathlib.Path(f'/proc/{pid}').exists():
    assert time.monotonic() < end, f'{pid} still runs'
    time.sleep(0.1)


@pytest.fixture
def cache():
  """Sets the folder for compiled programs in this process, for one test."""
  before = jax.config.jax_compilation_cache_dir
  yield lambda folder: jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_compilation_cache_dir', before)


def test_workers_keep_programs_where_the_driver_does(cluster, tmp_path, cache):
  cache(str(tmp_path / 'kept'))
  outcome = _run(cluster, {'a': (jobs.compilation_cache, {})})['a']
  assert outcome.value == {'folder': str(tmp_path / 'kept')}


@pytest.mark.parametrize(
  ('folder', 'own', 'expected'),
  [
    (None, '', None),
    (None, '/own', None),  # The driver was told --compilation_cache=none.
    ('{}/file/below', '', None),  # A folder that cannot be made here.
    ('{}/new', '/own', '/as/it/was'),
    ('gs://bucket/programs', '', 'gs://bucket/programs'),
  ],
)
def test_a_worker_may_have_no_such_folder(
  tmp_path, monkeypatch, cache, folder, own, expected
):
  (tmp_path / 'file').write_text('')
  if own:
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', own)
  else:
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  cache('/as/it/was')
  outcome = runner._call(
    jobs.compilation_cache,
    {},
    on_cpu=True,
    cache=folder and folder.format(tmp_path),
  )
  assert outcome.value == {'folder': expected}


def test_what_no_machine_has_is_refused(cluster):
  with pytest.raises(ValueError, match='takes 1 CPU, 4 TPU, but no machine'):
    _run(cluster, {'a': (jobs.square, {'x': 1})}, custom={'TPU': 4})


def test_machines_are_chosen_by_what_they_have(cluster):
  todo = {'a': (jobs.square, {'x': 3})}
  assert _run(cluster, todo, custom={'RARE': 1})['a'].value['square'] == 9


def test_a_cluster_that_is_not_there():
  with pytest.raises(ConnectionError, match=r'--address=127\.0\.0\.1:1 '):
    runner.run(
      [],
      runner.Resources(address='127.0.0.1:1'),
      lambda *_: None,
      stop=preemption.Stop(),
      patient=False,
    )
