"""The estimates of `estimate_on_tpus.py`, and the files made from them."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import generated
import layer_shapes

from sg3jax import text as text_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu.plan import Chain

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'docs' / 'hardware' / 'tpu_estimates.json'
PAGE = ROOT / 'docs' / 'scaling.md'
ESTIMATED = ROOT / 'sg3jax' / 'ops' / 'filtered_lrelu' / 'estimated.json'

GENERATIONS = ('v4', 'v5e', 'v5p', 'v6e', 'tpu7x')
MAKERS = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}
_DIRECTIONS = ('forward', 'backward')
BATCH = 8

Row = Mapping[str, Any]


def cases(
  design: str, resolution: int
) -> Iterator[tuple[str, str, int, Chain]]:
  """Yields (layer, direction, channels, chain), one layer of each kind."""
  base = 1 << (15 if design == 't' else 16)
  spec = MAKERS[design](resolution, channel_base=base)
  for layer, plan in layer_shapes.distinct_layers(spec):
    for direction in _DIRECTIONS:
      chain = getattr(plan, direction)
      yield layer.name, direction, layer.out_channels, chain


def read() -> dict[str, Any]:
  """Returns the committed estimates."""
  if not RESULTS.exists():
    return {'batch': BATCH, 'rows': []}
  return json.loads(RESULTS.read_text())


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
  """Returns the table of all estimates as Markdown, in the order of layers."""
  keys = ('design', 'layer', 'direction', 'kind')
  by_layer: dict[tuple[str, ...], dict[str, Any]] = {}
  for row in sorted(rows, key=_place):
    key = tuple(row[k] for k in keys)
    line = by_layer.setdefault(key, dict(zip(keys, key, strict=True)))
    kernel, xla = row['kernel cycles'] / 1e6, row['banded cycles'] / 1e6
    line[row['generation']] = f'{kernel:.2f} / {xla:.2f} = {xla / kernel:.1f}x'
  present = {row['generation'] for row in rows}
  names = [*keys, *(name for name in GENERATIONS if name in present)]
  return text_lib.markdown(list(by_layer.values()), names)


def _place(row: Row) -> tuple[bool, int, int]:
  """Returns the place of a row's layer in the table: T first, as it is run."""
  return (
    not row['design'].startswith('t'),
    int(row['layer'].removeprefix('L')),
    _DIRECTIONS.index(row['direction']),
  )


def contents() -> dict[pathlib.Path, str]:
  """Returns the contents of the files that depend on results, by path."""
  rows = read()['rows']
  return {
    PAGE: generated.replace(PAGE.read_text(), 'estimates', table(rows)),
    ESTIMATED: json.dumps(estimated(rows), indent=1) + '\n',
  }
