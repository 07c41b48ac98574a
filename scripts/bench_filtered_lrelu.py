"""Times `filtered_lrelu`, layer by layer of a real generator.

  python scripts/bench_filtered_lrelu.py --config_name=t --resolution=64

prints for each layer the milliseconds of `banded` and of the depthwise
convolutions of `reference`, forward and with the gradient of the input and the
bias, and how many times faster `banded` is.

  python scripts/bench_filtered_lrelu.py --rows=128,512,1024

prints instead what an output sample costs on feature maps of those many rows.
Times are the least of --repeats runs. Equal layers are timed once.
"""

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import filtered_lrelu
from sg3jax.types import Array

_CONFIG = flags.DEFINE_enum('config_name', 't', ['t', 'r'], 'Configuration.')
_RESOLUTION = flags.DEFINE_integer('resolution', 64, 'Output resolution.')
_CHANNEL_BASE = flags.DEFINE_integer('channel_base', 32768, 'Capacity.')
_CHANNEL_MAX = flags.DEFINE_integer('channel_max', 512, 'Most channels.')
_BATCH = flags.DEFINE_integer('batch', 4, 'Images in a batch.')
_DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16', 'float16'], 'Feature maps.'
)
_DIRECTION = flags.DEFINE_enum(
  'direction', 'both', ['forward', 'gradient', 'both'], 'What to time.'
)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Runs of which the least counts.')
_ROWS = flags.DEFINE_list('rows', [], 'Row lengths; prints the cost a sample.')

_HEADER = f'{"layer":<6}{"input":<20}{"up":>3}{"down":>5}'


def operator(layer: spec_lib.LayerSpec, implementation: str) -> Callable:
  """Returns the nonlinearity of a layer, (x, b) -> y."""
  return lambda x, b: filtered_lrelu(
    x,
    layer.up_filter(),
    layer.down_filter(),
    b,
    up=layer.up_factor,
    down=layer.down_factor,
    padding=layer.padding,
    clamp=256,
    implementation=implementation,
  )


def with_gradient(f: Callable) -> Callable:
  """Returns (x, b) -> y and its gradient for the cotangent y."""

  def run(x: Array, b: Array):
    y, pull = jax.vjp(f, x, b)
    return y, *pull(y)

  return run


def milliseconds(f: Callable, *args: Array) -> float:
  """Returns the least time of a run after the first."""
  f = jax.jit(f)
  jax.block_until_ready(f(*args))
  times = []
  for _ in range(_REPEATS.value):
    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    times.append(time.perf_counter() - start)
  return 1e3 * min(times)


def inputs(
  layer: spec_lib.LayerSpec, channels: int, batch: int
) -> tuple[Array, Array]:
  """Returns a random x, as the layer's convolution puts it out, and a b."""
  size = layer.in_size + layer.conv_kernel - 1
  rng = np.random.RandomState(0)
  x = jnp.asarray(rng.randn(batch, size, size, channels), _DTYPE.value)
  return x, jnp.asarray(rng.randn(channels), jnp.float32)


def directions() -> dict[str, Callable[[Callable], Callable]]:
  """Returns what to time: a name and a wrapper of the operator."""
  wrappers = {'forward': lambda f: f, 'gradient': with_gradient}
  if _DIRECTION.value == 'both':
    return wrappers
  return {_DIRECTION.value: wrappers[_DIRECTION.value]}


def compare_layers(spec: spec_lib.SynthesisSpec) -> None:
  """Prints milliseconds of each layer, banded against depthwise."""
  print(
    _HEADER
    + ''.join(
      f'{name + ": banded":>18}{"depthwise":>11}{"ratio":>7}'
      for name in directions()
    )
  )
  worst = dict.fromkeys(directions(), np.inf)
  seen = set()
  for layer in spec.layers:
    x, b = inputs(layer, layer.out_channels, _BATCH.value)
    kind = (x.shape, layer.up_factor, layer.down_factor, layer.padding)
    if kind in seen or layer.is_torgb:
      continue
    seen.add(kind)
    row = _label(layer, x)
    for name, wrap in directions().items():
      banded = milliseconds(wrap(operator(layer, 'banded')), x, b)
      depthwise = milliseconds(wrap(operator(layer, 'reference')), x, b)
      worst[name] = min(worst[name], depthwise / banded)
      row += f'{banded:>18.2f}{depthwise:>11.2f}{depthwise / banded:>7.1f}'
    print(row, flush=True)
  for name, ratio in worst.items():
    print(f'least ratio, {name}: {ratio:.1f}')


def compare_rows(rows: Sequence[int]) -> None:
  """Prints nanoseconds an output sample on rows of different lengths."""
  print(_HEADER + ''.join(f'{name + ", ns":>14}' for name in directions()))
  costs = {name: [] for name in directions()}
  for row_length in rows:
    layer = _make_spec(row_length).layers[-2]
    # About as many samples at every length, so that only the length changes.
    x, b = inputs(layer, 16, max(1, 16 * 128**2 // row_length**2))
    samples = x.shape[0] * layer.out_size**2 * x.shape[-1]
    row = _label(layer, x)
    for name, wrap in directions().items():
      cost = 1e6 / samples * milliseconds(wrap(operator(layer, 'banded')), x, b)
      costs[name].append(cost)
      row += f'{cost:>14.2f}'
    print(row, flush=True)
  for name, cost in costs.items():
    print(f'largest ratio to {rows[0]} rows, {name}: {max(cost) / cost[0]:.2f}')


def _label(layer: spec_lib.LayerSpec, x: Array) -> str:
  shape = 'x'.join(map(str, x.shape))
  return f'{layer.name:<6}{shape:<20}{layer.up_factor:>3}{layer.down_factor:>5}'


def _make_spec(resolution: int) -> spec_lib.SynthesisSpec:
  make = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}
  return make[_CONFIG.value](
    resolution,
    channel_base=_CHANNEL_BASE.value,
    channel_max=_CHANNEL_MAX.value,
  )


def main(argv: Sequence[str]) -> None:
  """Prints the table that the flags ask for."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  device = jax.devices()[0]
  print(f'{device.device_kind}, {jax.__version__}, {_DTYPE.value}')
  if _ROWS.value:
    compare_rows([int(rows) for rows in _ROWS.value])
  else:
    compare_layers(_make_spec(_RESOLUTION.value))


if __name__ == '__main__':
  app.run(main)
