"""Times `filtered_lrelu` on the layers of a real generator.

  python scripts/bench_filtered_lrelu.py --config_name=t --resolution=64

This command prints, for each kind of layer and direction, the time of a call,
its bandwidth and arithmetic rate, its fraction of the device's floor, and its
speed relative to `banded` and to the depthwise convolutions of `reference`. The
floor is the time to read the operands and write the results once, or the time
of the filters' multiply-adds, whichever is longer. `--json` writes the rows,
and `--roofline` plots them.

  python scripts/bench_filtered_lrelu.py --compile_only=v5e --resolution=256

This command prints the compiler's facts about the kernels instead, without the
hardware. It needs `pip install 'jax[tpu]'` or, for h100, `'jax[cuda13]'`.

  python scripts/bench_filtered_lrelu.py --rows=128,512,1024

This command prints the cost of an output sample on feature maps with these
numbers of rows.

Times are the minimum over --repeats runs.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import layer_shapes
import matplotlib
import numpy as np
from absl import app, flags

from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import filtered_lrelu
from sg3jax.ops.filtered_lrelu.plan import Chain, Plan
from sg3jax.types import Array

TARGETS = ('v5e', 'v5p', 'v6e', 'tpu7x', 'h100')

_CONFIG = flags.DEFINE_enum('config_name', 't', ['t', 'r'], 'Configuration.')
_RESOLUTION = flags.DEFINE_integer('resolution', 64, 'Output resolution.')
_CHANNEL_BASE = flags.DEFINE_integer('channel_base', 32768, 'Capacity.')
_CHANNEL_MAX = flags.DEFINE_integer('channel_max', 512, 'Maximum channels.')
_BATCH = flags.DEFINE_integer('batch', 4, 'Images in a batch.')
_DTYPE = flags.DEFINE_enum(
  'dtype',
  None,
  ['float32', 'bfloat16', 'float16'],
  'Type of the feature maps; by default float32, or bfloat16 with '
  '--compile_only.',
)
_DIRECTION = flags.DEFINE_enum(
  'direction', 'both', ['forward', 'gradient', 'both'], 'Direction to time.'
)
_IMPLEMENTATION = flags.DEFINE_string(
  'implementation',
  None,
  'Implementation to time; by default the device default.',
)
_BASELINES = flags.DEFINE_list(
  'baselines', ['banded', 'reference'], 'Implementations to compare with.'
)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Number of timed runs.')
_ROWS = flags.DEFINE_list('rows', [], 'Row lengths to compare.')
_COMPILE_ONLY = flags.DEFINE_enum(
  'compile_only', None, TARGETS, 'Target to compile for, without running.'
)
_PEAKS = flags.DEFINE_list(
  'peaks', None, 'GB/s and TFLOP/s of the device, if it is not known.'
)
_JSON = flags.DEFINE_string('json', None, 'File for the rows.')
_ROOFLINE = flags.DEFINE_string('roofline', None, 'PNG file for the plot.')

# GB/s of memory and TFLOP/s of 16-bit products, from the vendors' data sheets.
_KNOWN_PEAKS = {
  'TPU v4': (1228, 275),
  'TPU v5 lite': (819, 197),
  'TPU v5': (2765, 459),
  'TPU v6 lite': (1640, 918),
  'H100': (3350, 989),
  'H200': (4800, 989),
}


@dataclasses.dataclass(frozen=True)
class Work:
  """The minimum work of a call.

  Attributes:
    bytes: Bytes of the operands and results, each accessed once.
    flops: Operations of the filters, two per multiply-add, without taps on
      inserted zeros.
  """

  bytes: float
  flops: float


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of the table. Rates are those of the minimum `Work`."""

  layer: str
  shape: tuple[int, ...]
  up: int
  down: int
  direction: str
  implementation: str
  milliseconds: float
  gigabytes_per_second: float
  teraflops_per_second: float
  floor_milliseconds: float
  fraction_of_floor: float
  times_faster_than: dict[str, float]


def operator(layer: spec_lib.LayerSpec, implementation: str | None) -> Callable:
  """Returns the nonlinearity of a layer as a function (x, b) -> y."""
  options = layer.nonlinearity() | {
    'clamp': layer_shapes.CLAMP,
    'implementation': implementation,
  }
  return lambda x, b: filtered_lrelu(x, b=b, **options)


def with_gradient(f: Callable) -> Callable:
  """Returns a function (x, b) -> y and the gradient for the cotangent y."""

  def run(x: Array, b: Array):
    y, pull = jax.vjp(f, x, b)
    return y, *pull(y)

  return run


def milliseconds(f: Callable, *args: Array) -> float:
  """Returns the minimum time of a call over the runs, without compilation."""
  f = jax.jit(f)

  def seconds(calls: int) -> float:
    start = time.perf_counter()
    results = [f(*args) for _ in range(calls)]
    jax.block_until_ready(results[-1])
    return (time.perf_counter() - start) / calls

  seconds(1)
  # Queue several calls: a single one would measure the dispatch.
  calls = max(1, int(0.05 / seconds(1)))
  return 1e3 * min(seconds(calls) for _ in range(_REPEATS.value))


def inputs(
  layer: spec_lib.LayerSpec, channels: int, batch: int
) -> tuple[Array, Array]:
  """Returns a random x, shaped like the convolution's output, and a b."""
  size = layer.padded_size
  rng = np.random.RandomState(0)
  x = jnp.asarray(rng.randn(batch, size, size, channels), dtype())
  return x, jnp.asarray(rng.randn(channels), jnp.float32)


def direction_work(plan: Plan, direction: str, maps: int) -> Work:
  """Returns the minimum work of one of the `directions`."""
  chains = [plan.forward]
  if direction == 'gradient':
    chains.append(plan.backward)
  samples = sum(chain.samples for chain in chains)
  flops = sum(chain.flops for chain in chains)
  return Work(samples * maps * dtype().itemsize, flops * maps)


def dtype() -> jnp.dtype:
  """Returns the type of the feature maps."""
  default = 'bfloat16' if _COMPILE_ONLY.value else 'float32'
  return jnp.dtype(_DTYPE.value or default)


def directions() -> dict[str, Callable[[Callable], Callable]]:
  """Returns the directions to time: wrappers of the operator by name."""
  wrappers = {'forward': lambda f: f, 'gradient': with_gradient}
  if _DIRECTION.value == 'both':
    return wrappers
  return {_DIRECTION.value: wrappers[_DIRECTION.value]}


def peaks() -> tuple[float, float]:
  """Returns the device's peak bytes and FLOP per second, known or measured."""
  if _PEAKS.value:
    gigabytes, teraflops = map(float, _PEAKS.value)
    return gigabytes * 1e9, teraflops * 1e12
  kind = jax.devices()[0].device_kind
  for name, (gigabytes, teraflops) in _KNOWN_PEAKS.items():
    if name in kind and dtype().itemsize == 2:
      return gigabytes * 1e9, teraflops * 1e12
  x = jnp.ones((1 << 26,), jnp.float32)
  copied = 2 * x.nbytes / (1e-3 * milliseconds(lambda x: x + 1, x))
  m = jnp.ones((2048, 2048), jnp.float32)
  multiplied = 2 * 2048**3 / (1e-3 * milliseconds(jnp.dot, m, m))
  return copied, multiplied


def time_layers(spec: spec_lib.SynthesisSpec) -> list[Row]:
  """Times each kind of layer, and prints the rows as they are measured."""
  bandwidth, rate = peaks()
  print(f'peaks: {bandwidth / 1e9:.0f} GB/s, {rate / 1e12:.2f} TFLOP/s')
  print(
    f'{"layer":6}{"input":20}{"up":>3}{"down":>5} {"direction":10}{"ms":>9}'
    f'{"GB/s":>7}{"TFLOP/s":>9}{"floor ms":>10}{"of floor":>9}'
    + ''.join(f'{"x " + name:>12}' for name in _BASELINES.value)
  )
  rows = []
  for layer, plan in layer_shapes.distinct_layers(spec, dtype()):
    x, b = inputs(layer, layer.out_channels, _BATCH.value)
    for direction, wrap in directions().items():
      work = direction_work(plan, direction, x.shape[0] * x.shape[3])
      best = milliseconds(wrap(operator(layer, _IMPLEMENTATION.value)), x, b)
      floor = 1e3 * max(work.bytes / bandwidth, work.flops / rate)
      ratios = {
        name: milliseconds(wrap(operator(layer, name)), x, b) / best
        for name in _BASELINES.value
      }
      row = Row(
        layer.name, x.shape, layer.up_factor, layer.down_factor, direction,
        _IMPLEMENTATION.value or 'best', best, 1e-6 * work.bytes / best,
        1e-9 * work.flops / best, floor, floor / best, ratios,
      )  # fmt: skip
      rows.append(row)
      shape = 'x'.join(map(str, row.shape))
      print(
        f'{row.layer:6}{shape:20}{row.up:3}{row.down:5} {direction:10}'
        f'{best:9.2f}{row.gigabytes_per_second:7.1f}'
        f'{row.teraflops_per_second:9.3f}{floor:10.3f}'
        f'{row.fraction_of_floor:9.3f}'
        + ''.join(f'{ratio:12.1f}' for ratio in ratios.values()),
        flush=True,
      )
  for name in _BASELINES.value:
    ratios = [row.times_faster_than[name] for row in rows]
    print(
      f'times faster than {name}: least {min(ratios):.1f}, geometric mean '
      f'{np.exp(np.mean(np.log(ratios))):.1f}'
    )
  if _ROOFLINE.value:
    plot_roofline(rows, bandwidth, rate, pathlib.Path(_ROOFLINE.value))
  return rows


def plot_roofline(
  rows: Sequence[Row], bandwidth: float, rate: float, path: pathlib.Path
) -> None:
  """Plots the rates of the rows below the device's roofline."""
  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
  intensity = np.geomspace(1, 1e3, 100)
  roof = np.minimum(intensity * bandwidth, rate) / 1e12
  axes.loglog(intensity, roof, color='black', label='floor')
  for direction in dict.fromkeys(row.direction for row in rows):
    points = [row for row in rows if row.direction == direction]
    per_byte = [
      1e3 * row.teraflops_per_second / row.gigabytes_per_second
      for row in points
    ]
    reached = [row.teraflops_per_second for row in points]
    axes.loglog(per_byte, reached, 'o', label=direction)
    for row, at, value in zip(points, per_byte, reached, strict=True):
      axes.annotate(row.layer, (at, value), fontsize=7)
  axes.set_xlabel('FLOP a byte')
  axes.set_ylabel('TFLOP/s')
  axes.legend()
  figure.savefig(path, dpi=120)
  plt.close(figure)


def compile_layers(spec: spec_lib.SynthesisSpec, target: str) -> list[dict]:
  """Prints the compiler's facts about each kind of layer for `target`."""
  rows = []
  for layer, plan in layer_shapes.distinct_layers(spec, dtype()):
    c = layer.out_channels
    for name in directions():
      direction = 'backward' if name == 'gradient' else name
      chain = getattr(plan, direction)
      try:
        facts = _compile(chain, c, target)
      except NotImplementedError as error:
        facts = {'refused': str(error)}
      size = layer.padded_size
      row = {
        'layer': layer.name, 'direction': direction,
        'input': f'{size}x{size}x{c}', 'up': layer.up_factor,
      }  # fmt: skip
      rows.append(row | facts)
      print('  '.join(f'{k} {v}' for k, v in rows[-1].items()), flush=True)
  return rows


def _compile(chain: Chain, c: int, target: str) -> dict[str, Any]:
  # Import here: each module needs its own compiler.
  if target == 'h100':
    import aot_gpu

    shapes = [(_BATCH.value, *size, c) for size in chain.in_sizes]
    return aot_gpu.compile_facts(chain, shapes, dtype(), is_scaled=True)
  import aot_tpu

  facts = aot_tpu.compile_facts(chain, _BATCH.value, c, dtype(), target)
  return {
    'tile': 'x'.join(map(str, facts.tile)),
    'grid': facts.grid,
    'bundles a step': facts.bundles_per_step,
    'million bundles': round(facts.bundles_per_step * facts.grid / 1e6, 3),
    'seconds': round(facts.seconds, 1),
  }


def compare_rows(rows: Sequence[int]) -> None:
  """Prints nanoseconds per output sample for rows of different lengths."""
  print(
    f'{"input":<20}' + ''.join(f'{name + ", ns":>14}' for name in directions())
  )
  costs = {name: [] for name in directions()}
  for row_length in rows:
    layer = _make_spec(row_length).layers[-2]
    # Keep the number of samples about constant, so that only the length varies.
    x, b = inputs(layer, 16, max(1, 16 * 128**2 // row_length**2))
    samples = x.shape[0] * layer.out_size**2 * x.shape[-1]
    row = f'{"x".join(map(str, x.shape)):<20}'
    for name, wrap in directions().items():
      cost = 1e6 / samples * milliseconds(wrap(operator(layer, 'banded')), x, b)
      costs[name].append(cost)
      row += f'{cost:>14.2f}'
    print(row, flush=True)
  for name, cost in costs.items():
    print(f'largest ratio to {rows[0]} rows, {name}: {max(cost) / cost[0]:.2f}')


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
  target = _COMPILE_ONLY.value
  device = f'for {target}' if target else jax.devices()[0].device_kind
  print(f'{device}, JAX {jax.__version__}, {dtype().name}')
  spec = _make_spec(_RESOLUTION.value)
  if _ROWS.value:
    compare_rows([int(rows) for rows in _ROWS.value])
    return
  if target:
    rows = compile_layers(spec, target)
  else:
    rows = [dataclasses.asdict(row) for row in time_layers(spec)]
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(
      json.dumps({'device': device, 'jax': jax.__version__, 'rows': rows})
    )


if __name__ == '__main__':
  app.run(main)
