"""Compiled programs that commands keep."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax
import pytest

from sg3jax.cli import compilation_cache


@pytest.fixture(autouse=True)
def setting(monkeypatch):
  """JAX as a user has it who has told it nothing; restored in the end."""
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  jax.config.update('jax_compilation_cache_dir', before)


def test_the_default_is_below_the_users_cache_folder(
  monkeypatch, tmp_path, capsys
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  compilation_cache.enable(None)
  folder = tmp_path / 'sg3jax' / 'compiled'
  assert compilation_cache.current_folder() == str(folder)
  assert list(folder.iterdir()) == []  # Nothing is left of the attempt.
  assert capsys.readouterr().err == ''


def test_a_relative_cache_folder_of_the_system_is_ignored(
  monkeypatch, tmp_path
):
  monkeypatch.setattr(sys, 'platform', 'linux')
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('XDG_CACHE_HOME', 'here')
  folder = tmp_path / '.cache' / 'sg3jax' / 'compiled'
  assert compilation_cache.default_folder() == folder


def test_what_jax_has_been_told_wins_over_the_default(tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  compilation_cache.enable(None)
  assert compilation_cache.current_folder() == str(tmp_path)


def test_so_does_a_variable_that_is_empty(monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
  compilation_cache.enable(None)
  assert compilation_cache.current_folder() is None


@pytest.mark.parametrize('told', [None, 'folder'])
def test_the_option_wins_over_all(monkeypatch, tmp_path, told):
  if told:
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', told)
    jax.config.update('jax_compilation_cache_dir', told)
  compilation_cache.enable(str(tmp_path / 'new' / 'one'))
  assert compilation_cache.current_folder() == str(tmp_path / 'new' / 'one')
  compilation_cache.enable('none')
  assert compilation_cache.current_folder() is None


def test_buckets_are_left_to_jax():
  compilation_cache.enable('gs://bucket/programs')
  assert compilation_cache.current_folder() == 'gs://bucket/programs'
  assert not pathlib.Path('gs:').exists()


def test_jax_may_be_told_to_keep_nothing(tmp_path):
  compilation_cache.enable(str(tmp_path))
  jax.config.update('jax_enable_compilation_cache', False)
  try:
    assert compilation_cache.current_folder() is None
  finally:
    jax.config.update('jax_enable_compilation_cache', True)


def _make_unusable(kind, tmp_path, monkeypatch):
  folder = tmp_path / 'folder'
  if kind == 'a file in its place':
    folder.touch()
  elif kind == 'a file above it':
    folder.touch()
    folder /= 'below'
  elif kind == 'read-only':
    folder.mkdir()
    folder.chmod(0o500)
    if os.geteuid() == 0:  # Who may write all the same.

      def refuse(dir):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))

      monkeypatch.setattr(tempfile, 'TemporaryFile', refuse)
  elif kind == 'full':
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  elif kind == 'no home':
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(
      os.path, 'expanduser', lambda path: path
    )  # As where there is none.
    return None
  return str(folder)


@pytest.mark.parametrize(
  'kind',
  ['a file in its place', 'a file above it', 'read-only', 'full', 'no home'],
)
def test_an_unusable_folder_is_one_line(kind, tmp_path, monkeypatch, capsys):
  compilation_cache.enable(_make_unusable(kind, tmp_path, monkeypatch))
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('warning: compiled programs are not kept: ')
  assert compilation_cache.current_folder() is None


def _start(*args, **env):
  root = pathlib.Path(__file__).parents[2]
  return subprocess.Popen(
    [sys.executable, '-m', 'sg3jax', *args],
    env=os.environ
    | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(root)}
    | {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    | env,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def _finish(process):
  out, error = process.communicate(timeout=300)
  assert process.returncode == 0, error
  assert out.endswith('self-test            passed\n')
  return out, error


@pytest.mark.slow
def test_commands_share_a_folder_and_survive_what_is_in_it(tmp_path):
  folder = tmp_path / 'sg3jax' / 'compiled'
  env = {'XDG_CACHE_HOME': str(tmp_path)}
  # Two at once, which start with an empty folder.
  for process in [_start('doctor', **env), _start('doctor', **env)]:
    out, _ = _finish(process)
    assert f'compiled programs    {folder}\n' in out
  programs = sorted(folder.iterdir())
  assert len(programs) > 2
  times = [path.stat().st_mtime_ns for path in programs]
  # Another one finds all of them.
  _, error = _finish(_start('doctor', **env))
  assert not error
  assert sorted(folder.iterdir()) == programs
  assert [path.stat().st_mtime_ns for path in programs] == times
  # One that was cut short is compiled again.
  for path in programs:
    path.write_bytes(path.read_bytes()[:100])
  _finish(_start('doctor', **env))


@pytest.mark.slow
def test_a_file_in_the_place_of_the_folder_does_not_end_a_command(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  out, error = _finish(_start('doctor', f'--compilation_cache={file}'))
  (line,) = error.splitlines()
  assert line.startswith('warning: compiled programs are not kept: ')
  assert 'compiled programs    not kept\n' in out
