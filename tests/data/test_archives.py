"""Names of files: one spelling, whatever a tool or a system stored."""

import errno
import json
import os
import pickle
import unicodedata
import zipfile

import numpy as np
import pytest
from test_files import encode, picture

from sg3jax.data import archives, files

_COMPOSED = unicodedata.normalize('NFC', 'é/ü.png')
_DECOMPOSED = unicodedata.normalize('NFD', _COMPOSED)

_SPELLINGS = {
  'c\\a.png': 'c/a.png',
  '.\\c\\a.png': 'c/a.png',
  './c//a.png': 'c/a.png',
  '/c/./a.png': 'c/a.png',
  '../c/a.png': '../c/a.png',
  _DECOMPOSED: _COMPOSED,
  'c/..a.png': 'c/..a.png',
}


@pytest.mark.parametrize(('spelling', 'name'), _SPELLINGS.items())
def test_names_have_one_spelling(spelling, name):
  assert archives.normalize(spelling) == name
  assert archives.normalize(name) == name


def _write_zip(path, names, extra=()):
  with zipfile.ZipFile(path, 'w') as archive:
    for i, name in enumerate(names):
      info = zipfile.ZipInfo('x')
      info.filename = name  # ZipInfo would repair some of them.
      archive.writestr(info, encode(picture(i)))
    for name, data in extra:
      archive.writestr(name, data)
  return path


@pytest.mark.parametrize('listed', ['c\\a.PNG', 'c/a.png', './c/a.png'])
@pytest.mark.parametrize('stored', ['c\\a.png', 'c/a.PNG', '.\\c\\a.png'])
def test_labels_are_found_under_any_spelling(tmp_path, stored, listed):
  labels = {'labels': [['c/b.png', 0], [listed, 1]]}
  path = _write_zip(
    tmp_path / 'a.zip',
    [stored, 'c\\b.png'],
    [('.\\dataset.json', json.dumps(labels))],
  )
  source = files.ImageFiles(path, use_labels=True)
  np.testing.assert_array_equal(source.labels().values, [1, 0])
  np.testing.assert_array_equal(source[0]['image'], picture(0))
  again = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(again[0]['image'], picture(0))
  (note,) = source.notes
  assert 'normalized to / between folders' in note
  assert 'c\\b.png as c/b.png' in note


@pytest.mark.parametrize(
  ('stored', 'listed'),
  [(_COMPOSED, _DECOMPOSED), (_DECOMPOSED, _COMPOSED)],
)
def test_unicode_forms_are_one_name(tmp_path, stored, listed):
  image = tmp_path / stored
  image.parent.mkdir()
  image.write_bytes(encode(picture(0)))
  text = json.dumps({'labels': [[listed, 3]]})
  (tmp_path / 'dataset.json').write_text(text)
  source = files.ImageFiles(tmp_path, use_labels=True)
  np.testing.assert_array_equal(source.labels().values, [3])
  np.testing.assert_array_equal(source[0]['image'], picture(0))


def test_backslashes_are_folders_and_thus_classes(tmp_path):
  path = _write_zip(tmp_path / 'a.zip', ['cat\\1.png', 'dog\\1.png', 'dog\\'])
  source = files.ImageFiles(path, use_labels=True)
  assert source.class_names == ('cat', 'dog')
  np.testing.assert_array_equal(source.labels().values, [0, 1])


def test_a_zip_of_macos_has_utf8_names_without_the_flag(tmp_path):
  written = 'ü.png'.encode().decode('cp437')
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('xx.png', encode(picture(0)))
  data = path.read_bytes()
  path.write_bytes(data.replace(b'xx.png', 'ü.png'.encode()))
  with zipfile.ZipFile(path) as archive:
    assert archive.namelist() == [written]
  source = files.ImageFiles(path)
  np.testing.assert_array_equal(source[0]['image'], picture(0))
  assert f'{written} as ü.png' in source.notes[0]


@pytest.mark.parametrize(
  'names', [['c\\a.png', 'c/a.png'], ['./a.png', 'a.png']]
)
def test_two_spellings_of_one_name_are_refused(tmp_path, names):
  path = _write_zip(tmp_path / 'a.zip', names)
  with pytest.raises(ValueError, match='spellings of one name: rename'):
    files.ImageFiles(path)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_name_that_is_twice_in_a_zip_is_reported(tmp_path):
  source = files.ImageFiles(_write_zip(tmp_path / 'a.zip', ['a.png'] * 2))
  assert len(source) == 1
  np.testing.assert_array_equal(source[0]['image'], picture(1))
  assert source.notes == (
    '1 name found more than once; the last file of each is read: a.png',
  )


def test_suffixes_that_differ_in_case_alone_cannot_have_labels(tmp_path):
  path = _write_zip(
    tmp_path / 'a.zip',
    ['a.png', 'a.PNG'],
    [('dataset.json', b'{"labels": [["a.png", 0]]}')],
  )
  assert len(files.ImageFiles(path)) == 2
  with pytest.raises(
    ValueError, match='differ only in the case of their suffix'
  ):
    files.ImageFiles(path, use_labels=True)


def test_a_folder_and_its_windows_zip_read_the_same(tmp_path):
  names = ['b/x.png', 'b.c/x.png', 'B/x.png']
  for i, name in enumerate(names):
    (tmp_path / 'set' / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'set' / name).write_bytes(encode(picture(i)))
  windows = [name.replace('/', '\\') for name in names]
  folder = files.ImageFiles(tmp_path / 'set')
  archive = files.ImageFiles(_write_zip(tmp_path / 'set.zip', windows))
  assert folder.fingerprint() == archive.fingerprint()
  for i in range(3):
    np.testing.assert_array_equal(folder[i]['image'], archive[i]['image'])


def test_names_that_are_no_text_are_read_and_shown(tmp_path):
  name = os.fsdecode(b'a\xff\n.png')
  (tmp_path / name).write_bytes(encode(picture(0)))
  (tmp_path / f'{name}.bad').write_bytes(b'')
  source = files.ImageFiles(tmp_path)
  assert len(source.fingerprint()) == 64
  (note,) = source.notes
  note.encode()  # The log is UTF-8.
  assert '\n' not in note
  assert r'a\udcff\n.png.bad' in note


@pytest.mark.parametrize(
  'number', [errno.ESTALE, errno.EIO, errno.EACCES, errno.ETIMEDOUT]
)
@pytest.mark.parametrize(
  'read',
  [
    lambda path, _: files.ImageFiles(path, use_labels=True),
    lambda path, _: files.ImageFiles(path),
    lambda _, source: source[0],
  ],
  ids=['labels', 'header', 'image'],
)
def test_a_disk_that_fails_is_not_a_damaged_image(
  tmp_path, monkeypatch, number, read
):
  (tmp_path / 'a.png').write_bytes(encode(picture(0)))
  (tmp_path / 'dataset.json').write_text('{"labels": [["a.png", 0]]}')
  source = files.ImageFiles(tmp_path)

  def fail(self, name):
    raise OSError(number, os.strerror(number), name)

  monkeypatch.setattr(archives.Folder, 'open', fail)
  with pytest.raises(OSError, match=os.strerror(number)) as info:
    read(tmp_path, source)
  assert 'the file may be intact' in str(info.value)
  assert 'remove' not in str(info.value)


def test_a_folder_that_cannot_be_listed_is_not_skipped(tmp_path, monkeypatch):
  (tmp_path / 'inner').mkdir()
  (tmp_path / 'a.png').write_bytes(encode(picture(0)))
  scandir = os.scandir

  def fail(path):
    if os.path.basename(path) == 'inner':
      raise PermissionError(errno.EACCES, 'Permission denied', str(path))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', fail)
  with pytest.raises(PermissionError, match='inner'):
    files.ImageFiles(tmp_path)


def test_a_link_to_a_folder_above_does_not_repeat_images(tmp_path):
  folder = tmp_path / 'set'
  (folder / 'inner').mkdir(parents=True)
  (tmp_path / 'other').mkdir()
  for name in ('set/a.png', 'set/inner/b.png', 'other/c.png'):
    (tmp_path / name).write_bytes(encode(picture(0)))
  (folder / 'inner' / 'loop').symlink_to(folder)
  (folder / 'inner' / 'self').symlink_to('.')
  (folder / 'linked').symlink_to(tmp_path / 'other')
  (tmp_path / 'other' / 'back').symlink_to(folder / 'inner' / '..')
  source = files.ImageFiles(folder)
  assert source._names == ['a.png', 'inner/b.png', 'linked/c.png']
  assert source.notes == (
    '3 links to a parent folder skipped: inner/loop, inner/self, linked/back',
  )
