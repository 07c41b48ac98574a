"""Inspection and verification of datasets."""

import json
import zipfile

import pytest
import raw_images
from PIL import Image

from sg3jax.data.prepare import inspection, verification


def test_inspects(tmp_path):
  source = raw_images.write(tmp_path / 'in', ['a/1.png', 'a/2.png', 'b/3.png'])
  (source / 'a/copy.png').write_bytes((source / 'b/3.png').read_bytes())
  small = Image.open(source / 'a/1.png').resize((12, 12), Image.Resampling.BOX)
  small.save(source / 'b/small.webp', lossless=True)
  (source / 'b/bad.png').write_bytes(b'bad')
  sheet = tmp_path / 'sheet.png'
  found = inspection.inspect(
    str(source), labels='folders', sheet=sheet, workers=1
  )
  assert json.loads(json.dumps(found)) == found
  assert (found['images'], found['usable']) == (6, 5)
  assert found['sizes'] == {'16x16': 4, '12x12': 1}
  assert found['damaged'][0][0] == 'b/bad.png'
  assert found['duplicates'] == [['a/copy.png', 'b/3.png']]
  assert [p[:2] for p in found['near_duplicates']] == [
    ['a/1.png', 'b/small.webp']
  ]
  assert found['classes'] == {'a': 3, 'b': 3}
  text = '\n'.join(inspection.summary(found))
  assert 'class         b: 3 images' in text
  with Image.open(sheet) as image:
    assert image.size == (3 * 96, 2 * 96)
  with pytest.raises(FileExistsError, match='choose another path'):
    inspection.inspect(str(source), sheet=sheet)


@pytest.fixture
def prepared(tmp_path):
  source = raw_images.write(tmp_path / 'in', ['a/1.png', 'a/2.png', 'b/3.png'])
  raw_images.prepare(source, tmp_path / 'x.zip', labels='folders')
  return tmp_path / 'x.zip'


def rewrite(path, change):
  """Rewrites a zip file with other contents."""
  with zipfile.ZipFile(path) as file:
    contents = {name: file.read(name) for name in file.namelist()}
  change(contents)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
    for name, data in contents.items():
      file.writestr(name, data)


def test_verifies(prepared):
  verdict = verification.verify(prepared, workers=1)
  assert verdict.faults == ()
  assert verdict.images == 3
  assert 'labels of 2 classes' in verdict.facts


_FIRST = '00000/img00000000.png'


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda c: c.update({_FIRST: c[_FIRST][:99]}), 'cannot be decoded'),
    (lambda c: c.update({_FIRST: raw_images.png(0, 17)}), 'like the first'),
    (
      lambda c: c.update({_FIRST: raw_images.png(7)}),
      'have changed since preparation',
    ),
    (lambda c: c.pop(_FIRST), 'has a label for an image that does not exist'),
    (lambda c: c.pop(_FIRST), 'number of images must be 3 as prepared, got 2'),
    (lambda c: c.update({'dataset.json': b'{'}), 'not valid JSON'),
    (
      lambda c: c.update({'preparation.json': b'[]'}),
      'preparation.json is damaged',
    ),
  ],
)
def test_verification_names_each_fault(change, message, prepared):
  rewrite(prepared, change)
  verdict = verification.verify(prepared, workers=1)
  assert any(message in fault for fault in verdict.faults), verdict.faults
  assert any('compressed in the zip' in fact for fact in verdict.facts)
