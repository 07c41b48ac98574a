"""Streams images through feature networks, on all devices.

Batches are spread over the devices of the mesh; the features of a batch are
gathered on every host, in the order of the images. Images are not kept.
"""

import collections
import concurrent.futures
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from sg3jax import text, trees
from sg3jax.data import sources
from sg3jax.eval import feature_sets, progress
from sg3jax.nets.features import base as networks_lib
from sg3jax.types import Array, Variables

# Numbers of valid images, and the images: float in [-1, 1] or uint8, all of the
# same number, spread over the devices.
Batches = Iterable[tuple[int, Array]]

# Batches whose features are computed while the host adds earlier ones.
_IN_FLIGHT = 2
_READERS = 4  # Threads that decode images.


class Extractor:
  """One feature network, compiled for one mesh.

  Attributes:
    network: The network.
    sha256: Hash of its weights.
  """

  def __init__(
    self,
    network: networks_lib.FeatureNetwork,
    variables: Variables,
    mesh: Mesh,
    outputs: Sequence[str] = (),
    log: Callable[[str], None] = lambda line: None,
  ):
    """Copies the weights to the devices; compiles nothing yet.

    Args:
      network: The network.
      variables: Its weights.
      mesh: The devices.
      outputs: Names of the outputs to return besides the first.
      log: Called with lines of text about what is compiled.
    """
    self.network = network
    self.sha256 = hash_of(variables)
    first = next(iter(network.dims))
    self.outputs = tuple(dict.fromkeys((first, *outputs)))
    whole = NamedSharding(mesh, P())
    self._variables = jax.device_put(variables, whole)
    self._apply = text.announce_first_call(
      jax.jit(self._features, out_shardings=whole),
      log,
      f'the feature network {network.name}',
    )

  def __call__(self, images: Array) -> dict[str, Array]:
    """Returns the features of a batch by output, on the devices."""
    return self._apply(self._variables, images)

  def _features(self, variables: Variables, images: Array) -> dict[str, Array]:
    found = self.network.apply(variables, round_to_uint8(images))
    return {name: found[name].astype(jnp.float32) for name in self.outputs}


def round_to_uint8(images: Array) -> Array:
  """Converts float images to uint8 as `grids.to_uint8` does; may be traced."""
  if images.dtype == jnp.uint8:
    return images
  x = images.astype(jnp.float32)
  x = jnp.where(jnp.isnan(x), 0.0, x)
  return jnp.clip(x * 127.5 + 128, 0, 255).astype(jnp.uint8)


def hash_of(variables: Variables) -> str:
  """Returns the SHA-256 hash of names, shapes and values of weights."""
  digest = hashlib.sha256()
  for name, value in sorted(trees.flatten(variables).items()):
    array = np.ascontiguousarray(value)
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def collect(
  extractors: Mapping[str, Extractor],
  batches: Batches,
  *,
  total: int,
  keep: Mapping[str, int],
  what: str,
  log: Callable[[str], None] = lambda line: None,
) -> dict[str, feature_sets.FeatureSet]:
  """Returns the features of images, by network.

  Args:
    extractors: The networks by name.
    batches: The images, which are read once for all networks.
    total: Number of images in all batches.
    keep: Number of rows to keep, by network.
    what: Name of the images, for the progress bar.
    log: Receives lines about the progress if there is no terminal.
  """
  sums = {
    name: feature_sets.Accumulator(extractor.outputs, keep[name])
    for name, extractor in extractors.items()
  }

  def add(n: int, features: Mapping[str, Mapping[str, Array]]) -> None:
    for name, outputs in features.items():
      sums[name].add({k: np.asarray(v)[:n] for k, v in outputs.items()})

  pending = collections.deque()
  with progress.bar(total, what, log) as advance:
    for n, images in batches:
      found = {name: extract(images) for name, extract in extractors.items()}
      pending.append((n, found))
      if len(pending) > _IN_FLIGHT:
        done, features = pending.popleft()
        add(done, features)
        advance(done)
    for done, features in pending:
      add(done, features)
      advance(done)
  return {name: accumulator.result() for name, accumulator in sums.items()}


def read_batches(
  source: sources.ImageSource,
  order: Int[np.ndarray, ' n'],
  batch_size: int,
  mesh: Mesh,
) -> Iterator[tuple[int, Array]]:
  """Yields batches of a source's images; each host reads what its devices get.

  Args:
    source: The images.
    order: Indices of the images. From the number of images on, they mean the
      images flipped left to right.
    batch_size: Number of images at a time, over all devices.
    mesh: The devices.
  """
  spread = NamedSharding(mesh, P(mesh.axis_names))
  shape = (batch_size, *source[int(order[0]) % len(source)]['image'].shape)

  def read(index: Any) -> np.ndarray:
    flipped, place = divmod(int(index), len(source))
    image = source[place]['image']
    return image[:, ::-1] if flipped else image

  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    for i in range(0, len(order), batch_size):
      # Pad the last batch, so that one program serves all batches.
      rows = order[np.minimum(np.arange(i, i + batch_size), len(order) - 1)]

      def part(index: Any, rows: np.ndarray = rows) -> np.ndarray:
        return np.stack(list(pool.map(read, rows[index[0]])))

      images = jax.make_array_from_callback(shape, spread, part)
      yield min(batch_size, len(order) - i), images
