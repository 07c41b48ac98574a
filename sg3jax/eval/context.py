"""Provides what metrics need to measure one snapshot: images and features."""

import functools
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from sg3jax.data import labels as labels_lib
from sg3jax.data import sources
from sg3jax.eval import feature_extractor, feature_sets, feature_store
from sg3jax.eval import image_generator as image_generator_lib
from sg3jax.types import Array, ImagesU8, Variables

_T = TypeVar('_T')

# Images whose latents are mapped at a time.
_MAPPED = 1024
# Images at a time for all devices, if there is no generator.
_DEVICE_BATCH = 32
# Result files state this rule, by which generated images become integers.
ROUNDING = 'x * 127.5 + 128, clipped to [0, 255] and truncated to uint8'


class Context(feature_store.Images):
  """Everything that metrics need to measure one snapshot.

  Expensive results are computed when a metric first requests them, and then
  shared by all metrics of the snapshot, or of the run.

  Attributes:
    metrics: Names of all metrics that are measured.
    num_samples: Requested number of images per metric.
    seed: Random seed for latents, labels, transforms and the choice of reals.
    mesh: The devices.
    variables: The generator's variables.
    group_size: Number of images that share a random transform; 4 in the paper.
    details: Whether to measure also what explains values, such as ceilings.
    discriminator: The discriminator and its variables; None if there is none.
  """

  def __init__(
    self,
    images: image_generator_lib.ImageGenerator | None,
    variables: Variables,
    *,
    metrics: Iterable[str],
    num_samples: int,
    seed: int,
    source: sources.ImageSource | None = None,
    labels: labels_lib.Labels | None = None,
    group_size: int = 4,
    kept: dict[Hashable, Any] | None = None,
    details: bool = False,
    discriminator: tuple[Any, Variables] | None = None,
    mirror: bool = False,
    against: sources.ImageSource | None = None,
    mesh: Mesh | None = None,
    wanted: Iterable[feature_sets.Wanted] = (),
    weights: feature_store.Weights | None = None,
    cache: pathlib.Path | None = None,
    log: Callable[[str], None] = lambda line: None,
  ):
    """Creates the context of one snapshot.

    Args:
      images: Generates images; see the attributes for all arguments. None if
        the images to measure are those of `against`.
      variables: The generator's variables.
      metrics: Names of all metrics that are measured.
      num_samples: Number of images.
      seed: Random seed.
      source: The real images; None if there are none.
      labels: Labels to sample from; the labels of the real images by default.
      group_size: Number of images that share a random transform.
      kept: Results of `kept` for earlier snapshots; new ones are added.
      details: See the attribute.
      discriminator: See the attribute.
      mirror: Whether the real images were also shown flipped left to right.
      against: The images to measure instead of generated ones.
      mesh: The devices; by default those of `images`.
      wanted: The features that all metrics compare, computed together.
      weights: The weights of feature networks, by name; those that need not be
        imported may be left out.
      cache: Folder that keeps features of real images; None to keep none.
      log: Called with lines of text about compilation and progress.
    """
    self._images = images
    self._mesh = mesh
    self.variables = variables
    self.metrics = tuple(metrics)
    self.num_samples = num_samples
    self.seed = seed
    self.group_size = group_size
    self.details = details
    self.discriminator = discriminator
    self._source = source
    self._against = against
    self._labels = labels
    self._mirror = mirror
    self._kept = {} if kept is None else kept
    self._features = feature_store.FeatureStore(
      self,
      self._kept,
      wanted=wanted,
      weights=weights,
      cache=cache,
      log=log,
    )
    self._shared: dict[Hashable, Any] = {}

  @property
  def images(self) -> image_generator_lib.ImageGenerator:
    """Generates images with the measured generator.

    Raises:
      ValueError: If there is no generator.
    """
    if self._images is None:
      raise ValueError('there is no generator, only images')
    return self._images

  @property
  def mesh(self) -> Mesh:
    """The devices."""
    return self._mesh or self.images.mesh

  def shared(self, make: Callable[['Context'], _T]) -> _T:
    """Returns `make(self)`, computed once for all metrics of the snapshot.

    Args:
      make: A module-level function, which also identifies the result.
    """
    if make not in self._shared:
      self._shared[make] = make(self)
    return self._shared[make]

  def kept(self, make: Callable[['Context'], _T]) -> _T:
    """Returns `make(self)`, computed once for all snapshots of a run.

    Args:
      make: As for `shared`. Its result must not depend on the snapshot's
        variables: a compiled function, or statistics of real images.
    """
    if make not in self._kept:
      self._kept[make] = make(self)
    return self._kept[make]

  @property
  def source(self) -> sources.ImageSource:
    """The real images.

    Raises:
      ValueError: If there are none.
    """
    if self._source is None:
      raise ValueError('there are no real images to compare with')
    return self._source

  def weights(self, network: str) -> Variables:
    """Returns the weights of a feature network."""
    return self._features.weights(network)

  @property
  def num_fakes(self) -> int:
    """Number of images to measure: `num_samples`, or fewer if there are."""
    if self._against is None:
      return self.num_samples
    return min(self.num_samples, len(self._against))

  @functools.cached_property
  def labels(self) -> labels_lib.Labels | None:
    """Labels to sample from; None for a generator without labels.

    Raises:
      ValueError: If the generator takes labels and there are no real images.
    """
    if not self.images.generator.label_dim:
      return None
    if self._labels is not None:
      return self._labels
    if self._source is None:
      raise ValueError(
        'a conditional network needs the labels of real images, but there are '
        'none'
      )
    return self._source.labels()

  @property
  def label_values(self) -> np.ndarray | None:
    """The labels in the form for compiled functions.

    They are class indices [m] if the source has classes, because one-hot
    vectors would take much memory; vectors [m, classes] otherwise; and None for
    a generator without labels.
    """
    return None if self.labels is None else self.labels.values

  def reals(self, count: int) -> ImagesU8:
    """Returns randomly chosen real images, uint8 [count, h, w, c].

    Args:
      count: Number of images, at most the number that exist. A smaller choice
        is the beginning of a larger one.
    """
    return self._first('reals', count, self._read)

  def fakes(self, count: int) -> ImagesU8:
    """Returns generated images, uint8 [count, h, w, c], in host memory.

    Latents are standard normal; labels come from randomly chosen real images.

    Args:
      count: Number of images. A smaller set is the beginning of a larger one,
        so that metrics of different sizes share images.
    """
    return self._first('fakes', count, self._generate)

  def features(
    self, wanted: feature_sets.Wanted
  ) -> tuple[feature_sets.FeatureSet, feature_sets.FeatureSet]:
    """Returns the features of the real and of the generated images.

    Images go through all networks that the metrics need at once, in batches,
    and are not kept. The generated images are those of `fakes`.

    Args:
      wanted: The features. Those that are not among the arguments of this
        context are computed on their own.

    Returns:
      Two sets, the same one twice if no reals are wanted.
    """
    fakes = self._features.fakes(wanted)
    if wanted.reals == feature_sets.NONE:
      return fakes, fakes
    return self._features.reals(wanted), fakes

  def describe_features(self, wanted: feature_sets.Wanted) -> dict[str, Any]:
    """Returns what was compared and how, for result files."""
    about = self._features.describe(wanted)
    about['rounding'] = ROUNDING if self._images else 'none: uint8 files'
    if wanted.reals != feature_sets.NONE:
      about['mirror'] = self._mirror and wanted.reals == feature_sets.SOME
    return about

  @property
  def batch_size(self) -> int:
    """Number of images at a time, over all devices."""
    if self._images is not None:
      return self._images.batch_size
    return _DEVICE_BATCH * self.mesh.size

  def real_order(self, reals: str) -> np.ndarray:
    """Returns the indices of the real images; those of flipped ones follow."""
    count = len(self.source)
    if reals == feature_sets.ALL:
      # The first rows must be a random choice, the same for every seed.
      return np.random.RandomState(0).permutation(count)
    if self._mirror:
      count *= 2
    order = np.random.RandomState(self.seed).permutation(count)
    return order[: self.num_samples]

  def _first(
    self, kind: str, count: int, make: Callable[[int, int], ImagesU8]
  ) -> ImagesU8:
    """Returns the first images of a kind, and creates those missing."""
    images = self._shared.get(kind)
    if images is None:
      images = make(0, count)
    elif len(images) < count:
      images = np.concatenate([images, make(len(images), count)])
    self._shared[kind] = images
    return images[:count]

  def _read(self, start: int, stop: int) -> ImagesU8:
    order = np.random.RandomState(self.seed).permutation(len(self.source))
    chosen = [self.source[int(i)]['image'] for i in order[start:stop]]
    return np.stack(chosen)

  def _fake_order(self) -> np.ndarray:
    assert self._against is not None
    # Another stream than that of the reals, which may be the same images.
    order = np.random.RandomState((self.seed, 2)).permutation(
      len(self._against)
    )
    return order[: self.num_samples]

  def _generate(self, start: int, stop: int) -> ImagesU8:
    if self._against is not None:
      order = self._fake_order()[start:stop]
      return np.stack([self._against[int(i)]['image'] for i in order])
    ws = [
      self.images.styles(self.variables, z, c)
      for z, c in self._latents(start, stop, max(stop - start, 1))
    ]
    return self.images.synthesize(self.variables, np.concatenate(ws))

  def _latents(
    self, start: int, stop: int, size: int
  ) -> Iterator[tuple[Float[np.ndarray, 'n z'], np.ndarray | None]]:
    """Yields latents and labels; those of an image depend only on its index."""
    dim = self.images.generator.z_dim
    rng = np.random.RandomState(self.seed)
    rng.randn(start, dim)
    rows = None
    if self.labels is not None:
      rng_c = np.random.RandomState((self.seed, 1))
      rows = rng_c.randint(len(self.labels), size=stop)
    for i in range(start, stop, size):
      z = rng.randn(min(size, stop - i), dim).astype(np.float32)
      c = None
      if rows is not None and self.labels is not None:
        c = self.labels[rows[i : min(i + size, stop)]]
      yield z, c

  def fake_labels(self, count: int | None = None) -> np.ndarray | None:
    """Returns the labels [n, classes] of generated images; None without any.

    Args:
      count: Number of images, by default all of them.
    """
    if self._against is not None:
      labels = self._against.labels()
      return labels[self._fake_order()[:count]] if labels.dim else None
    count = self.num_samples if count is None else count
    return next(self._latents(0, count, count))[1]

  def real_labels(self, reals: str) -> np.ndarray:
    """Returns the labels of the real images, in the order of their rows."""
    order = self.real_order(reals) % len(self.source)
    return self.source.labels()[order]

  def fake_batches(self) -> Iterator[tuple[int, Array]]:
    """Yields the generated images in batches, on the devices."""
    size = self.batch_size
    if self._against is not None:
      yield from feature_extractor.read_batches(
        self._against, self._fake_order(), size, self.mesh
      )
      return
    mapped = size * max(_MAPPED // size, 1)
    for z, c in self._latents(0, self.num_samples, mapped):
      # Pad, so that one program serves all batches.
      rows = np.minimum(np.arange(-(-len(z) // size) * size), len(z) - 1)
      ws = self.images.styles(
        self.variables, z[rows], None if c is None else c[rows]
      )
      for i in range(0, len(z), size):
        batch = self.images.synthesize_batch(self.variables, ws[i : i + size])
        yield min(size, len(z) - i), jnp.asarray(batch)
