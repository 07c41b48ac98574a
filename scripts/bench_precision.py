"""Measures the effect of 16-bit feature maps on equivariance.

  python scripts/bench_precision.py --network=runs/quickstart --samples=64

This command prints EQ-T, EQ-T_frac and EQ-R of one set of weights with feature
maps in float32, float16 and bfloat16, for each implementation of the
nonlinearity. A kernel whose device is missing is interpreted, which is slow but
rounds like the kernel.
"""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags

import sg3jax
from sg3jax.eval.metrics import equivariance
from sg3jax.nets import factory
from sg3jax.ops.filtered_lrelu import dispatch, interpreted, platform

_NETWORK = flags.DEFINE_string(
  'network', None, 'A run or a checkpoint.', required=True
)
_SAMPLES = flags.DEFINE_integer('samples', 64, 'Images per metric.')
_BATCH = flags.DEFINE_integer('batch', 8, 'Images per batch, a multiple of 4.')
_IMPLEMENTATIONS = flags.DEFINE_list(
  'implementations',
  ['banded', 'pallas_tpu'],
  'Implementations of filtered_lrelu.',
)
_PRECISIONS = flags.DEFINE_list(
  'precisions', list(factory.PRECISIONS), 'Precisions of the feature maps.'
)


def measure(
  model: sg3jax.Model, precision: str, implementation: str
) -> dict[str, float]:
  """Returns the values of the metrics, in dB, by name."""
  generator = model.generator.clone(
    low_precision_dtype=factory.PRECISIONS[precision],
    conv_clamp=None if precision == 'fp32' else 256.0,
    filtered_lrelu_implementation=implementation,
  )

  @jax.jit
  def synthesize(variables, ws, transforms) -> Any:
    return generator.apply(variables, ws, transforms, method='synthesis')

  def sample_ws(variables, key, n) -> Any:
    z = jax.random.normal(key, (n, generator.z_dim))
    return generator.apply(variables, z, None, method='mapping')

  evaluator = equivariance.EquivarianceEvaluator(
    synthesize, sample_ws, batch_size=_BATCH.value, num_samples=_SAMPLES.value
  )
  kernel = dispatch.KERNELS.get(implementation)
  is_here = kernel is None or kernel[0] == platform.target()[0]
  with contextlib.nullcontext() if is_here else interpreted():
    return evaluator(model.variables)


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  model = sg3jax.load_model(_NETWORK.value)
  print(f'{jax.devices()[0].device_kind}, JAX {jax.__version__}')
  for precision, implementation in itertools.product(
    _PRECISIONS.value, _IMPLEMENTATIONS.value
  ):
    try:
      values = measure(model, precision, implementation)
    except NotImplementedError as error:
      print(f'{precision:6}{implementation:12} {error}')
      continue
    text = '  '.join(f'{name} {db:.2f} dB' for name, db in values.items())
    print(f'{precision:6}{implementation:12} {text}', flush=True)


if __name__ == '__main__':
  app.run(main)
