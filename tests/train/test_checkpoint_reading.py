"""What cannot be read is not damaged, and what was saved can be read."""

import errno
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import fake_state
import jax
import orbax.checkpoint as ocp
import pytest

from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import sharding
from sg3jax.train.checkpoint import reader, storage

pytestmark = pytest.mark.slow

_OPTIONS = {'train': {'batch': 8}}
_STEPS = (3, 7)
_LIKE = fake_state.like(fake_state.make_state(0, width=8))


def _save(workdir, *steps):
  checkpoints = checkpoint_lib.Checkpoints(workdir)
  try:
    for step in steps:
      checkpoints.save(fake_state.make_state(step, width=8), _OPTIONS)
  finally:
    checkpoints.close()


def _restore(workdir, log=print):
  checkpoints = checkpoint_lib.Checkpoints(workdir)
  try:
    return int(checkpoints.restore(_LIKE, log).step)
  finally:
    checkpoints.close()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  _save(workdir, *_STEPS)
  return workdir


@pytest.fixture
def run(saved, tmp_path):
  """A copy to be damaged."""
  return shutil.copytree(saved, tmp_path / 'run')


def _step(workdir, step=7):
  return workdir / checkpoint_lib.FOLDER / str(step)


def _names(workdir):
  return sorted(p.name for p in (workdir / checkpoint_lib.FOLDER).iterdir())


def _array_file(workdir):
  files = (_step(workdir) / 'networks' / 'd').iterdir()
  return max(files, key=lambda path: path.stat().st_size)


def _wrapped():
  """What Orbax makes of an error while it reads an array."""
  error = Exception('Encountered error while reading array index')
  error.__cause__ = ValueError("UNKNOWN: Error reading [os_error_code='5']")
  return error


_NOT_READ = [
  OSError(errno.ESTALE, 'Stale file handle'),
  OSError(errno.EIO, 'Input/output error'),
  PermissionError(errno.EACCES, 'Permission denied'),
  OSError(errno.EMFILE, 'Too many open files'),
  TimeoutError(errno.ETIMEDOUT, 'Connection timed out'),
  TimeoutError('a read takes too long'),  # Without a number.
  ValueError('PERMISSION_DENIED: Error opening "zarr" driver: of a file'),
  ValueError('UNAVAILABLE: the server is busy'),
  ValueError("UNKNOWN: Error reading a file [os_error_code='116']"),
  _wrapped(),
]
_NOT_READ_IDS = [str(error)[:30] for error in _NOT_READ]


def _fail_once(monkeypatch, owner, name, error):
  """Lets the next call of a method raise an error."""
  method = getattr(owner, name)

  def fail(*_, **__):
    monkeypatch.setattr(owner, name, method)
    raise error

  monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize('error', _NOT_READ, ids=_NOT_READ_IDS)
@pytest.mark.parametrize(
  ('owner', 'name'),
  [(ocp.CheckpointManager, 'restore'), (ocp.Checkpointer, 'metadata')],
)
def test_a_run_stops_if_a_checkpoint_cannot_be_read(
  run, monkeypatch, owner, name, error
):
  checkpoints = checkpoint_lib.Checkpoints(run)
  _fail_once(monkeypatch, owner, name, error)
  said = []
  with pytest.raises(
    OSError, match=rf'the checkpoint {_step(run)} could not be read \(.*\)\. It'
  ) as raised:
    checkpoints.restore(_LIKE, said.append)
  assert '\n' not in str(raised.value)
  assert not said
  assert _names(run) == ['3', '7']
  assert int(checkpoints.restore(_LIKE).step) == 7
  checkpoints.close()


@pytest.mark.parametrize('error', _NOT_READ[:1] + _NOT_READ[-1:], ids=str)
@pytest.mark.parametrize(
  'read',
  [
    checkpoint_lib.load_networks,
    checkpoint_lib.load_arrays,
    checkpoint_lib.load_options,
  ],
)
def test_readers_tell_it_from_damage_too(saved, monkeypatch, read, error):
  _fail_once(monkeypatch, ocp.Checkpointer, 'restore', error)
  with pytest.raises(OSError, match='could not be read'):
    read(saved)
  assert read(saved)


class _DeviceError(RuntimeError):
  """As of a device without memory."""


@pytest.mark.parametrize(
  'error', [MemoryError, KeyboardInterrupt, AssertionError, _DeviceError]
)
def test_other_errors_are_raised_as_they_are(saved, monkeypatch, error):
  checkpoints = checkpoint_lib.Checkpoints(saved)
  for owner in (ocp.CheckpointManager, ocp.Checkpointer):
    _fail_once(monkeypatch, owner, 'restore', error('as it is'))
  with pytest.raises(error, match='as it is'):
    checkpoints.restore(_LIKE)
  checkpoints.close()
  with pytest.raises(error, match='as it is'):
    checkpoint_lib.load_networks(saved)
  assert _names(saved) == ['3', '7']


def test_an_older_one_that_cannot_be_read_leaves_a_damaged_one(
  run, monkeypatch
):
  """All or nothing: no checkpoint is moved before one could be read."""
  (_step(run) / 'networks' / '_METADATA').write_text('{')
  _fail_once(
    monkeypatch, ocp.CheckpointManager, 'restore', OSError(errno.EIO, 'EIO')
  )
  with pytest.raises(OSError, match=f'{_step(run, 3)} could not be read'):
    _restore(run)
  assert _names(run) == ['3', '7']


@pytest.mark.parametrize('part', ['array', 'description', 'options'])
def test_system_errors_of_reading_files(run, part):
  """Real ones: a link in a circle, and a file that gives EIO."""
  path, target = {
    'array': (_array_file(run), 'itself'),
    'description': (_step(run) / 'networks/_METADATA', '/proc/self/mem'),
    'options': (_step(run) / 'options/metadata', '/proc/self/mem'),
  }[part]
  path.unlink()
  path.symlink_to(path.name if target == 'itself' else target)
  with pytest.raises(OSError, match=r'\((Too many levels|Input/output)'):
    checkpoint_lib.load_networks(run)
  if part != 'options':  # A run has its own.
    with pytest.raises(OSError, match='could not be read'):
      _restore(run)
  assert _names(run) == ['3', '7']


@pytest.mark.parametrize('part', ['networks', 'progress'])
@pytest.mark.parametrize(
  'damage',
  [
    lambda path: path.unlink(),
    lambda path: path.write_text('{"tree_metadata": []}'),
    lambda path: (path.unlink(), path.mkdir()),
  ],
)
def test_a_wrong_structure_is_damage(run, part, damage):
  damage(_step(run) / part / '_METADATA')
  said = []
  assert _restore(run, said.append) == 3
  assert _names(run) == ['3', '7.corrupted']
  assert len(said) == 1


_READ = """
import os, resource, sys
sys.path.append({tests!r})
import fake_state
from sg3jax.train import checkpoint
checkpoints = checkpoint.Checkpoints(sys.argv[1])
like = fake_state.like(fake_state.make_state(0, width=8))
if {few_files}:
  checkpoints.restore(like)  # So that all modules are there.
  used = len(os.listdir('/proc/self/fd'))
  resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, used - 1))
try:
  checkpoints.restore(like)
except OSError as error:
  print(error)
"""


@pytest.mark.parametrize(
  ('few_files', 'reason'),
  [(True, 'Too many open files'), (False, 'Permission denied')],
)
def test_limits_of_a_process_are_no_damage(run, few_files, reason):
  tests = str(pathlib.Path(__file__).parent)
  script = _READ.format(tests=tests, few_files=few_files)
  command = [sys.executable, '-c', textwrap.dedent(script), str(run)]
  if not few_files:
    _array_file(run).chmod(0)
    if os.geteuid() == 0:  # Who may read it all the same, but not in there.
      command = ['unshare', '--user', *command]
  process = subprocess.run(command, capture_output=True, text=True, check=False)
  if 'unshare' in process.stderr.partition('\n')[0]:
    pytest.skip('this process cannot give up its rights')
  assert f'could not be read ({reason}' in process.stdout, process.stderr
  assert _names(run) == ['3', '7']


def test_folders_that_cannot_be_listed_are_not_empty(saved, monkeypatch):
  def deny(path):
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  monkeypatch.setattr(os, 'listdir', deny)
  for read in (checkpoint_lib.has_checkpoint, checkpoint_lib.load_networks):
    with pytest.raises(PermissionError):
      read(saved)


def test_checkpoints_that_orbax_cannot_see_do_not_start_a_run_over(
  saved, monkeypatch
):
  """It leaves out those whose folder cannot be looked at."""
  monkeypatch.setattr(ocp.CheckpointManager, 'all_steps', lambda _: [3])
  with pytest.raises(OSError, match=r'could not be read \(steps 7\)'):
    checkpoint_lib.Checkpoints(saved)


_NO_CUDA = """
import sys
from sg3jax.train import checkpoint, sharding
for call in (sharding.make_mesh, lambda: checkpoint.load_networks(sys.argv[1])):
  try:
    call()
  except ValueError as error:
    print(error)
"""


def test_a_platform_that_is_not_there_is_named(saved):
  process = subprocess.run(
    [sys.executable, '-c', _NO_CUDA, str(saved)],
    env=os.environ | {'JAX_PLATFORMS': 'cuda'},
    capture_output=True,
    text=True,
    check=True,
  )
  lines = process.stdout.splitlines()
  if not lines:
    pytest.skip('this machine has a GPU')
  assert len(lines) == 2
  for line in lines:
    assert 'no device of the platform cuda, which JAX_PLATFORMS=cuda' in line
    assert 'unset JAX_PLATFORMS' in line


@pytest.mark.parametrize(
  'error', [RuntimeError('no libtpu.so'), AssertionError()]
)
@pytest.mark.parametrize(
  'use', [sharding.make_mesh, checkpoint_lib.Checkpoints]
)
def test_whatever_jax_says_to_that(tmp_path, monkeypatch, error, use):
  def fail():
    raise error

  monkeypatch.setattr(jax, 'devices', fail)
  reason = str(error) or 'no such hardware'
  args = (tmp_path,) if use is checkpoint_lib.Checkpoints else ()
  with pytest.raises(ValueError, match=rf'JAX finds no device .*\({reason}'):
    use(*args)
  assert not list(tmp_path.iterdir())


def test_nothing_global_is_changed_by_a_damaged_checkpoint(run):
  _array_file(run).write_bytes(b'')
  log = logging.getLogger('asyncio')
  before = sys.unraisablehook, log.filters[:]
  assert _restore(run) == 3
  assert (sys.unraisablehook, log.filters) == before


_FOLDERS = [
  'run[1]', '[ab]', 'a*b', 'a?b', '**', 'a\\b', 'gs:', 'a%41b', 'a#b', 'a b',
  'a\'b"c', 'ünï', 'a\nb', 'a|b', '{x}', '~', '$HOME', '-x',
  os.fsdecode(b'\xff'),
]  # fmt: skip


@pytest.mark.parametrize('name', _FOLDERS, ids=ascii)
def test_any_name_of_a_folder_works(tmp_path, name):
  # A folder that the name would be a pattern for must not be mixed in.
  decoy = tmp_path / 'aXb' / checkpoint_lib.FOLDER
  decoy.mkdir(parents=True)
  workdir = tmp_path / name / 'run'
  _save(workdir, 3)
  assert _restore(workdir) == 3
  assert checkpoint_lib.load_networks(workdir)[2] == 3
  assert _names(workdir) == ['3']
  assert not list(decoy.iterdir())
  assert {p.name for p in tmp_path.iterdir()} == {'aXb', name}


@pytest.fixture
def lost(monkeypatch):
  """Lets Orbax lose what is saved in a folder of that name, as it does."""
  monkeypatch.setattr(storage, 'safe_path', lambda folder: folder)
  return 'run[1]'


@pytest.mark.parametrize('end', ['wait', 'close', 'save', 'check'])
def test_a_checkpoint_that_is_not_complete_is_an_error(tmp_path, lost, end):
  workdir = tmp_path / lost
  checkpoints = checkpoint_lib.Checkpoints(workdir)
  state = fake_state.make_state(3, width=8)
  checkpoints.save(state, _OPTIONS)
  if end == 'check':  # Of a tick after it was written.
    checkpoints._manager.wait_until_finished()
  args = (state, _OPTIONS) if end == 'save' else ()
  with pytest.raises(OSError, match=r'Cannot write .*/3: what was written is'):
    getattr(checkpoints, end)(*args)
  checkpoints._manager.close()


def test_arrays_that_are_missing_are_named(tmp_path, monkeypatch):
  shapes = reader.shapes

  def fewer(folder):
    found = shapes(folder)
    del found['networks']['generator/params/conv/bias']
    return found

  monkeypatch.setattr(reader, 'shapes', fewer)
  with pytest.raises(OSError, match='generator/params/conv/bias is absent'):
    _save(tmp_path, 3)


def test_faults_of_ours_are_not_errors_of_writing(tmp_path):
  """Such as options that JSON cannot hold."""
  checkpoints = checkpoint_lib.Checkpoints(tmp_path)
  checkpoints.save(fake_state.make_state(3, width=8), {'a': object()})
  with pytest.raises(TypeError, match='JSON'):
    checkpoints.close()
