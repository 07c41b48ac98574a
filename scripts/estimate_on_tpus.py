"""Compares the kernel with plain XLA on TPUs, by their compilers' estimates.

  python scripts/estimate_on_tpus.py --generations=v5e,v6e --designs=t,r

This command compiles each kind of layer, forward and backward, for one device
of each generation, and adds to docs/hardware/tpu_estimates.json what is not in
it yet. It needs the TPU compiler (`pip install 'sg3jax[compile]'`), but no TPU.
`--write_only` compiles nothing. In any case the table of docs/scaling.md and
the package's `estimated.json` are then written anew; a test fails if they do
not match.

Nothing is run. For `banded`, the cycles are those that the compiler estimates
for its operations, which is two to three times too many for some of them. For
the kernel, they are the instructions of its schedule, without stalls, which is
too few. A ratio below 3 does not say which one is faster.
"""

import functools
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import aot_tpu
import jax
import jax.numpy as jnp
import layer_shapes
import numpy as np
from absl import app, flags
from jax.sharding import Mesh, SingleDeviceSharding

from sg3jax import files, version
from sg3jax import text as text_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import banded, measured
from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.train.planning import program

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'docs' / 'hardware' / 'tpu_estimates.json'
PAGE = ROOT / 'docs' / 'scaling.md'
ESTIMATED = ROOT / 'sg3jax' / 'ops' / 'filtered_lrelu' / 'estimated.json'

_MARKS = ('<!-- estimates -->', '<!-- /estimates -->')
_GENERATIONS = ('v4', 'v5e', 'v5p', 'v6e', 'tpu7x')
_MAKERS = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}
_DIRECTIONS = ('forward', 'backward')
_BATCH = 8

_FLAG_GENERATIONS = flags.DEFINE_list(
  'generations', list(_GENERATIONS), 'Generations to compile for.'
)
_DESIGNS = flags.DEFINE_list('designs', ['t', 'r'], 'Designs: t, r.')
_RESOLUTION = flags.DEFINE_integer('side', 256, 'Output resolution.')
_MINUTES = flags.DEFINE_float(
  'minutes',
  None,
  'Start no compilation after so many minutes; no limit by default.',
)
_WRITE_ONLY = flags.DEFINE_bool('write_only', False, 'Compile nothing.')

Row = Mapping[str, Any]


def cases(
  design: str, resolution: int
) -> Iterator[tuple[str, str, int, Chain]]:
  """Yields (layer, direction, channels, chain), one layer of each kind."""
  base = 1 << (15 if design == 't' else 16)
  spec = _MAKERS[design](resolution, channel_base=base)
  for layer, plan in layer_shapes.distinct_layers(spec):
    for direction in _DIRECTIONS:
      chain = getattr(plan, direction)
      yield layer.name, direction, layer.out_channels, chain


def estimate(chain: Chain, channels: int, generation: str) -> dict[str, Any]:
  """Returns the cycles of a chain by the kernel and by `banded`."""
  facts = aot_tpu.compile_facts(
    chain, _BATCH, channels, jnp.dtype('bfloat16'), generation
  )
  return {
    'kind': measured.kind_of(chain),
    'kernel cycles': facts.bundles_per_step * facts.grid,
    'banded cycles': _banded_cycles(chain, channels, generation),
  }


def _banded_cycles(chain: Chain, channels: int, generation: str) -> int:
  device = aot_tpu.devices(generation)[0]
  operands = [
    jax.ShapeDtypeStruct(
      (_BATCH, *size, channels),
      'bfloat16',
      sharding=SingleDeviceSharding(device),
    )
    for size in chain.in_sizes
  ]
  mesh = Mesh(np.array([device]), ('one',))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    run = jax.jit(functools.partial(banded.run, chain))
    compiled = run.trace(*operands).lower(lowering_platforms=('tpu',)).compile()
  aot_tpu.remove_dumps()
  return round(program.read(compiled.as_text() or '').cycles)


def read() -> dict[str, Any]:
  """Returns the committed estimates."""
  if not RESULTS.exists():
    return {'batch': _BATCH, 'rows': []}
  return json.loads(RESULTS.read_text())


def extend(results: dict[str, Any]) -> None:
  """Compiles what is not among the results yet, and adds it to their file."""
  start = time.monotonic()
  keys = ('generation', 'design', 'layer', 'direction')
  done = {tuple(row[key] for key in keys) for row in results['rows']}
  versions = version.versions(('jax', 'libtpu'))
  for generation in _FLAG_GENERATIONS.value:
    for design in _DESIGNS.value:
      name = f'{design}-{_RESOLUTION.value}'
      for layer, direction, channels, chain in cases(design, _RESOLUTION.value):
        key = (generation, name, layer, direction)
        if key in done:
          continue
        minutes = _MINUTES.value
        if minutes is not None and time.monotonic() - start > 60 * minutes:
          print('The time is up: the same command goes on')
          return
        row = {
          **dict(zip(keys, key, strict=True)),
          'channels': channels,
          **estimate(chain, channels, generation),
          **versions,
          'date': time.strftime('%Y-%m-%d'),
        }
        print(row, flush=True)
        results['rows'].append(row)
        files.write_text(RESULTS, json.dumps(results, indent=1) + '\n')


def estimated(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
  """Returns the content of `estimated.json`.

  It has, by generation and kind of chain, the minimum ratio of the cycles of
  `banded` to those of the kernel.
  """
  found: dict[str, dict[str, float]] = {}
  for row in rows:
    ratios = found.setdefault(row['generation'], {})
    ratio = round(row['banded cycles'] / row['kernel cycles'], 2)
    ratios[row['kind']] = min(ratio, ratios.get(row['kind'], math.inf))
  return {name: dict(sorted(ratios.items())) for name, ratios in found.items()}


def table(rows: Sequence[Row]) -> str:
  """Returns the table of all estimates as Markdown."""
  by_layer: dict[tuple[str, ...], dict[str, Any]] = {}
  for row in rows:
    key = tuple(row[k] for k in ('design', 'layer', 'direction', 'kind'))
    line = by_layer.setdefault(
      key,
      dict(zip(('design', 'layer', 'direction', 'kind'), key, strict=True)),
    )
    kernel, xla = row['kernel cycles'] / 1e6, row['banded cycles'] / 1e6
    line[row['generation']] = f'{kernel:.2f} / {xla:.2f} = {xla / kernel:.1f}x'
  return text_lib.markdown(list(by_layer.values()))


def contents() -> dict[pathlib.Path, str]:
  """Returns the contents of the files that depend on results, by path."""
  rows = read()['rows']
  before, _, rest = PAGE.read_text().partition(_MARKS[0])
  _, _, after = rest.partition(_MARKS[1])
  return {
    PAGE: '\n\n'.join((before + _MARKS[0], table(rows), _MARKS[1] + after)),
    ESTIMATED: json.dumps(estimated(rows), indent=1) + '\n',
  }


def main(argv: Sequence[str]) -> None:
  """Compiles, and writes the files."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  unknown = set(_FLAG_GENERATIONS.value) - set(_GENERATIONS)
  if unknown or set(_DESIGNS.value) - set(_MAKERS):
    sys.exit(
      f'error: --generations must be of {", ".join(_GENERATIONS)} and '
      f'--designs of t, r, got {_FLAG_GENERATIONS.value} and {_DESIGNS.value}'
    )
  if not _WRITE_ONLY.value:
    extend(read())
  for path, content in contents().items():
    files.write_text(path, content)


if __name__ == '__main__':
  app.run(main)
