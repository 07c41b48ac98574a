"""Measures how fast features of generated images are computed, and where.

  python scripts/bench_metrics.py --config=quickstart --images=512

It prints images a second of the package's pass over generated images, which
keeps the devices busy while the host sums; of the generator, the feature
network and the host's sums alone; and of a plain loop, which brings each batch
of images to the host, converts it, sends it to the network, and computes the
covariance at the end.
"""

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import app, flags

from sg3jax import launch, text
from sg3jax.eval import (
  feature_sets,
  feature_store,
  image_generator,
)
from sg3jax.eval.metrics import base, formulas
from sg3jax.eval.plots import grids
from sg3jax.nets import factory
from sg3jax.nets.features import base as networks
from sg3jax.train import config as config_lib
from sg3jax.train import sharding

_CONFIG = flags.DEFINE_string('config', 'quickstart', 'The generator.')
_IMAGES = flags.DEFINE_integer('images', 512, 'Number of images.')
_BATCH = flags.DEFINE_integer('batch', None, 'Images at a time.')
_NETWORK = flags.DEFINE_string('network', 'random', 'The feature network.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Repetitions; the best counts.')


def _seconds(function: Callable[[], object]) -> float:
  """Returns the shortest time of several calls, after one to compile."""
  function()
  times = []
  for _ in range(_REPEATS.value):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return min(times)


class _Bench:
  """The ways to compute features of the same images."""

  def __init__(self) -> None:
    config = launch.load_config(_CONFIG.value)
    config_lib.resolve(config, img_channels=3, label_dim=0)
    generator = factory.make_generator(config.model.to_dict())
    mesh = sharding.make_mesh()
    z = np.zeros((1, generator.z_dim), np.float32)
    self.variables = jax.jit(generator.init)(jax.random.key(0), z)
    self.images = image_generator.ImageGenerator(
      generator, mesh, batch_size=_BATCH.value
    )
    self.count = _IMAGES.value
    self.wanted = feature_sets.Wanted(_NETWORK.value, reals=feature_sets.NONE)
    self.weights = launch.feature_weights([_NETWORK.value])
    self.kept = {}
    store = feature_store.FeatureStore(
      self._context(),
      self.kept,
      wanted=(),
      weights=self.weights,
      cache=None,
      log=lambda line: None,
    )
    store.fakes(self.wanted)
    self.extractor = self.kept['extractors'][_NETWORK.value]

  def _context(self) -> base.Context:
    return base.Context(
      self.images,
      self.variables,
      metrics=(),
      num_samples=self.count,
      seed=0,
      kept=self.kept,
      weights=self.weights,
    )

  def whole(self) -> object:
    """Computes the moments as metrics do."""
    return self._context().features(self.wanted)[1].moments

  def generate(self) -> object:
    """Only generates the images."""
    return jax.block_until_ready(list(self._context().fake_batches()))

  def extract(self) -> object:
    """Only computes the features, of one batch again and again."""
    _, batch = next(iter(self._context().fake_batches()))
    jax.block_until_ready(batch)
    found = [self.extractor(batch) for _ in range(self.batches)]
    return jax.block_until_ready(found)

  @property
  def batches(self) -> int:
    """Number of batches."""
    return -(-self.count // self.images.batch_size)

  def host(self) -> object:
    """Only sums features that are on the host."""
    name = self.extractor.outputs[0]
    dim = self.extractor.network.dims[name]
    rows = np.ones((self.images.batch_size, dim), np.float32)
    sums = feature_sets.Accumulator([name], self.count)
    for _ in range(self.batches):
      sums.add({name: rows})
    return sums.result()

  def plain(self) -> object:
    """Computes the moments by a plain loop over batches."""
    network = networks.find(_NETWORK.value)
    apply = self._plain_apply(network)
    rows = []
    for n, images in self._plain_batches():
      pixels = grids.to_uint8(images)
      rows.append(np.asarray(apply(pixels))[:n])
    return formulas.moments(np.concatenate(rows))

  def _plain_apply(
    self, network: networks.FeatureNetwork
  ) -> Callable[[np.ndarray], jax.Array]:
    if 'plain' not in self.kept:
      variables = jax.device_put(self.weights[network.name])
      first = next(iter(network.dims))
      self.kept['plain'] = jax.jit(lambda x: network.apply(variables, x)[first])
    return self.kept['plain']

  def _plain_batches(self) -> Iterator[tuple[int, np.ndarray]]:
    size = self.images.batch_size
    rng = np.random.RandomState(0)
    for i in range(0, self.count, size):
      z = rng.randn(size, self.images.generator.z_dim).astype(np.float32)
      ws = self.images.styles(self.variables, z, None)
      batch = self.images.synthesize_batch(self.variables, ws)
      yield min(size, self.count - i), np.asarray(batch)


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  bench = _Bench()
  with jax.set_mesh(bench.images.mesh):
    seconds = {
      'metrics': _seconds(bench.whole),
      'generator alone': _seconds(bench.generate),
      'feature network alone': _seconds(bench.extract),
      'host alone': _seconds(bench.host),
      'plain loop': _seconds(bench.plain),
    }
  device = jax.devices()[0].device_kind
  print(
    f'{_CONFIG.value}, {_NETWORK.value}, {bench.count} images, batches of '
    f'{bench.images.batch_size}, {jax.device_count()} x {device}'
  )
  rows = [
    {
      'part': name,
      'images a second': bench.count / value,
      'share': value / seconds['metrics'],
    }
    for name, value in seconds.items()
  ]
  print(text.markdown(rows))


if __name__ == '__main__':
  app.run(main)
