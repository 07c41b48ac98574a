"""Parts of the evaluation of a snapshot: what fails, and in which order."""

import jax
import numpy as np
import pytest
import small_generators
from PIL import Image

from sg3jax.data import labels as labels_lib
from sg3jax.eval import evaluators
from sg3jax.eval.metrics import base
from sg3jax.train import sharding
from sg3jax.types import Snapshot


class _Source:
  """Eight images, of which some cannot be read at first."""

  name, resolution, channels, label_dim = 'grey', 16, 3, 0

  def __init__(self):
    self.broken = set()

  def __len__(self):
    return 8

  def __getitem__(self, index):
    if index in self.broken:
      raise OSError('the share is gone')
    image = np.full((16, 16, 3), 16 * index, np.uint8)
    return {'image': image, 'label': np.zeros(0, np.float32)}

  def labels(self):
    return labels_lib.none(8)


@pytest.fixture(scope='module')
def network():
  """A StyleGAN2 generator of 16 pixels: it takes no transforms."""
  return small_generators.make_stylegan2()


@pytest.fixture
def source():
  return _Source()


def _evaluator(source, metrics=()):
  return evaluators.SnapshotEvaluator(
    source,
    metrics=metrics,
    num_samples=4,
    grid=(4, 2),
    seed=0,
    mesh=sharding.make_mesh(1),
    takes_transforms=False,
  )


@pytest.fixture
def bright():
  """A metric that counts its measurements."""
  measured = []

  @base.register('bright', title='', unit='', higher_is_better=True)
  def measure(context):
    measured.append(context)
    return base.Measurement({'bright': 1.0}, 4)

  yield measured
  base.unregister('bright')


def _snapshot(network, workdir, kimg=0):
  return Snapshot(workdir, kimg, False, *network)


def test_a_grid_of_reals_that_failed_is_tried_again(network, source, tmp_path):
  evaluate = _evaluator(source)
  source.broken = {5}
  assert evaluate(_snapshot(network, tmp_path)) == {}
  # What could be written is there.
  assert (tmp_path / 'fakes_init.png').exists()
  assert not (tmp_path / 'reals.png').exists()
  source.broken = set()
  evaluate(_snapshot(network, tmp_path, 1))
  with Image.open(tmp_path / 'reals.png') as image:
    assert image.size == (4 * 16, 2 * 16)
  # But once it is there it is not made again.
  (tmp_path / 'reals.png').unlink()
  evaluate(_snapshot(network, tmp_path, 2))
  assert not (tmp_path / 'reals.png').exists()


@pytest.mark.parametrize('process', [0, 1])
def test_all_hosts_have_the_values_if_the_first_cannot_write(
  network, source, tmp_path, bright, monkeypatch, process
):
  # Others compute together with it, and would wait for it.
  monkeypatch.setattr(jax, 'process_index', lambda: process)
  workdir = tmp_path / 'file'
  workdir.write_text('')  # In the place of the folder.
  values = _evaluator(source, ['bright'])(_snapshot(network, workdir))
  assert values == {'bright': 1.0}
  assert len(bright) == 1


def test_metrics_that_do_not_fit_are_refused_at_once(source):
  with pytest.raises(ValueError, match=r'eqt moves the input .* use .*swd'):
    _evaluator(source, ['swd', 'eqt'])
  with pytest.raises(ValueError, match=r'got swt: did you mean swd\?'):
    _evaluator(source, ['swt'])
  with pytest.raises(ValueError, match='swd compares with real images, but'):
    evaluators.Measurements(None, metrics='swd', num_samples=4, seed=0)
  with pytest.raises(ValueError, match='least 32 for the metric eqr_hq'):
    evaluators.Measurements(
      None, metrics='eqr_hq', num_samples=4, seed=0, resolution=16
    )
  with pytest.raises(ValueError, match='d_shift examines the discriminator'):
    evaluators.Measurements(
      None, metrics='d_shift', num_samples=4, seed=0, has_discriminator=False
    )
  base.register(
    'by_class', title='', unit='', higher_is_better=True, needs=[base.LABELS]
  )(lambda context: base.Measurement({'by_class': 1.0}, 4))
  with pytest.raises(
    ValueError, match='by_class compares labelled images, but'
  ):
    _evaluator(source, ['by_class'])
  base.unregister('by_class')


def test_full_metrics_are_measured_less_often(
  network, source, tmp_path, bright
):
  full = evaluators.Full(('bright',), 4, interval=1000, snapshot=400)
  evaluate = evaluators.SnapshotEvaluator(
    source,
    metrics=(),
    num_samples=4,
    grid=(4, 2),
    seed=0,
    mesh=sharding.make_mesh(1),
    takes_transforms=False,
    full=full,
  )
  found = [
    evaluate(_snapshot(network, tmp_path, kimg)) for kimg in (0, 0.8, 1.2)
  ]
  assert found == [{}, {}, {'bright': 1.0}]
  # It depends on the kimg alone, so that a resumed run measures the same.
  due = [
    kimg
    for kimg in (0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2)
    if full.is_due(_snapshot(network, tmp_path, kimg))
  ]
  assert due == [1.2, 2.0, 3.2]
  last = Snapshot(tmp_path, 0.5, True, *network)
  assert full.is_due(last)
