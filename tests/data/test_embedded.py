"""The embedded photographs: boxes, crops, and what their absence says."""

import dataclasses
import importlib.util
import pickle

import numpy as np
import pytest
from PIL import Image

from sg3jax.data import embedded
from sg3jax.data.embedded import EmbeddedPhotographs

PINNED = [
  [68.5, 79.7, 104.0],
  [182.8, 86.1, 46.8],
  [191.2, 115.1, 64.8],
  [167.3, 128.4, 105.9],
  [91.2, 90.2, 97.3],
]


@pytest.fixture(scope='module')
def source() -> EmbeddedPhotographs:
  return EmbeddedPhotographs(count=400, resolution=64)


def mean_colours(source, indices) -> np.ndarray:
  return np.stack([source[i]['image'].mean(axis=(0, 1)) for i in indices])


def test_follows_the_contract_of_image_sources(source):
  assert len(source) == 400
  assert (source.resolution, source.channels, source.label_dim) == (64, 3, 0)
  assert source.name == 'embedded-400'
  item = source[399]
  assert item['image'].shape == (64, 64, 3)
  assert item['image'].dtype == np.uint8
  assert item['label'].shape == (0,)
  assert item['label'].dtype == np.float32
  assert source.labels().shape == (400, 0)
  assert source.labels().dtype == np.float32
  with pytest.raises(IndexError):
    source[400]


def test_crops_are_pinned(source):
  # Within one grey level: releases of Pillow's JPEG decoder may differ so.
  np.testing.assert_allclose(
    mean_colours(source, [0, 1, 2, 100, 399]), PINNED, atol=1.0
  )


def test_crops_are_a_function_of_the_seed(source):
  again = EmbeddedPhotographs(count=400, resolution=64)
  other = EmbeddedPhotographs(count=400, resolution=64, seed=1)
  for index in (0, 7, 399):
    np.testing.assert_array_equal(source[index]['image'], again[index]['image'])
    assert (source[index]['image'] != other[index]['image']).mean() > 0.5


def test_fewer_crops_are_the_first_of_more(source):
  fewer = EmbeddedPhotographs(count=37, resolution=64)
  for index in (0, 20, 36):
    np.testing.assert_array_equal(source[index]['image'], fewer[index]['image'])


def test_crops_are_not_flat_and_not_alike(source):
  images = np.stack([source[i]['image'] for i in range(400)]).astype(float)
  luma = images @ [0.299, 0.587, 0.114]
  # Boxes are judged before the reduction, which averages some of it away.
  assert luma.std(axis=(1, 2)).min() > 8
  assert len({image.tobytes() for image in images}) == 400


@pytest.mark.parametrize('resolution', [16, 100, 256, 300])
def test_boxes_are_inside_and_span_the_zooms(resolution):
  source = EmbeddedPhotographs(count=500, resolution=resolution)
  photographs = [
    np.asarray(Image.open(embedded.locate(photograph)).convert('L'))
    for photograph in embedded.PHOTOGRAPHS
  ]
  index, top, left, side = source._boxes.T
  height, width = np.array([p.shape for p in photographs])[index].T
  assert (top >= 0).all()
  assert (left >= 0).all()
  assert (top + side <= height).all()
  assert (left + side <= width).all()
  assert set(index) == set(range(len(photographs)))
  limit = np.minimum(np.minimum(height, width), 4 * resolution)
  assert (side >= resolution).all()
  assert (side <= limit).all()
  assert side.min() < 1.05 * resolution
  assert side.max() > 0.9 * limit.max()
  # The stddev from summed tables against one straight from the pixels.
  for i, y, x, s in source._boxes[:50]:
    assert photographs[i][y : y + s, x : x + s].std() >= embedded._MIN_STDDEV


def test_a_crop_of_zoom_one_is_the_photograph():
  source = EmbeddedPhotographs(count=1, resolution=300)
  index = [p.file for p in embedded.PHOTOGRAPHS].index('data/chelsea.png')
  source._boxes = np.array([[index, 0, 0, 300]])
  with Image.open(embedded.locate(embedded.PHOTOGRAPHS[index])) as photograph:
    expected = np.asarray(photograph)[:300, :300]
  np.testing.assert_array_equal(source[0]['image'], expected)


def test_reduction_does_not_alias(monkeypatch):
  source = EmbeddedPhotographs(count=1, resolution=64)
  stripes = np.zeros([256, 256, 3], np.uint8)
  stripes[:, ::2] = 255  # Nyquist's frequency: gone at a quarter of the rate.
  source._paths = ('stripes',)
  source._boxes = np.array([[0, 0, 0, 256]])
  monkeypatch.setattr(embedded, '_decode', lambda path: stripes)
  image = source[0]['image']
  assert np.abs(image[:, 2:-2].astype(float) - 127.5).max() < 2


def test_pickled_source_is_small_and_the_same(source):
  data = pickle.dumps(source)
  assert len(data) < 400 * 4 * 8 + 4096  # The boxes, and no photograph.
  restored = pickle.loads(data)
  np.testing.assert_array_equal(source[5]['image'], restored[5]['image'])


@pytest.mark.parametrize('resolution', [0, 301])
def test_resolution_out_of_range(resolution):
  with pytest.raises(ValueError, match=f'1 to 300 pixels, got {resolution}'):
    EmbeddedPhotographs(resolution=resolution)


def test_count_out_of_range():
  with pytest.raises(ValueError, match='count must be at least 1, got 0'):
    EmbeddedPhotographs(count=0, resolution=64)


def test_missing_package_says_how_to_install_it(monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *args: None if name == 'sklearn' else find_spec(name, *args),
  )
  with pytest.raises(ImportError, match=r'sklearn is not.*sg3jax\[photos\]'):
    EmbeddedPhotographs(resolution=64)


def test_missing_file_says_how_to_install_it():
  gone = dataclasses.replace(embedded.PHOTOGRAPHS[0], file='data/gone.png')
  with pytest.raises(ImportError, match=r'no data/gone.png.*sg3jax\[photos\]'):
    embedded.locate(gone)
