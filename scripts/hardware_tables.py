"""Generates the files that depend on measured hardware.

  python scripts/hardware_tables.py

This command reads docs/hardware/*/results.json, as written by
`scripts/prove_hardware.py`. It writes the tables of docs/performance.md and the
package's `measured.json`, which determines where filtered_lrelu uses a kernel
by default. A test fails if either file does not match the results.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import generated
from absl import app

from sg3jax import files
from sg3jax import text as text_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'docs' / 'hardware'
PAGE = ROOT / 'docs' / 'performance.md'
MEASURED = ROOT / 'sg3jax' / 'ops' / 'filtered_lrelu' / 'measured.json'

_KERNELS = {'gpu': 'pallas_gpu', 'tpu': 'pallas_tpu'}

Row = Mapping[str, Any]
Sessions = Sequence[Mapping[str, Any]]


def read(folder: pathlib.Path = RESULTS) -> dict[str, Sessions]:
  """Returns the sessions of each device, by the name of its folder."""
  return {
    path.parent.name: json.loads(path.read_text())['sessions']
    for path in sorted(folder.glob('*/results.json'))
  }


def rows_of(sessions: Sessions, *stages: str) -> list[Row]:
  """Returns the rows of the named stages in all sessions."""
  return [
    row
    for session in sessions
    for name in stages
    for row in session['stages'].get(name, {}).get('rows', [])
  ]


def measured(devices: Iterable[Sessions]) -> dict[str, dict[str, float]]:
  """Returns the content of `measured.json`.

  It has, by kernel and kind of chain, the minimum ratio of the time of `banded`
  to the time of the kernel. It contains a kind only if a check of that kind has
  passed and none has failed. If a case was measured more than once, the last
  measurement counts.
  """
  found: dict[str, dict[str, float]] = {'pallas_gpu': {}}
  for sessions in devices:
    platforms = {
      row['platform']
      for row in rows_of(sessions, 'machine')
      if 'platform' in row
    }
    kernels = [_KERNELS[p] for p in platforms if p in _KERNELS]
    if len(kernels) != 1:
      continue
    passed: dict[str, bool] = {}
    for row in rows_of(sessions, 'check', 'check-large'):
      if 'kind' in row:
        ok = bool(row.get('ok'))
        passed[row['kind']] = passed.get(row['kind'], True) and ok
    ratios = found.setdefault(kernels[0], {})
    for kind, ratio in _ratios(sessions):
      if passed.get(kind):
        ratios[kind] = min(ratio, ratios.get(kind, math.inf))
  return {
    kernel: {kind: round(r, 2) for kind, r in sorted(ratios.items())}
    for kernel, ratios in found.items()
  }


def _ratios(sessions: Sessions) -> Iterable[tuple[str, float]]:
  """Yields the kind and the ratio of each case that has both times."""
  times: dict[tuple[Any, ...], dict[str, Row]] = {}
  for row in rows_of(sessions, 'bench', 'bench-large'):
    if 'ms' in row:
      case = tuple(row[k] for k in ('design', 'layer', 'direction', 'dtype'))
      times.setdefault(case, {})[row['implementation']] = row
  for by_name in times.values():
    if {'kernel', 'banded'} <= by_name.keys():
      kernel, banded = by_name['kernel'], by_name['banded']
      yield kernel['kind'], banded['ms'] / kernel['ms']


def page(devices: Mapping[str, Sessions]) -> str:
  """Returns the tables of all devices as Markdown."""
  parts = []
  for name, sessions in devices.items():
    machine = next(
      (r for r in rows_of(sessions, 'machine') if 'device' in r), {}
    )
    parts.append(f'### {machine.get("device", name)}')
    versions = ', '.join(
      f'{key} {machine[key]}'
      for key in ('driver', 'jax', 'python')
      if machine.get(key)
    )
    dates = sorted({session['date'][:10] for session in sessions})
    parts.append(
      f'{versions}; {", ".join(dates)}. All rows are in\n'
      f'[hardware/{name}/results.json](hardware/{name}/results.json).'
    )
    parts += _sections(sessions)
  return '\n\n'.join(parts)


def _sections(sessions: Sessions) -> Iterable[str]:
  checks = rows_of(sessions, 'check', 'check-large')
  if checks:
    passed = sum(bool(row.get('ok')) for row in checks)
    worst = max(row.get('local', 0.0) / row['bound'] for row in checks)
    yield (
      f'Kernels: {passed} of {len(checks)} cases pass, each with all kinds of\n'
      'inputs. The largest local error, of an image, row, column or channel,\n'
      f'is {worst:.2f} times the tolerance for the whole result; the limit is '
      '4 times.'
    )
    yield text_lib.markdown(_summary(checks))
  samples = rows_of(sessions, 'float64')
  if samples:
    worst = max(row['float64'] for row in samples)
    layers = dict.fromkeys(f'{r["layer"]} {r["direction"]}' for r in samples)
    yield (
      f'{len(samples)} more cases were compared with float64 in two maps, only '
      f'for random\ninputs: {", ".join(layers)}. The\nlargest relative error '
      f'is {worst:.1e}; two runs gave identical results.'
    )
  for stage, title in (
    ('bench', 'Layers at 256 pixels'),
    ('bench-large', 'Layers at 1024 pixels'),
    ('depthwise', 'Depthwise convolutions at 256 pixels'),
    ('depthwise-large', 'Depthwise convolutions at 1024 pixels'),
    ('train', 'Training'),
    ('generate', 'Generating'),
    ('operators', 'Forms of operators'),
  ):
    rows = [r for r in rows_of(sessions, stage) if 'error' not in r]
    if rows:
      yield f'{title}:'
      yield text_lib.markdown(rows)


def _summary(checks: Sequence[Row]) -> list[Row]:
  """Returns a row for each design, direction and dtype."""
  groups: dict[tuple[str, ...], list[Row]] = {}
  for row in checks:
    key = tuple(str(row[k]) for k in ('design', 'direction', 'dtype'))
    groups.setdefault(key, []).append(row)
  return [
    {
      'design': design,
      'direction': direction,
      'dtype': dtype,
      'layers': ', '.join(
        sorted({row['layer'] for row in rows}, key=lambda x: int(x[1:]))
      ),
      'largest L2 error': max(row.get('worst L2', math.nan) for row in rows),
      'allowed': rows[0]['bound'],
    }
    for (design, direction, dtype), rows in groups.items()
  ]


def contents() -> dict[pathlib.Path, str]:
  """Returns the contents of the files that depend on results, by path."""
  devices = read()
  return {
    PAGE: generated.replace(PAGE.read_text(), 'hardware', page(devices)),
    MEASURED: json.dumps(measured(devices.values()), indent=1) + '\n',
  }


def main(argv: Sequence[str]) -> None:
  """Writes the files."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  for path, text in contents().items():
    files.write_text(path, text)


if __name__ == '__main__':
  app.run(main)
