"""Checkpoints survive full and failing disks, and the right ones are kept."""

import pathlib
import random
import shutil
import subprocess
import sys
import textwrap

import fake_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sg3jax.train import checkpoint as checkpoint_lib

_OPTIONS = {'train': {'batch': 8}}
_STEPS = (3, 7)
_BESTS = {
  'swd': checkpoint_lib.Best('swd', higher_is_better=False),
  'eqt50k_int': checkpoint_lib.Best('eqt50k_int', higher_is_better=True),
}


def _script(text, **values):
  tests = str(pathlib.Path(__file__).parent)
  return textwrap.dedent(text).format(tests=tests, **values)


def _save(workdir, figures=(), **options):
  """Saves states of the steps 1, 2 and so on with a figure each."""
  checkpoints = checkpoint_lib.Checkpoints(workdir, **options)
  for step, value in enumerate(figures, 1):
    found = {} if value is None else {'swd': value, 'eqt50k_int': -value}
    checkpoints.save(fake_state.make_state(step, width=4), _OPTIONS, found)
  checkpoints.close()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  checkpoints = checkpoint_lib.Checkpoints(workdir)
  for step in _STEPS:
    checkpoints.save(fake_state.make_state(step), _OPTIONS)
  checkpoints.close()
  return workdir


@pytest.fixture
def run(saved, tmp_path):
  """A copy to be damaged."""
  return shutil.copytree(saved, tmp_path / 'run')


def _names(workdir):
  return sorted(p.name for p in (workdir / checkpoint_lib.FOLDER).iterdir())


def _largest_file(workdir, step):
  files = (workdir / checkpoint_lib.FOLDER / str(step) / 'networks').rglob('*')
  return max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def _garble(path):
  data = bytearray(path.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 64] = random.Random(0).randbytes(64)
  path.write_bytes(data)


def _restore(workdir):
  """Returns the step restored, what was said, and checks the arrays."""
  said = []
  checkpoints = checkpoint_lib.Checkpoints(workdir)
  try:
    state = checkpoints.restore(
      fake_state.like(fake_state.make_state(0)), said.append
    )
    assert checkpoints.latest() == int(state.step)
  finally:
    checkpoints.close()
  expected = fake_state.make_state(int(state.step))
  for a, b in zip(
    jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  return int(state.step), said


@pytest.mark.parametrize(
  'damage', [_truncate, _flip_a_bit, _garble, lambda path: path.unlink()]
)
def test_a_damaged_checkpoint_is_moved_aside_for_the_one_before(run, damage):
  damage(_largest_file(run, 7))
  size = len(list((run / checkpoint_lib.FOLDER / '7').rglob('*')))
  step, (line,) = _restore(run)
  assert step == 3
  assert 'the checkpoint of step 7 cannot be read (' in line
  assert 'TensorStore details' not in line  # Of what Orbax wraps around.
  assert str(run / checkpoint_lib.FOLDER / '7.corrupted') in line
  assert '\n' not in line
  assert _names(run) == ['3', '7.corrupted']
  # All of it is still there, and readers of pictures do not take it.
  assert (
    len(list((run / checkpoint_lib.FOLDER / '7.corrupted').rglob('*'))) == size
  )
  assert checkpoint_lib.load_networks(run)[2] == 3
  # The run comes by there again, and may meet the same fate.
  checkpoints = checkpoint_lib.Checkpoints(run)
  checkpoints.save(fake_state.make_state(7), _OPTIONS)
  checkpoints.close()
  _truncate(_largest_file(run, 7))
  assert _restore(run)[0] == 3
  assert _names(run) == ['3', '7.corrupted', '7.corrupted_']


_RESTORE = """
  import asyncio
  import sys
  import time
  sys.path.append({tests!r})
  import fake_state
  from sg3jax.train import checkpoint

  close = asyncio.SelectorEventLoop.close
  def close_later(loop):
    if {turn}:
      time.sleep(0.3)
      loop.stop()
      loop.run_forever()
    close(loop)
    time.sleep(0.3)
  asyncio.SelectorEventLoop.close = close_later

  checkpoints = checkpoint.Checkpoints(sys.argv[1])
  checkpoints.restore(fake_state.like(fake_state.make_state(0)))
  checkpoints.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize('turn', [False, True])
def test_a_damaged_checkpoint_is_told_of_in_one_line(run, turn):
  # Orbax gives up the other arrays. They fail in the last turn of its loop, or
  # after the loop was closed but before the error comes out, or as garbage.
  _truncate(_largest_file(run, 7))
  script = _script(_RESTORE, turn=turn)
  command = [sys.executable, '-c', script, str(run)]
  process = subprocess.run(command, capture_output=True, text=True, check=False)
  assert not process.returncode, process.stderr
  assert len(process.stdout.splitlines()) == 1
  assert not process.stderr


@pytest.mark.parametrize(
  'damage', [_truncate, _flip_a_bit, _garble, lambda path: path.unlink()]
)
@pytest.mark.parametrize(
  'read', [checkpoint_lib.load_networks, checkpoint_lib.load_arrays]
)
def test_readers_name_a_damaged_checkpoint_and_the_remedy(run, damage, read):
  damage(_largest_file(run, 7))
  folder = run / checkpoint_lib.FOLDER
  with pytest.raises(
    ValueError,
    match=rf'the checkpoint {folder}/7 cannot be read \(.*\): restore it from '
    rf'a copy, or name another one in {folder}$',
  ) as error:
    read(run)
  assert '\n' not in str(error.value)
  assert read(folder / '3')


def test_damaged_checkpoints_alone_are_an_error_and_stay(run):
  for step in _STEPS:
    _truncate(_largest_file(run, step))
  with pytest.raises(ValueError, match=r'can be read: 7: .*; 3: .*') as error:
    _restore(run)
  assert str(run / checkpoint_lib.FOLDER) in str(error.value)
  assert 'another run folder to start over' in str(error.value)
  assert '\n' not in str(error.value)
  assert _names(run) == ['3', '7']


def test_other_optimizers_are_no_damage(run):
  like = fake_state.like(fake_state.make_state(0))
  like = like.replace(generator_opt=optax.sgd(1.0).init({}))
  checkpoints = checkpoint_lib.Checkpoints(run)
  with pytest.raises(ValueError, match='generator_opt'):
    checkpoints.restore(like)
  checkpoints.close()
  assert _names(run) == ['3', '7']


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
  state = fake_state.make_state(1, width=4)
  weight = state.generator['params']['conv']['weight'].at[1, 2].set(jnp.nan)
  state.generator['params']['conv']['weight'] = weight
  checkpoints = checkpoint_lib.Checkpoints(tmp_path)
  with pytest.raises(
    FloatingPointError, match='generator/params/conv/weight has values that'
  ):
    checkpoints.save(state, _OPTIONS)
  checkpoints.close()
  assert _names(tmp_path) == []


# Saves a small state, and then one that does not fit; says what is raised.
_FILL = """
  import resource, sys
  sys.path.insert(0, {tests!r})
  import fake_state
  from sg3jax.train import checkpoint
  if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
  checkpoints = checkpoint.Checkpoints(sys.argv[1])
  checkpoints.save(fake_state.make_state(1, width=4), {{}})
  try:
    checkpoints.save(fake_state.make_state(2, width=512), {{}})
    checkpoints.close()
  except OSError as error:
    print(error)
  print(checkpoint.load_networks(sys.argv[1])[2])
"""
_MOUNT = 'mount -t tmpfs -o size=2m tmpfs "$1" && exec "$2" -c "$3" "$1"'


def _fill(folder, *, limit):
  script = _script(_FILL, limit=limit)
  command = [sys.executable, '-c', script, str(folder)]
  if not limit:  # In a name space of its own: nothing else sees that disk.
    command = [
      *('unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', _MOUNT),
      *('sh', str(folder), sys.executable, script),
    ]
  return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
  ('limit', 'reason'),
  [(0, 'No space left on device'), (2**18, 'File too large')],
)
def test_a_full_disk_is_one_clear_error(tmp_path, limit, reason):
  process = _fill(tmp_path, limit=limit)
  if not limit and 'unshare' in process.stderr.partition('\n')[0]:
    pytest.skip('a small disk cannot be mounted here')
  message, step = process.stdout.splitlines()
  assert message.startswith(
    f'Cannot write {tmp_path / checkpoint_lib.FOLDER}: {reason}. '
    'Make room there'
  )
  assert 'run the same command again' in message
  assert step == '1'  # The one before is whole.


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
  (tmp_path / checkpoint_lib.FOLDER).touch()
  with pytest.raises(OSError, match=f'Cannot write {tmp_path}.*Make it writ'):
    checkpoint_lib.Checkpoints(tmp_path)


@pytest.mark.parametrize(
  ('figure', 'kept', 'best'),
  [
    # The lowest swd is that of step 2; the highest eqt50k_int too.
    ('swd', ['2', '4', '5'], 2),
    ('eqt50k_int', ['2', '4', '5'], 2),
    (None, ['4', '5'], None),
  ],
)
def test_the_best_one_is_kept_beside_the_newest(tmp_path, figure, kept, best):
  chosen = figure and _BESTS[figure]
  _save(tmp_path, [3.0, 1.0, 2.0], keep=2, best=chosen)
  # Another session, which measures less well or not at all.
  checkpoints = checkpoint_lib.Checkpoints(tmp_path, keep=2, best=chosen)
  checkpoints.save(
    fake_state.make_state(4, width=4), _OPTIONS, {'swd': float('nan')}
  )
  checkpoints.save(fake_state.make_state(5, width=4), _OPTIONS)
  checkpoints.close()
  assert _names(tmp_path) == kept
  path = tmp_path / checkpoint_lib.FOLDER / checkpoint_lib.BEST
  if best:
    assert checkpoint_lib.load_networks(path)[2] == best
  else:
    with pytest.raises(FileNotFoundError, match='keep_best set to the name'):
      checkpoint_lib.load_networks(path)
  assert checkpoint_lib.load_networks(tmp_path)[2] == 5


def test_a_better_one_takes_the_place_of_the_best(tmp_path):
  _save(tmp_path, [3.0, 1.0, None, 0.5, 2.0, 4.0], keep=1, best=_BESTS['swd'])
  assert _names(tmp_path) == ['4', '6']
