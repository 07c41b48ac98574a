"""EQ-T, EQ-T_frac and EQ-R: how well a generator follows transforms.

Paper equation 3 and appendix E; math.md section 3. An image generated from
transformed input features is compared with the transformed image:

  PSNR = 20 log10(I_max) - 10 log10(MSE), I_max = 2 for the range [-1, 1],

where MSE is pooled over all samples, valid pixels and channels. Images are
neither clipped nor quantised. The paper's protocol draws one transform for each
group of four images; so does this module.

Every random number comes from the seed and the number of the group, so the
figures depend neither on the batch size nor on how many devices share the work
(beyond the rounding of float32).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from sg3jax import text
from sg3jax.eval import resampling
from sg3jax.types import AnyArray, Array, Images, Variables

_MAX_RANGE = 2.0  # I_max.
_MAX_SHIFT = 0.125  # Of the image's width, or height.

Synthesize = Callable[[Variables, Array, Array], Array]
SampleWs = Callable[[Variables, Array, int], Array]
# Squared errors and numbers of valid values, for each sample of a group.
Errors = tuple[Float[Array, ' n'], Float[Array, ' n']]


@dataclasses.dataclass(frozen=True)
class Metric:
  """One of the three metrics.

  The parameter of a transform is an offset (x, y) in pixels right and down, or
  an angle in radians counter-clockwise.

  Attributes:
    name: What the figure is called in result files. The name keeps the
      protocol's 50k; the number of samples really taken stands beside it.
    draw: (key, (height, width)) -> parameter.
    inverse_transform: (parameter, (height, width)) -> the matrix [3, 3] for the
      generator's input: the inverse of the image's transform, in units of the
      image's width along x and of its height along y.
    compare: (original [n, h, w, c], transformed [n, h, w, c], parameter) ->
      squared errors and valid values of each sample.
  """

  name: str
  draw: Callable[[Array, tuple[int, int]], Array]
  inverse_transform: Callable[[Array, tuple[int, int]], Array]
  compare: Callable[[Array, Array, Array], Errors]


def _draw_offset(key: Array, size: tuple[int, int]) -> Float[Array, '2']:
  shift = jax.random.uniform(key, (2,), minval=-_MAX_SHIFT, maxval=_MAX_SHIFT)
  return shift * jnp.array(size[::-1], jnp.float32)


def _draw_whole_offset(key: Array, size: tuple[int, int]) -> Float[Array, '2']:
  return jnp.round(_draw_offset(key, size))


def _draw_angle(key: Array, size: tuple[int, int]) -> Float[Array, '']:
  del size
  return jax.random.uniform(key, minval=-math.pi, maxval=math.pi)


def _inverse_offset(
  offset: Float[AnyArray, '2'], size: tuple[int, int]
) -> Float[Array, '3 3']:
  return resampling.translation_matrix(
    -offset / np.array(size[::-1], np.float32)
  )


def _inverse_rotation(
  angle: Float[AnyArray, ''], size: tuple[int, int]
) -> Float[Array, '3 3']:
  del size
  return resampling.rotation_matrix(-angle)


def _compare_whole_offset(
  original: Images, transformed: Images, offset: Float[AnyArray, '2']
) -> Errors:
  shift = jnp.round(offset).astype(jnp.int32)
  reference, mask = resampling.translate_integer(original, shift)
  return _masked_errors(transformed, reference, mask)


def _compare_offset(
  original: Images, transformed: Images, offset: Float[AnyArray, '2']
) -> Errors:
  reference, mask = resampling.translate_fractional(original, offset)
  return _masked_errors(transformed, reference, mask)


def _compare_rotation(
  original: Images, transformed: Images, angle: Float[AnyArray, '']
) -> Errors:
  reference, reference_mask = resampling.rotate(original, angle)
  transformed, mask = resampling.pseudo_rotate(transformed, angle)
  return _masked_errors(transformed, reference, mask * reference_mask)


def _masked_errors(a: Images, b: Images, mask: Array) -> Errors:
  squares = jnp.square(a - b) * mask
  counts = jnp.full(a.shape[0], mask.sum() * a.shape[3])
  return squares.sum((1, 2, 3)), counts


EQ_T = Metric(
  'eqt50k_int', _draw_whole_offset, _inverse_offset, _compare_whole_offset
)
EQ_T_FRAC = Metric(
  'eqt50k_frac', _draw_offset, _inverse_offset, _compare_offset
)
EQ_R = Metric('eqr50k', _draw_angle, _inverse_rotation, _compare_rotation)
METRICS = {'eqt': EQ_T, 'eqt_frac': EQ_T_FRAC, 'eqr': EQ_R}


def psnr(
  squared_errors: Float[AnyArray, ' n'], counts: Float[AnyArray, ' n']
) -> float:
  """Returns the pooled PSNR in dB; infinite where nothing differs.

  Args:
    squared_errors: Sums of squared errors, summed on in float64.
    counts: Numbers of values in those sums.
  """
  mse = np.sum(squared_errors, dtype=np.float64)
  mse /= np.sum(counts, dtype=np.float64)
  if mse == 0:
    return math.inf
  return float(20 * np.log10(_MAX_RANGE) - 10 * np.log10(mse))


class EquivarianceEvaluator:
  """Measures generators of one design; compiles once for all of its weights.

  Attributes:
    num_samples: How many images are measured.
    seed: What all random numbers derive from.
  """

  def __init__(
    self,
    synthesize: Synthesize,
    sample_ws: SampleWs,
    *,
    batch_size: int,
    metrics: Sequence[str] = tuple(METRICS),
    num_samples: int = 50_000,
    group_size: int = 4,
    seed: int = 0,
    mesh: Mesh | None = None,
    log: Callable[[str], None] = lambda line: None,
  ):
    """Checks the arguments; nothing is computed yet.

    Args:
      synthesize: (variables, ws [n, ...], transforms [n, 3, 3]) -> images
        [n, h, w, c], float32 (compute in float32: lower precision limits the
        figures). A transform is the inverse of what the image shall undergo,
        see `Metric`. Anything random besides w must not change between calls.
      sample_ws: (variables, key, n) -> ws [n, ...]: random styles without
        truncation, labels drawn from the data. It must be traceable, and is
        called under `jax.vmap` with n = group_size.
      batch_size: Images at a time, on all devices together: a multiple of
        group_size times the number of devices.
      metrics: Which of 'eqt', 'eqt_frac' and 'eqr' to measure.
      num_samples: How many images to measure.
      group_size: Images that share a transform, 4 in the paper.
      seed: What all random numbers derive from.
      mesh: Devices that share each batch, along all axes of the mesh, which
        must be of type Auto. None: the default device alone.
      log: Takes lines of text about what is compiled.

    Raises:
      ValueError: A metric is unknown, or a number does not fit.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
      raise ValueError(
        f'Unknown equivariance metrics {unknown}; choose from {list(METRICS)}.'
      )
    if num_samples < 1 or group_size < 1:
      raise ValueError(
        'num_samples and group_size must be positive, got '
        f'{num_samples} and {group_size}.'
      )
    unit = group_size * (mesh.size if mesh else 1)
    if batch_size < 1 or batch_size % unit:
      raise ValueError(
        f'The equivariance batch size {batch_size} must be a multiple of '
        f'{unit}: {group_size} images share a transform, on each device.'
      )
    self.num_samples = num_samples
    self.seed = seed
    self._metrics = {name: METRICS[name] for name in metrics}
    self._synthesize = synthesize
    self._sample_ws = sample_ws
    self._group_size = group_size
    self._groups_per_batch = batch_size // group_size
    self._mesh = mesh
    self._batch_sharding = None
    shardings = {}
    if mesh:
      self._batch_sharding = NamedSharding(mesh, _batch_spec(mesh))
      # Replicated, so that each host of several can read the sums.
      shardings['out_shardings'] = NamedSharding(mesh, PartitionSpec())
    self._step = text.announce_first_call(
      jax.jit(self._measure_batch, **shardings),
      log,
      f'{", ".join(self._metrics)} of {batch_size} images at a time',
    )

  def __call__(self, variables: Variables) -> dict[str, float]:
    """Returns the figures in dB by their names in result files.

    Args:
      variables: What `synthesize` and `sample_ws` receive, on the devices of
        the mesh (sharded or not), or on no device yet.
    """
    key = jax.random.key(self.seed)
    groups = math.ceil(self.num_samples / self._group_size)
    sums = []
    # Operators in `synthesize` may share their work over the context's mesh.
    context = jax.set_mesh(self._mesh) if self._mesh else nullcontext()
    with context:
      for first in range(0, groups, self._groups_per_batch):
        batch = np.arange(first, first + self._groups_per_batch, dtype=np.int32)
        if self._batch_sharding:
          batch = jax.device_put(batch, self._batch_sharding)
        sums.append(self._step(variables, key, batch))
    # The last batch may be more than was asked for: its rest is left out.
    sums = jax.device_get(sums)
    return {
      metric.name: psnr(
        *(
          np.concatenate([batch[name][i] for batch in sums])[: self.num_samples]
          for i in range(2)
        )
      )
      for name, metric in self._metrics.items()
    }

  def _measure_batch(
    self, variables: Variables, key: Array, groups: Int[Array, ' g']
  ) -> dict[str, Errors]:
    """Returns squared errors and counts [n] of each metric for a batch."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(groups)
    w_keys, *transform_keys = jax.vmap(
      lambda k: jax.random.split(k, 1 + len(METRICS)), out_axes=1
    )(keys)
    # Keyed by all metrics, so that a choice among them changes no figure.
    transform_keys = dict(zip(METRICS, transform_keys, strict=True))

    ws = jax.vmap(lambda k: self._sample_ws(variables, k, self._group_size))(
      w_keys
    )
    ws = self._shard(ws.reshape(-1, *ws.shape[2:]))
    identity = jnp.broadcast_to(jnp.eye(3), (len(ws), 3, 3))
    shape = jax.eval_shape(self._synthesize, variables, ws, identity).shape
    size = shape[1:3]

    parameters, transforms = {}, [identity]
    for name, metric in self._metrics.items():
      parameters[name] = jax.vmap(lambda k, draw=metric.draw: draw(k, size))(
        transform_keys[name]
      )
      inverse = jax.vmap(
        lambda p, invert=metric.inverse_transform: invert(p, size)
      )(parameters[name])
      transforms.append(jnp.repeat(inverse, self._group_size, axis=0))
    # In a loop: the compiler meets the network once.
    originals, *moved = jax.lax.map(
      lambda t: self._shard(self._synthesize(variables, ws, self._shard(t))),
      jnp.stack(transforms),
    )
    return {
      name: self._compare(metric, originals, images, parameters[name])
      for (name, metric), images in zip(
        self._metrics.items(), moved, strict=True
      )
    }

  def _compare(
    self, metric: Metric, originals: Array, images: Array, parameters: Array
  ) -> Errors:
    """Compares group after group, each device its own groups."""

    def compare(originals, images, parameters) -> Errors:
      squares, counts = jax.lax.map(
        lambda group: metric.compare(*group), (originals, images, parameters)
      )
      return squares.ravel(), counts.ravel()

    if self._mesh:
      spec = _batch_spec(self._mesh)
      compare = jax.shard_map(
        compare, mesh=self._mesh, in_specs=spec, out_specs=spec
      )
    originals, images = (
      x.reshape(-1, self._group_size, *x.shape[1:]) for x in (originals, images)
    )
    return compare(originals, images, parameters)

  def _shard(self, x: Array) -> Array:
    if self._batch_sharding is None:
      return x
    return jax.lax.with_sharding_constraint(x, self._batch_sharding)


def _batch_spec(mesh: Mesh) -> PartitionSpec:
  """Splits the first axis over all devices."""
  return PartitionSpec(mesh.axis_names)
