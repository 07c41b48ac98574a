"""Every metric on a tiny conditional generator, and what is refused at once.

Networks whose weights are not part of the package are replaced by small ones.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.data import labels as labels_lib
from sg3jax.eval import measurements, path_length
from sg3jax.eval.metrics import base
from sg3jax.eval.metrics import perceptual_path_length as ppl
from sg3jax.nets import factory
from sg3jax.nets.features import base as networks_lib
from sg3jax.train import config as config_lib
from sg3jax.train import sharding
from sg3jax.train.config import files as config_files
from sg3jax.train.step import build

_TINY = pathlib.Path(__file__).parents[1] / 'cli' / 'tiny_run.py'
_IMPORTED = ('inception', 'vgg16_fc2', 'vgg16', 'dinov2', 'clip')


class _Pictures:
  """Random images of two classes."""

  name, resolution, channels, label_dim = 'pictures', 16, 3, 2
  class_names = ('even', 'odd')

  def __init__(self, count=24):
    self._count = count

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    rng = np.random.RandomState(index)
    image = rng.randint(0, 256, (16, 16, 3), np.uint8)
    return {'image': image, 'label': self.labels()[index]}

  def labels(self):
    return labels_lib.Labels(np.arange(self._count) % 2, 2, self.class_names)

  def fingerprint(self):
    return str(self._count)


class _Unlabelled(_Pictures):
  label_dim = 0

  def labels(self):
    return labels_lib.none(self._count)


@pytest.fixture(scope='module')
def model():
  """A conditional model of random weights."""
  config = config_files.load(str(_TINY))
  config.data.cond = True
  config_lib.resolve(config, img_channels=3, label_dim=2)
  state = jax.eval_shape(build.make_trainer(config).init, jax.random.key(0))
  generator = factory.make_generator(config.model.to_dict())
  z, c = np.zeros((1, 8), np.float32), np.eye(2, dtype=np.float32)[:1]
  networks = {
    'generator_ema': jax.jit(generator.init)(jax.random.key(0), z, c),
    'discriminator': jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), state.discriminator
    ),
  }
  return model_lib.Model(config.to_dict(), networks, kimg=7.0)


@pytest.fixture
def networks(monkeypatch):
  """Replaces the networks whose weights must be imported."""

  def apply(variables, images):
    x = images[..., :3].astype(jnp.float32) / 128
    features = x.reshape(len(x), 4, -1).mean(2)
    features = jnp.concatenate([features, x.mean((1, 2)), x.std((1, 2))], 1)
    return {'features': features, 'logits_unbiased': 3 * features}

  networks_lib.names()  # Those of the package, which are then replaced.
  for name in _IMPORTED:
    network = networks_lib.FeatureNetwork(
      name=name,
      title=name,
      dims={'features': 10, 'logits_unbiased': 10},
      apply=apply,
      protocol='small',
      init=lambda key: {},
    )
    monkeypatch.setitem(networks_lib._NETWORKS, name, network)
  monkeypatch.setattr(
    ppl,
    '_make_distance',
    lambda context: path_length.Distance(
      lambda _, a, b: jnp.square(a - b).mean((1, 2, 3))
    ),
  )


@pytest.mark.slow
def test_every_metric_is_finite_and_says_how(model, networks, tmp_path):
  # Those that are left out have tests of their own, at larger sizes.
  metrics = [
    metric
    for metric in base.registry().values()
    if metric.min_resolution <= model.resolution
    and base.DISCRIMINATOR not in metric.needs
    and metric.name != 'eq_layers'
  ]
  values = launch.evaluate(
    model,
    [metric.name for metric in metrics],
    tmp_path,
    source=_Pictures(),
    num_samples=20,
    mesh=sharding.make_mesh(2),
    batch_size=8,
    stats_cache=tmp_path / 'cache',
  )
  assert set(values) >= {metric.result for metric in metrics}
  assert all(np.isfinite(value) for value in values.values()), values
  for metric in metrics:
    path = tmp_path / f'metric-{metric.file}.jsonl'
    line = json.loads(path.read_text())  # One line.
    assert line['results'][metric.result] == values[metric.result]
    assert line['num_samples'] == 20
    assert line['kimg'] == 7
    assert set(line['results']) >= set(line.get('ci95', {}))
    if metric.features:
      assert line['network']['name'] == metric.features.network
      assert line['rounding'].startswith('x * 127.5 + 128')
    if line.get('ci95') and not metric.name.startswith('eq'):
      assert line['ci95_method']
    assert metric.label(metric.result)
  # The same statistics from disk give the same values.
  again = launch.evaluate(
    model,
    ['rfd', 'fid50k_full'],
    tmp_path / 'again',
    source=_Pictures(),
    num_samples=20,
    mesh=sharding.make_mesh(1),
    batch_size=4,
    stats_cache=tmp_path / 'cache',
  )
  for name, value in again.items():
    assert value == pytest.approx(values[name], rel=1e-4)


@pytest.fixture
def mesh():
  return sharding.make_mesh(1)


def test_files_are_compared_without_a_model(mesh, tmp_path):
  def compare(against, outdir):
    return launch.compare(
      _Pictures(),
      against,
      ['spectral', 'rprecision'],
      tmp_path / outdir,
      mesh=mesh,
    )

  same = compare(_Pictures(), 'same')
  assert same == {
    'spectral': pytest.approx(0, abs=1e-5),
    'rprecision': 1.0,
  }
  line = json.loads((tmp_path / 'same/metric-spectral.jsonl').read_text())
  assert line['against'] == 'pictures'
  assert line['num_reals'] == line['num_samples'] == 24
  assert 'kimg' not in line


@pytest.mark.parametrize(
  ('metrics', 'count', 'samples', 'message'),
  [
    ('rfd', 1, 50, 'number of real images must be at least 2 for the metric'),
    ('rfd', 24, 1, 'images to measure must be at least 2 .*rfd, got 1'),
    ('rprecision', 3, 50, 'real images must be at least 4 .*, got 3'),
    ('rdensity', 24, 5, 'must be at least 6 for the metric rdensity, got 5'),
    ('fd_dinov2', 24, 50, 'network dinov2, which is not implemented'),
  ],
)
def test_what_cannot_be_measured_is_refused_at_once(
  model, mesh, tmp_path, metrics, count, samples, message, monkeypatch
):
  networks_lib.names()
  monkeypatch.delitem(networks_lib._NETWORKS, 'dinov2', raising=False)
  with pytest.raises((ValueError, NotImplementedError), match=message):
    launch.evaluate(
      model,
      metrics,
      tmp_path,
      source=_Pictures(count),
      num_samples=samples,
      mesh=mesh,
    )
  assert not list(tmp_path.iterdir())


def test_missing_weights_are_named_with_the_remedy(
  model, mesh, tmp_path, networks, monkeypatch
):
  network = networks_lib.FeatureNetwork(
    name='inception',
    title='Inception',
    dims={'features': 4},
    apply=lambda variables, images: {},
    protocol='',
    remedy='run sg3jax weights import FILE',
  )
  monkeypatch.setitem(networks_lib._NETWORKS, 'inception', network)
  with pytest.raises(FileNotFoundError, match='sg3jax weights import FILE'):
    launch.evaluate(
      model,
      'fid50k_full',
      tmp_path,
      source=_Pictures(),
      mesh=mesh,
    )


def test_labels_must_be_those_of_the_model(model, mesh, tmp_path):
  with pytest.raises(ValueError, match=r'must have 2 features.*, got 0'):
    launch.evaluate(
      model,
      'spectral',
      tmp_path,
      source=_Unlabelled(),
      mesh=mesh,
    )
  with pytest.raises(ValueError, match='compares labelled images, but'):
    launch.compare(
      _Pictures(),
      _Unlabelled(),
      'rfd_per_class',
      tmp_path,
      mesh=mesh,
    )


@pytest.mark.parametrize('metric', ['eqt', 'ppl2_wend'])
def test_metrics_of_generators_do_not_apply_to_files(metric):
  with pytest.raises(ValueError, match=f'{metric} needs a generator, but'):
    measurements.Measurements(
      _Pictures(),
      metrics=metric,
      num_samples=9,
      seed=0,
      against=_Pictures(),
    )


_HOST = """
  import sys

  import jax

  sys.path.append(sys.argv[3])
  if sys.argv[2] != 'alone':
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
  import test_every_metric

  from sg3jax import launch
  from sg3jax.train import sharding

  values = launch.compare(
    test_every_metric._Pictures(30),
    test_every_metric._Pictures(22),
    ['rfd', 'rkd', 'rprecision', 'spectral'],
    sys.argv[4],
    mesh=sharding.make_mesh(),
  )
  print(*map(repr, values.values()))
"""


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  folder = str(pathlib.Path(__file__).parent)
  hosts = [
    subprocess.Popen(
      [
        sys.executable,
        '-c',
        textwrap.dedent(_HOST),
        *(address, name, folder, str(tmp_path / name)),
      ],
      env=os.environ
      | {
        'JAX_PLATFORMS': 'cpu',
        'JAX_NUM_CPU_DEVICES': '1',
        'PYTHONPATH': str(pathlib.Path(__file__).parents[2]),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for name in ('0', '1', 'alone')
  ]
  said = [host.communicate(timeout=300) for host in hosts]
  first, second, alone = (
    [float(value) for value in out.splitlines()[-1].split()] for out, _ in said
  )
  assert first == second, said
  assert first == pytest.approx(alone, rel=1e-6), said
  # Only the first process writes.
  assert (tmp_path / '0').exists()
  assert not (tmp_path / '1').exists()
