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
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import aot_tpu
import jax
import jax.numpy as jnp
import numpy as np
import tpu_estimates
from absl import app, flags
from jax.sharding import Mesh, SingleDeviceSharding

from sg3jax import files, version
from sg3jax.ops.filtered_lrelu import banded, measured
from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.train.planning import program

_GENERATIONS = flags.DEFINE_list(
  'generations', list(tpu_estimates.GENERATIONS), 'Generations to compile for.'
)
_DESIGNS = flags.DEFINE_list('designs', ['t', 'r'], 'Designs: t, r.')
_RESOLUTION = flags.DEFINE_integer('side', 256, 'Output resolution.')
_MINUTES = flags.DEFINE_float(
  'minutes',
  None,
  'Start no compilation after so many minutes; no limit by default.',
)
_WRITE_ONLY = flags.DEFINE_bool('write_only', False, 'Compile nothing.')

# Cores of a device, if there are several. They share the steps of a kernel's
# grid, all of whose axes are parallel. Those of a tpu7x are devices themselves.
_CORES = {'v4': 2, 'v5p': 2}


def estimate(chain: Chain, channels: int, generation: str) -> dict[str, Any]:
  """Returns the cycles of a chain by the kernel and by `banded`."""
  facts = aot_tpu.compile_facts(
    chain, tpu_estimates.BATCH, channels, jnp.dtype('bfloat16'), generation
  )
  steps = math.ceil(facts.grid / _CORES.get(generation, 1))
  return {
    'kind': measured.kind_of(chain),
    'kernel cycles': facts.bundles_per_step * steps,
    'banded cycles': _banded_cycles(chain, channels, generation),
  }


def _banded_cycles(chain: Chain, channels: int, generation: str) -> int:
  device = aot_tpu.devices(generation)[0]
  operands = [
    jax.ShapeDtypeStruct(
      (tpu_estimates.BATCH, *size, channels),
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


def extend(results: dict[str, Any]) -> None:
  """Compiles what is not among the results yet, and adds it to their file."""
  start = time.monotonic()
  keys = ('generation', 'design', 'layer', 'direction')
  done = {tuple(row[key] for key in keys) for row in results['rows']}
  versions = version.versions(('jax', 'libtpu'))
  for design, generation, layer, direction, channels, chain in _in_order():
    key = (generation, f'{design}-{_RESOLUTION.value}', layer, direction)
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
    files.write_text(
      tpu_estimates.RESULTS, json.dumps(results, indent=1) + '\n'
    )


def _in_order() -> Iterator[tuple[str, str, str, str, int, Chain]]:
  """Yields all cases, the first layers for all designs and generations first.

  So the decisions are made for all of them as soon as possible.
  """
  cases = [
    [(design, case) for case in tpu_estimates.cases(design, _RESOLUTION.value)]
    for design in _DESIGNS.value
  ]
  for together in itertools.zip_longest(*cases):
    for design, case in filter(None, together):
      for generation in _GENERATIONS.value:
        yield design, generation, *case


def main(argv: Sequence[str]) -> None:
  """Compiles, and writes the files."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  unknown = set(_GENERATIONS.value) - set(tpu_estimates.GENERATIONS)
  if unknown or set(_DESIGNS.value) - set(tpu_estimates.MAKERS):
    sys.exit(
      'error: --generations must be of '
      f'{", ".join(tpu_estimates.GENERATIONS)} and --designs of t, r, got '
      f'{_GENERATIONS.value} and {_DESIGNS.value}'
    )
  if not _WRITE_ONLY.value:
    extend(tpu_estimates.read())
  for path, content in tpu_estimates.contents().items():
    files.write_text(path, content)


if __name__ == '__main__':
  app.run(main)
