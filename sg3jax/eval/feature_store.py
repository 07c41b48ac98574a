"""Computes the features of real and generated images, and shares them."""

import abc
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sg3jax.data import sources
from sg3jax.eval import feature_extractor, feature_sets, statistics_cache
from sg3jax.nets.features import base as networks_lib
from sg3jax.types import Array, Variables

# The weights of feature networks, by name.
Weights = Mapping[str, Variables]


class Images(abc.ABC):
  """The images whose features are computed: those of a `context.Context`."""

  @property
  @abc.abstractmethod
  def mesh(self) -> Mesh:
    """The devices."""

  @property
  @abc.abstractmethod
  def source(self) -> sources.ImageSource:
    """The real images."""

  @property
  @abc.abstractmethod
  def num_fakes(self) -> int:
    """Number of images to measure."""

  @property
  @abc.abstractmethod
  def batch_size(self) -> int:
    """Number of images at a time, over all devices."""

  @abc.abstractmethod
  def real_order(self, reals: str) -> np.ndarray:
    """Returns the indices of real images; those of flipped ones follow."""

  @abc.abstractmethod
  def fake_batches(self) -> Iterator[tuple[int, Array]]:
    """Yields the images to measure in batches, on the devices."""


class FeatureStore:
  """The features of one snapshot, and of the real images of its run."""

  def __init__(
    self,
    images: Images,
    kept: dict[Hashable, Any],
    *,
    wanted: Iterable[feature_sets.Wanted],
    weights: Weights | None,
    cache: pathlib.Path | None,
    log: Callable[[str], None],
  ):
    """Computes nothing yet; see `context.Context` for the arguments."""
    self._images = images
    self._kept = kept
    self._wanted = tuple(wanted)
    self._weights = weights or {}
    self._cache = statistics_cache.Cache(cache)
    self._log = log
    self._fakes: dict[str, feature_sets.FeatureSet] = {}

  def weights(self, network: str) -> Variables:
    """Returns the weights of a feature network.

    Raises:
      ValueError: If they must be imported, and were not given.
    """
    if network in self._weights:
      return self._weights[network]
    return random_weights(network)

  def fakes(self, wanted: feature_sets.Wanted) -> feature_sets.FeatureSet:
    """Returns the features of the generated images, with all their rows."""
    known = self._fakes
    if not _serves(known.get(wanted.network), wanted.outputs):
      merged = feature_sets.merge([*self._wanted, wanted])
      missing = {
        k: v for k, v in merged.items() if not _serves(known.get(k), v.outputs)
      }
      known |= feature_extractor.collect(
        self._extractors(missing),
        self._images.fake_batches(),
        total=self._images.num_fakes,
        keep=dict.fromkeys(missing, self._images.num_fakes),
        what='images to measure',
        log=self._log,
      )
    return known[wanted.network]

  def reals(self, wanted: feature_sets.Wanted) -> feature_sets.FeatureSet:
    """Returns the features of the real images, with as many rows as needed."""
    same = [w for w in self._wanted if w.reals == wanted.reals]
    merged = feature_sets.merge([*same, wanted])
    known = self._kept.setdefault(('real features', wanted.reals), {})
    order = self._images.real_order(wanted.reals)
    keep = {name: min(w.real_rows, len(order)) for name, w in merged.items()}
    missing = {
      name: w
      for name, w in merged.items()
      if not _serves(
        known.get(name), w.outputs if keep[name] else (), keep[name]
      )
    }
    if wanted.network in missing:
      extractors = self._extractors(missing)
      keys = self._cache_keys(extractors, keep, wanted.reals)
      for name, key in keys.items():
        found = self._cache.load(key)
        if found is not None:
          known[name] = found
          del extractors[name]
      if extractors:
        found = feature_extractor.collect(
          extractors,
          feature_extractor.read_batches(
            self._images.source,
            order,
            self._images.batch_size,
            self._images.mesh,
          ),
          total=len(order),
          keep=keep,
          what='real images',
          log=self._log,
        )
        known |= found
        for name in found.keys() & keys.keys():
          self._cache.save(keys[name], found[name])
    return known[wanted.network]

  def describe(self, wanted: feature_sets.Wanted) -> dict[str, Any]:
    """Returns what was compared, for result files."""
    extractor = self._extractors({wanted.network: wanted})[wanted.network]
    about: dict[str, Any] = {
      'network': {
        'name': wanted.network,
        'preparation': extractor.network.protocol,
        'weights_sha256': extractor.sha256,
      },
    }
    if wanted.reals != feature_sets.NONE:
      about['num_reals'] = len(self._images.real_order(wanted.reals))
    return about

  def _cache_keys(
    self,
    extractors: Mapping[str, feature_extractor.Extractor],
    keep: Mapping[str, int],
    reals: str,
  ) -> dict[str, dict[str, Any]]:
    """Returns what the features of real images depend on, by network."""
    if self._cache.folder is None:
      return {}
    if 'identity' not in self._kept:
      self._kept['identity'] = statistics_cache.identify(self._images.source)
    data = self._kept['identity']
    if data is None:
      return {}
    order = self._images.real_order(reals)
    return {
      name: {
        'data': data,
        'order_sha256': feature_extractor.hash_of({'order': order}),
        'network': name,
        'preparation': extractor.network.protocol,
        'weights_sha256': extractor.sha256,
        'outputs': extractor.outputs,
        'rows': keep[name],
      }
      for name, extractor in extractors.items()
    }

  def _extractors(
    self, wanted: Mapping[str, feature_sets.Wanted]
  ) -> dict[str, feature_extractor.Extractor]:
    """Returns compiled networks by name, which last for the run."""
    known = self._kept.setdefault('extractors', {})
    for name, w in wanted.items():
      outputs = w.outputs
      if name in known:
        if set(outputs) <= set(known[name].outputs):
          continue
        outputs = (*known[name].outputs, *outputs)
      known[name] = feature_extractor.Extractor(
        networks_lib.find(name),
        self.weights(name),
        self._images.mesh,
        outputs,
        self._log,
      )
    return {name: known[name] for name in wanted}


def random_weights(name: str) -> Variables:
  """Returns the weights of a network that needs no imported ones.

  Raises:
    ValueError: If the weights must be imported.
  """
  network = networks_lib.find(name)
  if network.init is None:
    raise ValueError(
      f'the feature network {name} needs imported weights, but there are none'
    )
  return network.init(jax.random.key(0))


def _serves(
  features: feature_sets.FeatureSet | None,
  outputs: tuple[str, ...],
  rows: int = 0,
) -> bool:
  """Returns whether features have these outputs and so many rows."""
  return (
    features is not None
    and set(outputs) <= set(features.rows)
    and (not rows or (bool(features.rows) and len(features.first) >= rows))
  )
