"""Equivariance of each layer: where in the network it is lost (`eq_layers`).

The feature maps of a transformed input are compared with the transformed
feature maps, at the sampling rate of each layer, as `eval.band_limited`
compares images. Only samples on the canvas count, before and after the
transform: what is beyond the margins has an influence on the margins.

Feature maps have no nominal range. Their values are signal-to-noise ratios in
dB: the variance of each channel within its map, over the mean squared error.
Images with a standard deviation of 0.5 in [-1, 1] have a PSNR 12 dB higher.

Errors accumulate from layer to layer. The first layer whose value is clearly
lower than that of the layer before it is the one that breaks equivariance.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from sg3jax import text
from sg3jax.eval import band_limited
from sg3jax.eval import transforms as transforms_lib
from sg3jax.eval.metrics import base
from sg3jax.eval.transforms import TRANSFORMS
from sg3jax.types import AnyArray, Array, Variables

# The transforms, whose names begin the names of the values.
KINDS = transforms_lib.OFFICIAL

# Maximum number of images, and of evenly spaced channels of each layer.
_SAMPLES = 64
_CHANNELS = 32

# PSNR is relative to a range of 2; the ratio to the variance is this much less.
_RANGE_DB = 20 * math.log10(2)

# The result of a comparison: squared errors and variances [n, layers].
_Sums = tuple[Float[Array, 'n l'], Float[Array, 'n l']]


class LayerEvaluator:
  """Measures the layers of alias-free generators of one design.

  Attributes:
    names: Names of the feature maps: 'input', 'L0' and so on. The last is the
      image.
  """

  def __init__(self, generator: Any, mesh: Mesh):
    """Prepares the measurement; compiles nothing yet.

    Args:
      generator: The generator.
      mesh: The devices, which measure one image each at a time.
    """
    spec = generator.spec
    rates = [spec.layers[0].in_sampling_rate]
    rates += [layer.out_sampling_rate for layer in spec.layers]
    self.names = ['input'] + [layer.name for layer in spec.layers]
    self.rates = [float(rate) for rate in rates]
    self._size = spec.image_shape[:2]
    self._mesh = mesh
    spread = PartitionSpec(mesh.axis_names)
    self._spread = NamedSharding(mesh, spread)

    def features(variables: Variables, ws: Array, transforms: Array) -> Any:
      maps = generator.apply(
        variables, ws, transforms, names=tuple(self.names), method='activations'
      )
      return [_some_channels(maps[name]) for name in self.names]

    self._features = jax.jit(features, out_shardings=self._spread)
    self._compare = jax.jit(
      jax.shard_map(
        self._compare_batch, mesh=mesh, in_specs=spread, out_specs=spread
      ),
      out_shardings=NamedSharding(mesh, PartitionSpec()),
    )

  def __call__(
    self, variables: Variables, ws: Float[AnyArray, 'n l d'], seed: int
  ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns squared errors and variances [n, layers] by transform.

    Args:
      variables: The generator's variables.
      ws: Styles of the images.
      seed: Random seed of the transforms, one for each image.
    """
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    moves = self._sample_moves(len(ws), seed)
    identity = np.eye(3, dtype=np.float32)
    for first in range(0, len(ws), self._mesh.size):
      # Repeat the last image, so that one program serves all batches.
      rows = np.arange(first, first + self._mesh.size)
      rows = np.minimum(rows, len(ws) - 1)

      def batch(x: AnyArray, rows: np.ndarray = rows) -> Array:
        return jax.device_put(np.asarray(x)[rows], self._spread)

      styles = batch(ws)
      eyes = batch(np.broadcast_to(identity, (len(ws), 3, 3)))
      originals = self._features(variables, styles, eyes)
      for kind, inverses in moves.items():
        moved = self._features(variables, styles, batch(inverses))
        sums = self._compare(originals, moved, batch(inverses))
        found[kind].append(jax.device_get(sums))
    return {kind: _joined(batches, len(ws)) for kind, batches in found.items()}

  def _sample_moves(self, count: int, seed: int) -> dict[str, np.ndarray]:
    """Returns the inverse transforms [n, 3, 3] by their kind."""
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))

    def sample(kind: str, key: Array) -> Array:
      transform = TRANSFORMS[kind]
      key = jax.random.fold_in(key, KINDS.index(kind))
      return transform.inverse(transform.sample(key, self._size), self._size)

    return {
      kind: np.asarray(jax.vmap(lambda k, kind=kind: sample(kind, k))(keys))
      for kind in KINDS
    }

  def _compare_batch(
    self, originals: list[Array], moved: list[Array], inverses: Array
  ) -> _Sums:
    """Compares the maps of images one by one, to save memory."""

    def compare(maps: Any) -> tuple[Array, Array]:
      original, moved, inverse = maps
      pairs = zip(original, moved, self.rates, strict=True)
      sums = [_errors(a, b, inverse, rate) for a, b, rate in pairs]
      squares, signals = zip(*sums, strict=True)
      return jnp.stack(squares), jnp.stack(signals)

    return jax.lax.map(compare, (originals, moved, inverses))


def _some_channels(x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c2']:
  count = min(x.shape[3], _CHANNELS)
  return x[..., np.linspace(0, x.shape[3] - 1, count).astype(int)]


def _errors(
  original: Float[Array, 'h w c'],
  moved: Float[Array, 'h w c'],
  inverse: Float[Array, '3 3'],
  rate: float,
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Returns the sums of squared errors and deviations over the canvas."""
  size = original.shape[:2]
  # Small maps need a shorter filter for there to be samples within its reach.
  reach = min(band_limited.REACH, min(size) // 4)
  rates = (rate, rate)
  reference, mask = band_limited.resample(
    original[None], inverse, rates=rates, reach=reach
  )
  filtered, inside = band_limited.low_pass(moved[None], reach=reach)
  mask = mask * inside * band_limited.canvas_mask(inverse, size, rates)
  count = jnp.maximum(mask.sum(), 1)
  mean = (reference * mask).sum((1, 2), keepdims=True) / count
  signal = jnp.sum(jnp.square(reference - mean) * mask)
  return jnp.sum(jnp.square(filtered - reference) * mask), signal


def _joined(
  batches: Sequence[tuple[np.ndarray, np.ndarray]], count: int
) -> tuple[np.ndarray, np.ndarray]:
  squares, signals = zip(*batches, strict=True)
  return np.concatenate(squares)[:count], np.concatenate(signals)[:count]


@base.register(
  'eq_layers',
  title='Layer of lowest EQ-T (subpixel)',
  unit='signal-to-noise ratio (dB)',
  higher_is_better=True,
  needs=(base.TRANSFORMS,),
  panel='Equivariance of layers',
  labels={
    'eq_layers': 'lowest EQ-T (subpixel)',
    r'eqt_(input|L\d+)': r'EQ-T of \1',
    r'eqt_frac_(input|L\d+)': r'EQ-T (subpixel) of \1',
    r'eqr_(input|L\d+)': r'EQ-R of \1',
  },
  by_default=False,
)
def measure(context: base.Context) -> base.Measurement:
  """Measures the equivariance of each layer; logs a table."""
  evaluator = context.kept(_make_evaluator)
  count = min(context.num_samples, _SAMPLES)
  generator = context.images.generator
  z = np.random.RandomState(context.seed).randn(count, generator.z_dim)
  ws = context.images.styles(
    context.variables, z.astype(np.float32), context.fake_labels(count)
  )
  sums = evaluator(context.variables, ws, context.seed)
  values, ci95 = {}, {}
  for kind, (squares, signals) in sums.items():
    for i, name in enumerate(evaluator.names):
      pair = squares[:, i], signals[:, i]
      values[f'{kind}_{name}'] = transforms_lib.psnr(*pair) - _RANGE_DB
      ci95[f'{kind}_{name}'] = transforms_lib.psnr_ci95(*pair, 1)
  worst = min(evaluator.names, key=lambda name: values[f'eqt_frac_{name}'])
  for found in (values, ci95):
    found['eq_layers'] = found[f'eqt_frac_{worst}']
  context.images.log(text.markdown(table(evaluator, values)))
  return base.Measurement(values, count, ci95, beside=tuple(values))


def table(
  evaluator: LayerEvaluator, values: dict[str, float]
) -> list[dict[str, Any]]:
  """Returns the rows of a table of the layers, with dB lost in each of them."""
  rows = []
  before = None
  for name, rate in zip(evaluator.names, evaluator.rates, strict=True):
    row: dict[str, Any] = {'layer': name, 'rate': int(rate)}
    for kind in KINDS:
      value = values[f'{kind}_{name}']
      row[f'{kind} (dB)'] = value
      row[f'{kind} lost'] = None if before is None else before[kind] - value
    before = {kind: values[f'{kind}_{name}'] for kind in KINDS}
    rows.append(row)
  return rows


def _make_evaluator(context: base.Context) -> LayerEvaluator:
  return LayerEvaluator(context.images.generator, context.mesh)
