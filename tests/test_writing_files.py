import errno
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from sg3jax import files


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
  path = tmp_path / 'new' / 'a.txt'
  for data in (b'first', b'second'):
    files.write_bytes(path, data)
    assert path.read_bytes() == data
  assert list(path.parent.iterdir()) == [path]


def test_what_is_written_has_the_suffix_and_hides_until_it_is_whole(tmp_path):
  path = tmp_path / 'a.npz'
  with files.replacing(path) as temporary:
    assert temporary.suffix == '.npz'
    assert temporary.name.startswith('.')
    temporary.write_bytes(b'whole')
    assert not path.exists()
  assert path.read_bytes() == b'whole'


def _write(path, *, then_fail=False):
  with files.replacing(path) as temporary:
    temporary.write_bytes(b'new')
    if then_fail:
      raise OSError('no space')


def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch):
  path = tmp_path / 'a.txt'
  path.write_bytes(b'old')
  with pytest.raises(OSError, match='no space'):
    _write(path, then_fail=True)
  with pytest.raises(FileNotFoundError), files.replacing(path):
    pass  # Nothing was written.

  def fail(*_):
    raise OSError('no rename')

  with monkeypatch.context() as patch:
    patch.setattr('os.replace', fail)
    with pytest.raises(OSError, match='no rename'):
      _write(path)
  assert path.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ('given', 'path'),
  [
    ('~/runs/x', '/home/me/runs/x'),
    ('~', '/home/me'),
    ('runs/~', 'runs/~'),  # A folder of that name.
    ('~nobody-of-that-name/x', '~nobody-of-that-name/x'),
    ('./gs:/bucket', './gs:/bucket'),
    ('a:b', 'a:b'),
    ('C:/runs', 'C:/runs'),
  ],
)
def test_paths_are_taken_as_a_shell_takes_them(given, path, monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  assert files.local_path(given) == pathlib.Path(path)


@pytest.mark.parametrize(
  'address',
  ['gs://bucket/run', 's3://b/r', 'hdfs://h/r', 'https://x.org/r', 'file:///r'],
)
def test_addresses_are_no_folders(address):
  for path in (address, pathlib.Path(address)):  # Which drops a slash.
    with pytest.raises(ValueError, match=r'must be on a local .*, got .*mount'):
      files.local_path(path)


@pytest.mark.parametrize(
  ('error', 'reason', 'remedy'),
  [
    (OSError(errno.ENOSPC, ''), 'No space left on device', 'Make room there'),
    (OSError(errno.EACCES, ''), 'Permission denied', 'Make it writable'),
    # As TensorStore and safetensors say it.
    (ValueError("os_error_code='28'"), 'No space left', 'Make room there'),
    (ValueError('I/O error: x (os error 28)'), 'No space left', 'Make room'),
    (ValueError('odd\nand long'), r'odd\.', 'Make it writable'),
  ],
)
def test_errors_of_writing_have_one_form(error, reason, remedy):
  message = str(files.write_error('a/b', error))
  assert re.match(rf'Cannot write a/b: {reason}.* {remedy}', message)


def test_errors_that_are_sentences_stay(tmp_path):
  with (
    pytest.raises(OSError, match='choose another name'),
    files.naming_errors(tmp_path),
  ):
    raise OSError('choose another name')
  with (
    pytest.raises(OSError, match=r'Cannot write .*: Read-only.*Make it'),
    files.naming_errors(tmp_path),
  ):
    raise OSError(errno.EROFS, 'x')


def test_a_lock_is_held_by_one_and_names_it(tmp_path):
  path = tmp_path / '.lock'
  path.write_text('process 1 on a machine that is gone\n')
  with files.lock(path):
    holder = f'^process {os.getpid()} on {socket.gethostname()}, since 2'
    with pytest.raises(files.LockedError, match=holder):
      files.lock(path)
  files.lock(path).close()


_HOLD = """
import sys, time
from sg3jax import files
lock = files.lock(sys.argv[1])
print('held', flush=True)
time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path):
  path = tmp_path / '.lock'
  command = [sys.executable, '-c', _HOLD, str(path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    try:
      assert process.stdout.readline() == 'held\n'
      with pytest.raises(files.LockedError, match=f'process {process.pid} on'):
        files.lock(path)
    finally:
      process.kill()
  files.lock(path).close()


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_used_with_a_warning(
  tmp_path, monkeypatch, number
):
  def refuse(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr('fcntl.flock', refuse)
  with pytest.warns(RuntimeWarning, match='without locks') as warned:
    files.lock(tmp_path / '.lock').close()
  assert len(warned) == 1


def test_other_errors_of_locking_are_raised(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr('fcntl.flock', fail)
  with pytest.raises(OSError, match='Input/output'):
    files.lock(tmp_path / '.lock')


def test_a_folder_that_takes_no_files_is_refused(tmp_path, monkeypatch):
  files.check_folder(tmp_path / 'new' / 'folder')
  assert not list(tmp_path.iterdir())

  def refuse(**_):
    raise OSError(errno.EROFS, 'Read-only file system')

  # Permissions say nothing to the superuser, who may run the tests.
  monkeypatch.setattr(files.tempfile, 'TemporaryFile', refuse)
  with pytest.raises(PermissionError, match=r'\(Read-only .*choose another'):
    files.check_folder(tmp_path / 'new' / 'folder')
