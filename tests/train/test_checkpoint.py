"""Saving, restoring and reading checkpoints of a state of NumPy-sized nets."""

import functools
import subprocess
import sys

import fake_state
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import sharding
from sg3jax.train.step.state import TrainState

_OPTIONS = {'model': {'resolution': 16}, 'train': {'batch': 8}}


def _on_mesh(state: TrainState, num_devices: int) -> TrainState:
  mesh = sharding.make_mesh(num_devices)
  return jax.device_put(state, sharding.replicated(mesh))


def _assert_equal(ours: TrainState, other: TrainState) -> None:
  assert jax.tree.structure(ours) == jax.tree.structure(other)
  for (path, a), b in zip(
    jax.tree.leaves_with_path(ours), jax.tree.leaves(other), strict=True
  ):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A run folder with checkpoints of steps 3 and 7, written on 4 devices."""
  workdir = tmp_path_factory.mktemp('run')
  checkpoints = checkpoint_lib.Checkpoints(workdir)
  for step in (3, 7):
    checkpoints.save(_on_mesh(fake_state.make_state(step), 4), _OPTIONS)
  checkpoints.close()
  return workdir


@pytest.mark.parametrize('path', ['', 'checkpoints', 'checkpoints/7'])
def test_images_are_counted_at_the_step_that_was_read(saved, path):
  # A run folder may have got step 7 since step 3 was read from it.
  assert checkpoint_lib.load_nimg(saved / path, 3) == 24
  assert checkpoint_lib.load_nimg(saved / path, 7) == 56


@pytest.mark.parametrize('num_devices', [1, 4])
def test_a_saved_state_may_be_donated_at_once(tmp_path, num_devices):
  # Large, so that the buffers are overwritten long before they are written.
  expected = fake_state.make_state(0, width=1024)

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, factor):
    return jax.tree.map(lambda x: (x * factor).astype(x.dtype), state)

  state = update(_on_mesh(fake_state.make_state(0, width=1024), num_devices), 1)
  like = fake_state.like(state)
  checkpoints = checkpoint_lib.Checkpoints(tmp_path)
  checkpoints.save(state, _OPTIONS)
  for _ in range(3):
    state = update(state, 0)
  assert not np.any(state.generator['params']['conv']['bias'])
  checkpoints.close()
  checkpoints = checkpoint_lib.Checkpoints(tmp_path)
  restored = checkpoints.restore(like)
  checkpoints.close()
  _assert_equal(restored, expected)


def test_saving_goes_on_in_the_background(tmp_path):
  """`save` returns before the checkpoint is there; `close` waits for it."""
  checkpoints = checkpoint_lib.Checkpoints(tmp_path)
  checkpoints.save(_on_mesh(fake_state.make_state(5, width=2048), 1), _OPTIONS)
  there_at_once = (tmp_path / checkpoint_lib.FOLDER / '5').exists()
  checkpoints.close()
  assert not there_at_once
  assert (tmp_path / checkpoint_lib.FOLDER / '5').exists()


@pytest.mark.parametrize('num_devices', [1, 2, 4])
def test_restores_onto_another_mesh(saved, num_devices):
  expected = fake_state.make_state(7)
  like = fake_state.like(_on_mesh(expected, num_devices))
  checkpoints = checkpoint_lib.Checkpoints(saved)
  assert checkpoints.latest() == 7
  restored = checkpoints.restore(like)
  checkpoints.close()
  _assert_equal(restored, expected)
  for array in jax.tree.leaves(restored):
    assert len(array.sharding.device_set) == num_devices


@pytest.mark.parametrize(
  ('path', 'step'),
  [('', 7), ('checkpoints', 7), ('checkpoints/7', 7), ('checkpoints/3', 3)],
)
def test_load_networks_takes_runs_and_checkpoints(saved, path, step):
  options, networks, loaded_step = checkpoint_lib.load_networks(saved / path)
  assert (options, loaded_step) == (_OPTIONS, step)
  expected = fake_state.make_state(step)
  assert set(networks) == {'generator', 'generator_ema', 'discriminator'}
  for name, variables in networks.items():
    for ours, theirs in zip(
      jax.tree.leaves(variables),
      jax.tree.leaves(getattr(expected, name)),
      strict=True,
    ):
      assert isinstance(ours, np.ndarray)
      np.testing.assert_array_equal(ours, theirs)


def test_load_arrays_reads_the_optimizers_too(saved):
  arrays = checkpoint_lib.load_arrays(saved)
  assert int(arrays['progress']['step']) == 7
  assert int(arrays['progress']['nimg']) == 56
  count = len(jax.tree.leaves(fake_state.make_state(7)))
  assert len(jax.tree.leaves(arrays)) == count


def test_a_machine_with_fewer_devices_reads_networks(saved):
  """Written by four devices here, read where there is one."""
  code = (
    'import sys, jax; from sg3jax.train import checkpoint; '
    'assert jax.device_count() == 1; '
    'print(checkpoint.load_networks(sys.argv[1])[2])'
  )
  process = subprocess.run(
    [sys.executable, '-c', code, str(saved)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.stdout == '7\n', process.stderr
  assert not process.stderr  # Nor a warning.


def test_keeps_the_newest(tmp_path):
  checkpoints = checkpoint_lib.Checkpoints(tmp_path, keep=2)
  for step in (1, 2, 3, 4):
    checkpoints.save(fake_state.make_state(step, width=4), _OPTIONS)
  checkpoints.close()
  folder = tmp_path / checkpoint_lib.FOLDER
  assert sorted(p.name for p in folder.iterdir() if p.name.isdigit()) == [
    '3',
    '4',
  ]


def test_an_incomplete_checkpoint_is_none(saved, tmp_path):
  """A kill leaves a temporary folder, which the next session removes."""
  folder = tmp_path / checkpoint_lib.FOLDER
  torn = folder / '9.orbax-checkpoint-tmp'
  (torn / 'networks').mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match=r'no complete checkpoint in .*'):
    checkpoint_lib.load_networks(tmp_path)
  checkpoints = checkpoint_lib.Checkpoints(tmp_path)
  assert checkpoints.latest() is None
  with pytest.raises(FileNotFoundError, match='no complete checkpoint'):
    checkpoints.restore(fake_state.like(fake_state.make_state(0, width=4)))
  checkpoints.close()


def test_missing_folders_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no run .* folder .*/nothing'):
    checkpoint_lib.load_networks(tmp_path / 'nothing')
  with pytest.raises(
    FileNotFoundError, match='pass a run folder that holds checkpoints/STEP'
  ):
    checkpoint_lib.load_networks(tmp_path)


def test_other_shapes_are_one_clear_error(saved):
  checkpoints = checkpoint_lib.Checkpoints(saved)
  like = fake_state.like(fake_state.make_state(7))
  like.generator['params']['conv']['bias'] = jax.ShapeDtypeStruct(
    (63,), jnp.float32
  )
  like.generator['params']['torgb'] = like.step
  with pytest.raises(ValueError, match='is of other networks') as error:
    checkpoints.restore(like)
  checkpoints.close()
  message = str(error.value)
  assert 'generator/params/conv/bias is (64,), not (63,)' in message
  assert 'generator/params/torgb is absent, not ()' in message
  assert 'another run folder' in message
  assert '\n' not in message
