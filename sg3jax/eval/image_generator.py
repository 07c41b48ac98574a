"""Generates many images in batches of one size, on all devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from sg3jax import text
from sg3jax.eval import batches
from sg3jax.eval.plots import grids
from sg3jax.nets import generator as generator_lib
from sg3jax.types import AnyArray, Array, Images, ImagesU8, Variables

# Images that each device generates at a time, if its memory is unknown.
_DEVICE_BATCH = 16
# Images that share a transform; the batch of each device is a multiple of it.
GROUP = 4


class ImageGenerator:
  """Generates many images with one generator, in batches of one size.

  The synthesis network is compiled once, for all images, weights and metrics.

  Attributes:
    generator: The generator; images are computed in its precision.
    mesh: The devices.
    batch_size: Number of images at a time, over all devices.
    log: Called with lines of text about what is compiled.
  """

  def __init__(
    self,
    generator: generator_lib.Generator,
    mesh: Mesh,
    *,
    batch_size: int | None = None,
    memory: int | None = None,
    log: Callable[[str], None] = lambda line: None,
  ):
    """Prepares generation; compiles nothing yet.

    Args:
      generator: The generator.
      mesh: The devices.
      batch_size: Number of images at a time, over all devices; by default as
        many as fit.
      memory: Bytes of memory of a device, if known, for the default.
      log: Called with lines of text about what is compiled.

    Raises:
      ValueError: If the batch cannot be spread over the devices.
    """
    unit = GROUP * mesh.size
    if batch_size is None:
      batch_size = mesh.size * batches.fitting_batch(
        generator, memory, default=_DEVICE_BATCH, multiple=GROUP
      )
    if batch_size % unit:
      raise ValueError(
        f'the batch must be a multiple of {unit}, {GROUP} for each device, '
        f'got {batch_size}'
      )
    self.generator = generator
    self.mesh = mesh
    self.batch_size = batch_size
    self.log = log
    self._spread = NamedSharding(mesh, P(mesh.axis_names))
    whole = NamedSharding(mesh, P())
    self._mapping = jax.jit(self._apply('mapping'), out_shardings=whole)
    self._jitted = jax.jit(self._apply('synthesis'), out_shardings=self._spread)
    self._synthesis: Callable[..., Array] = text.announce_first_call(
      self._jitted,
      log,
      f'the generator, for {text.counted(batch_size, "image")} at a time',
    )
    # Replicated, so that every host can read all of them.
    self._gather = jax.jit(lambda x: x, out_shardings=whole)

  def compile_synthesis(self, variables: Variables) -> jax.stages.Compiled:
    """Compiles the synthesis network ahead of the first batch, which uses it.

    Args:
      variables: The generator's variables, or their shapes.

    Returns:
      The compiled program, which can report its cost.
    """
    spec = self.generator.spec
    shapes = [(self.batch_size, spec.num_ws, self.generator.w_dim)]
    if spec.takes_transforms:
      shapes.append((self.batch_size, 3, 3))
    inputs = [
      jax.ShapeDtypeStruct(shape, np.float32, sharding=self._spread)
      for shape in shapes
    ]
    program = self._jitted.lower(variables, *inputs).compile()
    self._synthesis = program
    return program

  def _apply(self, method: str) -> Callable[..., Any]:
    return functools.partial(self.generator.apply, method=method)

  def styles(
    self,
    variables: Variables,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None,
  ) -> Float[np.ndarray, 'n l d']:
    """Returns the styles for latents and labels."""
    return np.asarray(self._mapping(variables, z, c))

  def synthesize(
    self,
    variables: Variables,
    ws: Float[AnyArray, 'n l d'],
    transforms: Float[AnyArray, 'n 3 3'] | None = None,
  ) -> ImagesU8:
    """Returns the images for styles.

    Args:
      variables: The generator's variables.
      ws: Styles for any number of images.
      transforms: Inverse transforms of the input; None for the identity.
    """
    n = len(ws)
    images = []
    for i in range(0, n, self.batch_size):
      # Pad the last batch, so that one program serves all batches.
      rows = np.minimum(np.arange(i, i + self.batch_size), n - 1)
      moved = None if transforms is None else transforms[rows]
      batch = self.synthesize_batch(variables, ws[rows], moved)
      images.append(grids.to_uint8(self._gather(batch)))
    return np.concatenate(images)[:n]

  def synthesize_batch(
    self,
    variables: Variables,
    ws: Float[AnyArray, 'n l d'],
    transforms: Float[AnyArray, 'n 3 3'] | None = None,
  ) -> Images:
    """Returns one batch of images, spread over the devices.

    Args:
      variables: The generator's variables.
      ws: Styles for `batch_size` images.
      transforms: Inverse transforms of the input; None for the identity.

    Returns:
      Float images [batch_size, h, w, c], neither clipped nor rounded.
    """
    batch: tuple[AnyArray, ...] = (ws,)
    if self.generator.spec.takes_transforms:
      if transforms is None:
        transforms = np.tile(np.eye(3, dtype=np.float32), (len(ws), 1, 1))
      batch += (transforms,)
    return self._synthesis(variables, *jax.device_put(batch, self._spread))

  def sample_styles(
    self, variables: Variables, key: Array, labels: Array | None, count: int
  ) -> Float[Array, 'n l d']:
    """Returns styles of random latents and labels; may be traced.

    Args:
      variables: The generator's variables.
      key: Random key.
      labels: Labels to sample from: vectors [m, classes] or class indices [m];
        None if the generator takes no labels.
      count: Number of styles.
    """
    z_key, c_key = jax.random.split(key)
    z = jax.random.normal(z_key, (count, self.generator.z_dim))
    c = None
    if labels is not None:
      c = labels[jax.random.randint(c_key, (count,), 0, len(labels))]
      if c.ndim == 1:
        c = jax.nn.one_hot(c, self.generator.label_dim)
    return self._apply('mapping')(variables, z, c)
