"""Commands with settings, paths, numbers, words and disks that are wrong."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import in_process
import jax
import numpy as np
import pytest
import tiny_run
from absl import flags

import sg3jax
from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.cli import (
  doctor,
  evaluate,
  export,
  generate,
  import_,
  official_options,
  spec,
  sweep,
  train,
)
from sg3jax.interop import model_files
from sg3jax.interop.official import convert

_GENERATE = ('--network=nowhere', '--seeds=0', '--outdir=never-made')
_TRAIN = ('--config=quickstart', '--workdir=never-made')


# Platforms that are not there.


@pytest.mark.parametrize('command', [doctor, train])
def test_commands_name_it_too(monkeypatch, command):
  def fail(*_):
    raise AssertionError

  monkeypatch.setattr(jax, 'devices', fail)
  args = (
    (f'--config={tiny_run.__file__}', '--workdir=never-made',
     '--config.data.source=embedded:8')
    if command is train else ()
  )  # fmt: skip
  message, _ = in_process.run(command, *args)
  assert 'JAX finds no device' in message
  assert 'JAX_PLATFORMS' in message


@pytest.mark.parametrize(
  'error',
  [
    MemoryError('Unable to allocate 30 GiB'),
    RuntimeError('RESOURCE_EXHAUSTED: Out of memory\nallocating 30 GiB'),
  ],
)
def test_too_little_memory_has_a_remedy(monkeypatch, error):
  def fail(*_):
    raise error

  monkeypatch.setattr(model_lib, 'load_model', fail)
  found = in_process.error(generate, *_GENERATE)
  assert found.startswith('there is too little memory: use a smaller batch')
  assert 'allocat' in found


def test_models_are_not_called_damaged_for_it(monkeypatch):
  def fail(*_):
    raise AssertionError

  monkeypatch.setattr(jax, 'devices', fail)
  assert 'JAX finds no device' in in_process.error(generate, *_GENERATE)


@pytest.mark.parametrize('name', ['cuda', 'abacus'])
def test_platforms_by_the_environment(name):
  """In a process of its own: this one has chosen a platform already."""
  process = subprocess.run(
    [sys.executable, '-m', 'sg3jax', 'generate', *_GENERATE],
    env=os.environ | {'JAX_PLATFORMS': name},
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 1
  line, *_ = process.stderr.splitlines()
  assert f'the platform {name}, which JAX_PLATFORMS={name} asks for' in line


# Numbers.


@pytest.mark.parametrize(
  ('command', 'args'),
  [
    *((generate, f'--trunc={x}') for x in ('nan', 'inf', '-inf', '1e9')),
    *((generate, f'--rotate={x}') for x in ('nan', 'inf')),
    *(
      (generate, f'--translate={x}')
      for x in ('nan,0', '0,inf', '1e30,0', '1', '1,2,3', '')
    ),
    (generate, '--trunc_cutoff=-1'),
    (generate, '--trunc_cutoff=1e3'),
    (generate, '--batch=0'),
    *((generate, f'--seeds={x}') for x in ('4294967296', '0-4294967295')),
    (train, '--plan_memory=nan'),
    (train, '--profile_processes=0'),
    (train, '--topology=v5e:2x2'),
    (train, '--devices=0'),
    (train, '--config.train.g_lr=nan'),
    (train, '--config.train.total_kimg=inf'),
    (train, '--config.model.synthesis.first_cutoff=nan'),
    (spec, '--config.model.synthesis.first_cutoff=inf'),
    (evaluate, '--samples=0'),
    (sweep, '--cpus_per_point=nan'),
    (sweep, '--gpus_per_point=inf'),
  ],
  ids=lambda value: value if isinstance(value, str) else None,
)
def test_impossible_numbers_are_refused_before_anything_else(
  monkeypatch, command, args
):
  def fail(*_, **__):
    raise AssertionError('it went on')

  monkeypatch.setattr(model_lib, 'load_model', fail)
  monkeypatch.setattr(launch, 'open_source', fail)
  base = {generate: _GENERATE, train: _TRAIN, spec: _TRAIN[:1]}
  flag = args.partition('=')[0]
  message = in_process.error(command, *base.get(command, ()), args)
  assert flag in message
  assert not pathlib.Path('never-made').exists()


@pytest.mark.parametrize(
  ('args', 'word'),
  [
    (['--topology=v9:1'], 'v5e:16x16'),
    (['--topology=v5e:2x2', '--devices=1'], '--devices'),
    (['--topology=v5e:2x2', '--plan_memory=1'], '--plan_memory'),
  ],
)
def test_impossible_topologies(args, word):
  assert word in in_process.error(train, *_TRAIN, '--plan', *args)


def test_more_devices_than_there_are():
  message = in_process.error(
    train, f'--config={tiny_run.__file__}', '--workdir=never-made',
    '--config.data.source=embedded:8', '--devices=9',
  )  # fmt: skip
  assert 'at most 4' in message


# Paths.


@pytest.fixture
def home(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  return tmp_path


@pytest.mark.parametrize(
  ('command', 'args'),
  [
    (generate, ('--network=~/x', '--seeds=0', '--outdir=~/y')),
    (evaluate, ('--network=~/x',)),
    (export, ('--network=~/x', '--output=~/y.npz')),
    (import_, ('~/x', '--output=~/y')),
    (
      train,
      (f'--config={tiny_run.__file__}', '--config.data.source=embedded:8',
       '--workdir=~/y', '--init_from=~/x'),
    ),
    (spec, ('--config=~/x.py',)),
  ],
  ids=lambda value: None if isinstance(value, tuple) else value.__name__,
)  # fmt: skip
def test_paths_may_begin_with_the_home_folder(home, command, args):
  message = in_process.error(command, *args)
  assert str(home / 'x') in message
  assert not list(home.iterdir())


@pytest.mark.parametrize('name', ['outdir', 'workdir', 'output'])
def test_outputs_below_the_home_folder(home, name):
  parser = flags.FLAGS[name].parser
  assert parser.parse('~/y') == str(home / 'y')


@pytest.mark.parametrize('address', ['https://a.b/c.pkl', 'gs://a/b', 's3://a'])
@pytest.mark.parametrize(
  ('command', 'args'),
  [
    (generate, ('--network={}', '--seeds=0', '--outdir=never-made')),
    (generate, ('--network=nowhere', '--seeds=0', '--outdir={}')),
    (evaluate, ('--network={}',)),
    (export, ('--network={}', '--output=never-made.npz')),
    (import_, ('{}', '--output=never-made')),
    (train, (*_TRAIN, '--init_from={}')),
  ],
)
def test_addresses_are_to_be_downloaded_first(command, args, address):
  args = [arg.format(address) for arg in args]
  message = in_process.error(command, *args)
  assert f'got the address {address}' in message
  assert 'download it first' in message


def test_all_of_a_model_is_read_from_the_home_folder(home, monkeypatch):
  found = []

  def read(path):
    found.append(path)
    return {}, {}, 7

  monkeypatch.setattr(model_lib, 'read_networks', read)

  def count(path, step):
    found.append(path)
    assert step == 7
    raise StopIteration

  monkeypatch.setattr(model_lib.checkpoint_lib, 'load_nimg', count)
  with pytest.raises(StopIteration):
    sg3jax.load_model('~/x')
  assert found == [home / 'x'] * 2


def test_the_library_takes_paths_alike(home):
  with pytest.raises(FileNotFoundError, match=str(home / 'x')):
    sg3jax.load_model('~/x')
  with pytest.raises(ValueError, match='download it first'):
    sg3jax.load_model('https://a.b/c')
  with pytest.raises(ValueError, match='download it first'):
    model_lib.read_options(pathlib.Path('gs://a/b'))


# Words.


def _config(tmp_path, line):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from sg3jax.train import config as config_lib\n'
    'def get_config():\n'
    '  config = config_lib.default_config()\n'
    f'  {line}\n'
    '  return config\n'
  )
  return path


@pytest.mark.parametrize(
  ('line', 'match'),
  [
    ('config.train.bathc = 8', 'Did you mean "batch" instead of "bathc"?'),
    ('config.trian.batch = 8', 'Did you mean "train" instead of "trian"?'),
    ('print(config.train.bathc)', 'Did you mean "batch" instead of "bathc"?'),
    ('config.train.batch = "many"', "field 'batch'"),
    ('config.train.batch = many', "name 'many' is not defined (NameError)"),
    ('config.train.batch = = 1', 'invalid syntax (mine.py, line 4)'),
    ('1 / 0', 'division by zero (ZeroDivisionError)'),
    ('import nonsense_there_is', 'No module named'),
  ],
)
def test_errors_of_a_configuration_file_are_one_line(tmp_path, line, match):
  message = in_process.error(spec, f'--config={_config(tmp_path, line)}')
  assert match in message
  assert 'object at 0x' not in message
  if 'Error whilst' not in message:
    assert 'mine.py, line 4' in message


def test_the_official_command_line_is_answered_in_our_words():
  message, _ = in_process.run(
    train, '--outdir=x', '--cfg=stylegan3-t', '--data=y', '--gpus=8',
    '--batch=32', '--gamma=8.2', '--mirror=1', '--aug=noaug', '--kimg=1',
    '--snap=5', '--metrics=none', '--resume=z', '--freezed=10', '--cbase=1',
    '--cmax=2', '--glr=1', '--dlr=1', '--mbstd-group=4', '--workers=3',
    '--fp32=1', '--nobench=1', '--desc=d', '--seed=1', '-n',
  )  # fmt: skip
  assert len(message.splitlines()) == 1
  assert 'docs/options.md' in message
  words = official_options.WORDS['train']
  asked = 'outdir cfg data batch gamma mirror aug kimg snap metrics resume freezed cbase cmax glr dlr mbstd-group workers fp32 nobench desc seed'  # noqa: E501
  for name in asked.split():
    assert f'--{name} is {words[name]} here' in message
  assert '-n is --plan here' in message
  assert '--gpus is' not in message  # It is understood.


def test_official_words_of_images_are_understood(home):
  message = in_process.error(
    generate, '--trunc=0.7', '--seeds=0-3', '--outdir=never-made', '--class=1',
    '--noise-mode=none', '--translate=0.1,0', '--rotate=10', '--network=~/x',
  )  # fmt: skip
  assert 'no run or checkpoint folder' in message
  assert '--w-frames is an option of sg3jax video' in in_process.error(
    generate, *_GENERATE, '--w-frames=3'
  )


def test_flags_of_other_commands_are_not_ignored():
  message = in_process.error(train, *_TRAIN, '--precision=bf16')
  assert "unknown command line flag 'precision'" in message
  message = in_process.error(spec, *_TRAIN[:1], '--network=x')
  assert "unknown command line flag 'network'" in message


def test_arguments_in_messages_are_written_as_flags(monkeypatch):
  def fail(*_):
    raise ValueError('pass config=mine.py, or train.batch, not seed or config')

  monkeypatch.setattr(convert, 'import_file', fail)
  message = in_process.error(
    import_, 'x', '--output=y', f'--config={tiny_run.__file__}'
  )
  assert message == (
    'pass --config=mine.py, or --config.train.batch, not seed or config'
  )


def test_fields_in_messages_are_written_as_flags():
  message = in_process.error(train, *_TRAIN, '--config.train.batch=0',
                             '--config.data.source=embedded:8')  # fmt: skip
  assert message == '--config.train.batch must be at least 1, got 0'
  message = in_process.error(train, '--config=stylegan3_t:64', *_TRAIN[1:])
  assert message.startswith('--config.data.source must name the training')


# Disks and folders.


class _Model(model_lib.Model):
  label_dim = 0
  class_names = None
  z_dim = 1
  generator = types.SimpleNamespace(
    spec=types.SimpleNamespace(takes_transforms=True, image_shape=(4, 4, 3))
  )

  def __init__(self):
    """Makes a model without networks."""

  def mapping(self, z, *_, **__):
    return np.zeros((len(z), 1, 1), np.float32)

  def synthesis(self, ws, *_, **__):
    return np.zeros((len(ws), 4, 4, 3), np.float32)


@pytest.fixture
def fake_model(monkeypatch):
  monkeypatch.setattr(model_lib, 'load_model', lambda *_: _Model())


def _generate(outdir, *args):
  return in_process.run(
    generate, '--network=x', '--seeds=0-1', f'--outdir={outdir}', '--batch=1',
    *args,
  )  # fmt: skip


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_disks_that_take_nothing(monkeypatch, fake_model, tmp_path, number):
  def fail(_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(os, 'fsync', fail)
  message, out = _generate(tmp_path / 'new')
  path = tmp_path / 'new' / 'seed0000.png'
  assert message.startswith(
    f'error: Cannot write {path}: {os.strerror(number)}. Make '
  )
  assert not out
  assert not list((tmp_path / 'new').iterdir())
  with pytest.raises(OSError, match=r'Cannot write .*/g\.npz: '):
    model_files.save_arrays(tmp_path / 'g.npz', {'x': np.zeros(3)})


def test_images_that_are_reported_exist(fake_model, tmp_path):
  status, out = _generate(tmp_path / 'new')
  assert not status
  paths = [pathlib.Path(line) for line in out.splitlines()]
  assert [path.name for path in paths] == ['seed0000.png', 'seed0001.png']
  assert all(path.stat().st_size for path in paths)


def test_outputs_that_are_in_the_way(fake_model, tmp_path):
  file = tmp_path / 'file'
  file.touch()
  for outdir in (file, file / 'below'):
    assert f'{file} is a file' in _generate(outdir)[0]
  (tmp_path / 'seed0001.png').mkdir()
  for args in ((), ('--overwrite',)):
    assert 'seed0001.png is a folder' in _generate(tmp_path, *args)[0]
  assert not (tmp_path / 'seed0000.png').exists()
  (tmp_path / 'g.npz').mkdir()
  for output, match in (
    ('g.npz', 'exists: choose another name'),
    ('file/g.npz', 'is a file'),
  ):
    message = in_process.error(
      export, '--network=x', f'--output={tmp_path / output}'
    )
    assert match in message
  message = in_process.error(import_, 'x', f'--output={file}/below')
  assert 'is a file' in message
  message = in_process.error(
    spec, f'--config={tiny_run.__file__}', f'--outdir={file}'
  )
  assert 'is a file' in message
  assert '--seeds is required' in in_process.error(
    generate, '--network=x', '--seeds=', f'--outdir={tmp_path}'
  )


# Ctrl-C.


def test_ctrl_c_while_libraries_are_imported(cli):
  process = cli.start('generate', *_GENERATE)
  while 'jaxlib' not in pathlib.Path(f'/proc/{process.pid}/maps').read_text():
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  out, error = process.communicate(timeout=60)
  assert (process.returncode, out, error) == (130, '', 'Interrupted\n')


@pytest.mark.parametrize(
  'handler', ['signal.default_int_handler', 'lambda *_: None']
)
def test_ctrl_c_while_a_command_works(handler):
  """At once, or after a while if Python does not come to handle it."""
  code = f"""
import signal, sys, time, types
from sg3jax.cli import main
main._GRACE = 0.2
def work(_):
  signal.signal(signal.SIGINT, {handler})
  print('ready', flush=True)
  time.sleep(60)
main._find_command = lambda: types.SimpleNamespace(main=work)
sys.argv = ['sg3jax', 'doctor']
main.main()
"""
  process = subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=60)
  assert (process.returncode, error) == (130, 'Interrupted\n')
