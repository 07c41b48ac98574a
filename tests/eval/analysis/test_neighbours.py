"""Nearest neighbours against a direct search."""

import numpy as np
import pytest

from sg3jax.eval.analysis import neighbours


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
  monkeypatch.setattr(neighbours, '_ROWS', 7)


@pytest.mark.parametrize('skip_same', [False, True])
def test_neighbours_are_those_of_a_direct_search(skip_same):
  rng = np.random.RandomState(0)
  references = rng.randn(30, 5).astype(np.float32)
  queries = references[:12] if skip_same else rng.randn(12, 5)
  found = neighbours.find_nearest(queries, references, 4, skip_same=skip_same)
  distances = np.linalg.norm(
    np.float64(queries)[:, None] - np.float64(references), axis=2
  )
  if skip_same:
    distances[np.arange(12), np.arange(12)] = np.inf
  want = np.argsort(distances, axis=1)[:, :4]
  np.testing.assert_array_equal(found.indices, want)
  # The difference of squares of about 10, in float64.
  np.testing.assert_allclose(
    found.distances, np.take_along_axis(distances, want, 1), atol=1e-7
  )


def test_of_equal_references_the_first_comes_first():
  references = np.zeros((20, 2))
  found = neighbours.find_nearest(np.ones((1, 2)), references, 3)
  np.testing.assert_array_equal(found.indices, [[0, 1, 2]])


def test_more_neighbours_than_references_are_refused():
  with pytest.raises(ValueError, match='k must be 1 to 2'):
    neighbours.find_nearest(np.ones((3, 2)), np.ones((3, 2)), 3, skip_same=True)


def test_copies_have_no_novelty():
  rng = np.random.RandomState(0)
  reals = rng.randn(200, 8)
  between = neighbours.find_nearest(reals, reals, 1, skip_same=True)

  def ratio(generated):
    found = neighbours.find_nearest(generated, reals, 1)
    return neighbours.novelty(found.distances[:, 0], between.distances[:, 0])

  assert ratio(reals[:50]) == pytest.approx(0, abs=1e-6)
  assert ratio(reals[:50] + 0.01 * rng.randn(50, 8)) < 0.05
  # Medians of 50 and 200 distances that spread by a fifth.
  assert ratio(rng.randn(50, 8)) == pytest.approx(1, abs=0.15)
  assert np.isnan(neighbours.novelty(np.ones(3), np.zeros(3)))


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_low_pass_pixels_are_means_of_boxes(channels):
  rng = np.random.RandomState(0)
  images = rng.randint(0, 256, (3, 64, 64, channels)).astype(np.uint8)
  found = neighbours.low_pass_pixels(images)
  want = images.reshape(3, 16, 4, 16, 4, channels).mean((2, 4)) / 255
  want = want.transpose(0, 3, 1, 2).reshape(3, -1)
  # Rounded to integers after each of two passes.
  np.testing.assert_allclose(found, want, atol=1.1 / 255)
  tiny = rng.randint(0, 256, (2, 8, 8, channels)).astype(np.uint8)
  assert neighbours.low_pass_pixels(tiny).shape == (2, 64 * channels)
