"""EQ-T, EQ-T_frac, EQ-R and their relatives: a generator's equivariance.

Paper equation 3 and appendix E; math.md section 3. An image generated from
transformed input features is compared with the transformed image:

  PSNR = 20 log10(I_max) - 10 log10(MSE), I_max = 2 for the range [-1, 1],

where MSE is pooled over all samples, valid pixels and channels. Images are
neither clipped nor quantized. As in the paper's protocol, each group of four
images shares one transform.

Every random number depends only on the seed, the number of the group and the
name of the metric. The values do not depend on the batch size, on the number of
devices or on which other metrics are measured (beyond float32 rounding).

Beside the paper's metrics there are EQ-R with a finer resampler (`eqr_hq`) and
the equivariance to scale, isotropic (`eqs`) and by each axis (`eqsa`). The
ceiling of a metric is its value for an ideal generator of images with the same
spectrum: see `eval.ideal_generator` and docs/equivariance.md.
"""

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from sg3jax import text
from sg3jax.eval import ideal_generator
from sg3jax.eval import transforms as transforms_lib
from sg3jax.eval.metrics import base
from sg3jax.eval.transforms import TRANSFORMS, Errors, Transform
from sg3jax.types import AnyArray, Array, Images, Variables

Synthesize = Callable[[Variables, Array, Array], Images]
SampleWs = Callable[[Variables, Array, int], Array]

# Smaller images have no pixels that all filters of `eval.band_limited` reach
# from within the image.
MIN_RESOLUTION = 32

# Number of images of the ideal generator: its 95 % interval is then about 1 dB.
_IDEAL_SAMPLES = 256
# Number of the model's images whose mean spectrum the ideal generator has.
_SPECTRUM_SAMPLES = 64


class EquivarianceEvaluator:
  """Measures generators of one design, and compiles once for all weights.

  Attributes:
    num_samples: Number of images that are measured.
    seed: Random seed for latents and transforms.
  """

  def __init__(
    self,
    synthesize: Synthesize,
    sample_ws: SampleWs,
    *,
    batch_size: int,
    metrics: Sequence[str] = transforms_lib.OFFICIAL,
    num_samples: int = 50_000,
    group_size: int = 4,
    seed: int = 0,
    mesh: Mesh | None = None,
    log: Callable[[str], None] = lambda line: None,
  ):
    """Prepares the measurement; compiles nothing yet.

    Args:
      synthesize: Maps (variables, styles, inverse transforms) to images, for
        `batch_size` images at a time. It is called outside of `jax.jit`, so
        pass a jitted function. A network that is already compiled need not be
        compiled again.
      sample_ws: Maps (variables, key, n) to styles of n random latents and
        labels; traced.
      batch_size: Number of images at a time, a multiple of `group_size` on each
        device.
      metrics: Keys of `TRANSFORMS` to measure; by default the paper's.
      num_samples: Number of images to measure.
      group_size: Number of images that share a transform; 4 in the paper.
      seed: Random seed for latents and transforms.
      mesh: Devices that share each batch, along all axes of the mesh, which
        must be of type Auto; None for the default device only.
      log: Called with lines of text about what is compiled.

    Raises:
      ValueError: If a metric is unknown, or a number is invalid.
    """
    _check(metrics, batch_size, num_samples, group_size, mesh)
    self.num_samples = num_samples
    self.seed = seed
    self.group_size = group_size
    self._transforms = {name: TRANSFORMS[name] for name in metrics}
    self._synthesize = synthesize
    self._sample_ws = sample_ws
    self._groups_per_batch = batch_size // group_size
    self._mesh = mesh
    # Replicated, so that every host can read the sums.
    whole = NamedSharding(mesh, PartitionSpec()) if mesh else None
    spread = NamedSharding(mesh, _batch_spec(mesh)) if mesh else None
    self._batch_sharding = spread
    self._styles = jax.jit(self._sample_styles, out_shardings=spread)
    self._moves = jax.jit(
      self._sample_moves, static_argnums=2, out_shardings=spread
    )
    self._compare = {
      name: text.announce_first_call(
        jax.jit(
          functools.partial(self._compare_batch, transform),
          out_shardings=whole,
        ),
        log,
        f'{name} of {batch_size} images at a time',
      )
      for name, transform in self._transforms.items()
    }

  def __call__(self, variables: Variables) -> dict[str, float]:
    """Returns the values in dB by their names in result files.

    Args:
      variables: The first argument of `synthesize` and `sample_ws`, on the
        devices of the mesh (sharded or not), or on no device yet.
    """
    return {
      self._transforms[name].result: transforms_lib.psnr(*errors)
      for name, errors in self.measure(variables).items()
    }

  def measure(
    self, variables: Variables
  ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns squared errors and counts of each sample, by metric.

    Args:
      variables: As for `__call__`.

    Returns:
      Two float arrays [num_samples] for each metric, the arguments of `psnr`
      and `psnr_ci95`.
    """
    key = jax.random.key(self.seed)
    groups = math.ceil(self.num_samples / self.group_size)
    found = []
    # Operators in `synthesize` may spread their work over the context's mesh.
    with jax.set_mesh(self._mesh) if self._mesh else nullcontext():
      for first in range(0, groups, self._groups_per_batch):
        batch = np.arange(first, first + self._groups_per_batch, dtype=np.int32)
        if self._batch_sharding:
          batch = jax.device_put(batch, self._batch_sharding)
        found.append(self._measure_batch(variables, key, batch))
        # Keep at most two batches in the devices' memory.
        jax.block_until_ready(found[-2:][0])
    found = jax.device_get(found)
    # Drop the part of the last batch beyond the requested number.
    errors = {}
    for name in self._transforms:
      squares, counts = zip(*(batch[name] for batch in found), strict=True)
      errors[name] = (
        np.concatenate(squares)[: self.num_samples],
        np.concatenate(counts)[: self.num_samples],
      )
    return errors

  def _measure_batch(
    self, variables: Variables, key: Array, groups: Int[AnyArray, ' g']
  ) -> dict[str, Errors]:
    """Returns the squared errors and counts [n] of each metric for a batch."""
    ws, identity = self._styles(variables, key, groups)
    originals = self._synthesize(variables, ws, identity)
    errors = {}
    for name, (parameters, inverses) in self._moves(
      key, groups, originals.shape[1:3]
    ).items():
      images = self._synthesize(variables, ws, inverses)
      errors[name] = self._compare[name](originals, images, parameters)
    return errors

  def _sample_styles(
    self, variables: Variables, key: Array, groups: Int[Array, ' g']
  ) -> tuple[Array, Array]:
    """Returns the styles [n, l, d] of a batch, and identities [n, 3, 3]."""
    keys = _split_keys(key, groups)[0]
    ws = jax.vmap(lambda k: self._sample_ws(variables, k, self.group_size))(
      keys
    )
    ws = ws.reshape(-1, *ws.shape[2:])
    return ws, jnp.broadcast_to(jnp.eye(3), (len(ws), 3, 3))

  def _sample_moves(
    self, key: Array, groups: Int[Array, ' g'], size: tuple[int, int]
  ) -> dict[str, tuple[Array, Array]]:
    """Returns the transforms of a batch.

    Args:
      key: Random key.
      groups: Numbers of the groups.
      size: Rows and columns of the images.

    Returns:
      For each metric, the parameters of its groups, [g] or [g, 2], and the
      inverse transforms [n, 3, 3].
    """
    # Split keys for all transforms, so that values do not depend on the choice.
    keys = dict(zip(TRANSFORMS, _split_keys(key, groups)[1:], strict=True))
    moves = {}
    for name, transform in self._transforms.items():
      parameters = jax.vmap(transform.sample, (0, None))(keys[name], size)
      inverses = jax.vmap(transform.inverse, (0, None))(parameters, size)
      moves[name] = parameters, jnp.repeat(inverses, self.group_size, axis=0)
    return moves

  def _compare_batch(
    self,
    transform: Transform,
    originals: Array,
    images: Array,
    parameters: Array,
  ) -> Errors:
    """Compares images group by group; each device compares its own groups."""

    def compare(originals, images, parameters) -> Errors:
      squares, counts = jax.lax.map(
        lambda group: transform.compare(*group), (originals, images, parameters)
      )
      return squares.ravel(), counts.ravel()

    if self._mesh:
      spec = _batch_spec(self._mesh)
      compare = jax.shard_map(
        compare, mesh=self._mesh, in_specs=spec, out_specs=spec
      )
    originals, images = (
      x.reshape(-1, self.group_size, *x.shape[1:]) for x in (originals, images)
    )
    return compare(originals, images, parameters)


def _check(
  metrics: Sequence[str],
  batch_size: int,
  num_samples: int,
  group_size: int,
  mesh: Mesh | None,
) -> None:
  """Raises a ValueError if a metric is unknown, or a number is invalid."""
  if not metrics or not set(metrics) <= set(TRANSFORMS):
    raise ValueError(
      f'equivariance metrics must be among {list(TRANSFORMS)}, got '
      f'{list(metrics)}'
    )
  if num_samples < 1 or group_size < 1:
    raise ValueError(
      'num_samples and group_size must be positive, got '
      f'{num_samples} and {group_size}'
    )
  unit = group_size * (mesh.size if mesh else 1)
  if batch_size < 1 or batch_size % unit:
    raise ValueError(
      f'the batch of equivariance metrics must be a multiple of {unit}, got '
      f'{batch_size}: {group_size} images share a transform, on each device'
    )


def _split_keys(key: Array, groups: Int[Array, ' g']) -> Array:
  """Returns keys [1 + transforms, g], for latents and then each transform."""
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(groups)
  return jax.vmap(
    lambda k: jax.random.split(k, 1 + len(TRANSFORMS)), out_axes=1
  )(keys)


def _batch_spec(mesh: Mesh) -> PartitionSpec:
  """Splits the first axis over all devices."""
  return PartitionSpec(mesh.axis_names)


def _measure(name: str, context: base.Context) -> base.Measurement:
  squares, counts = context.shared(_measure_all)[name]
  result = TRANSFORMS[name].result
  values = {result: transforms_lib.psnr(squares, counts)}
  ci95 = {result: transforms_lib.psnr_ci95(squares, counts, context.group_size)}
  if context.details:
    ideal = context.shared(_measure_ideal)[name]
    values[f'{result}_ceiling'] = transforms_lib.psnr(*ideal)
    ci95[f'{result}_ceiling'] = transforms_lib.psnr_ci95(
      *ideal, context.group_size
    )
  return base.Measurement(values, len(squares), ci95, beside=tuple(values))


def _measure_all(
  context: base.Context,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Measures all equivariance metrics of the context on the same images."""
  return context.kept(_make_evaluator).measure(_variables(context))


def _measure_ideal(
  context: base.Context,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Measures the ideal generator with the spectrum of the context's images."""
  power = context.kept(_make_spectrum)(_variables(context))
  return context.kept(_make_ideal_evaluator).measure({'power': power})


def _variables(context: base.Context) -> dict[str, Any]:
  variables: dict[str, Any] = {'generator': context.variables}
  if context.label_values is not None:
    variables['labels'] = context.label_values
  return variables


def _make_evaluator(context: base.Context) -> EquivarianceEvaluator:
  images = context.images
  return EquivarianceEvaluator(
    lambda variables, ws, transforms: images.synthesize_batch(
      variables['generator'], ws, transforms
    ),
    lambda variables, key, n: images.sample_styles(
      variables['generator'], key, variables.get('labels'), n
    ),
    num_samples=context.num_samples,
    log=images.log,
    **_options(context),
  )


def _make_ideal_evaluator(context: base.Context) -> EquivarianceEvaluator:
  size = context.images.generator.spec.image_shape[:2]
  return EquivarianceEvaluator(
    jax.jit(
      lambda variables, waves, transforms: ideal_generator.render(
        waves, transforms, size
      )
    ),
    lambda variables, key, n: ideal_generator.sample_waves(
      variables['power'], key, n
    ),
    num_samples=min(context.num_samples, _IDEAL_SAMPLES),
    **_options(context),
  )


def _options(context: base.Context) -> dict[str, Any]:
  return {
    'batch_size': context.images.batch_size,
    'metrics': [name for name in context.metrics if name in TRANSFORMS],
    'group_size': context.group_size,
    'seed': context.seed,
    'mesh': context.mesh,
  }


def _make_spectrum(context: base.Context) -> Callable[[Variables], np.ndarray]:
  """Returns a function that measures the power spectrum of a generator."""
  images, key = context.images, jax.random.key(context.seed)
  whole = NamedSharding(images.mesh, PartitionSpec())
  # Always the same number of images, with keys of their own, so that the
  # spectrum does not depend on the batch.
  count = min(context.num_samples, _SPECTRUM_SAMPLES)

  @functools.partial(jax.jit, out_shardings=whole)
  def styles(variables: Variables, numbers: Array) -> Array:
    def sample(number: Array) -> Array:
      return images.sample_styles(
        variables['generator'],
        jax.random.fold_in(key, number),
        variables.get('labels'),
        1,
      )[0]

    return jax.vmap(sample)(numbers)

  power = jax.jit(
    jax.vmap(lambda image: ideal_generator.power_spectrum(image[None])),
    out_shardings=whole,
  )

  def measure(variables: Variables) -> np.ndarray:
    total = 0.0
    for first in range(0, count, images.batch_size):
      numbers = np.arange(first, first + images.batch_size)
      batch = images.synthesize_batch(
        variables['generator'], np.asarray(styles(variables, numbers))
      )
      found = np.asarray(power(batch), np.float64)
      total = total + found[: count - first].sum(0)
    return np.asarray(total / count, np.float32)

  return measure


for _name, _title, _suffix in (
  ('eqt', 'EQ-T', '_int'),
  ('eqt_frac', 'EQ-T (subpixel)', '_frac'),
  ('eqr', 'EQ-R', ''),
):
  base.register(
    _name,
    title=_title,
    unit='PSNR (dB)',
    higher_is_better=True,
    needs=(base.TRANSFORMS,),
    result=TRANSFORMS[_name].result,
    panel='Equivariance',
    labels={
      # In files of other tools, the name states a different number of samples.
      rf'{_name[:3]}\d+k?{_suffix}': _title,
      rf'{_name[:3]}\d+k?{_suffix}_ceiling': f'{_title}, ceiling',
    },
  )(functools.partial(_measure, _name))

for _name, _title in (
  ('eqr_hq', 'EQ-R (fine resampler)'),
  ('eqs', 'EQ-S'),
  ('eqsa', 'EQ-S (each axis)'),
):
  base.register(
    _name,
    title=_title,
    unit='PSNR (dB)',
    higher_is_better=True,
    needs=(base.TRANSFORMS,),
    panel='Equivariance',
    labels={_name: _title, f'{_name}_ceiling': f'{_title}, ceiling'},
    min_resolution=MIN_RESOLUTION,
    by_default=False,
  )(functools.partial(_measure, _name))
