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
