"""Stores metric results as JSON lines, one file per metric in a run folder."""

import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sg3jax import files, text, version


def make_result(
  metric: str,
  results: Mapping[str, float],
  *,
  num_samples: int,
  seed: int,
  total_time: float | int,
  snapshot: str | None = None,
  devices: Sequence[Any] | None = None,
  ci95: Mapping[str, float] | None = None,
) -> dict[str, Any]:
  """Returns one result, with everything needed to assess and repeat it.

  Tools for StyleGAN3 read the fields `results`, `metric`, `total_time`,
  `total_time_str`, `num_gpus`, `snapshot_pkl` and `timestamp`.

  Args:
    metric: Name of the metric, such as `eqt50k_int` or `swd`.
    results: Values by name. Those that are not finite are written as null,
      because JSON cannot represent them.
    num_samples: Number of images that were actually measured, whatever number
      the metric's name states.
    seed: Random seed of the measurement.
    total_time: Seconds taken.
    snapshot: Name of the measured checkpoint; None if it is not stored.
    devices: The JAX devices that were used; None for all.
    ci95: Half widths of 95 % confidence intervals by the names of results. If
      there are any, the line has a field with this name.
  """
  devices = jax.devices() if devices is None else list(devices)
  return {
    'results': _finite(results),
    **({'ci95': _finite(ci95)} if ci95 else {}),
    'metric': metric,
    'num_samples': num_samples,
    'seed': seed,
    'total_time': float(total_time),
    'total_time_str': text.format_duration(total_time),
    'num_gpus': len(devices),
    'snapshot_pkl': snapshot,
    'timestamp': time.time(),
    'device': {
      'platform': devices[0].platform,
      'kind': devices[0].device_kind,
      'count': len(devices),
    },
    'versions': version.versions(('sg3jax', 'jax', 'jaxlib', 'flax')),
  }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
  return {
    name: float(value) if math.isfinite(value) else None
    for name, value in values.items()
  }


def append_result(
  run_dir: str | pathlib.Path, result: Mapping[str, Any]
) -> pathlib.Path:
  """Appends a result to `metric-<name>.jsonl` and returns the file's path.

  On several hosts only the first writes.

  Args:
    run_dir: Folder, created if missing.
    result: The result of `make_result`.
  """
  path = pathlib.Path(run_dir) / f'metric-{result["metric"]}.jsonl'
  if jax.process_index() == 0:
    line = json.dumps(result, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', encoding='utf-8') as file:
      file.write(line + '\n')
  return path


def last_line(path: pathlib.Path) -> dict[str, Any] | None:
  """Returns the last complete record of a JSON lines file, or None."""
  records = list(files.read_json_lines(path)) if path.exists() else []
  return records[-1] if records else None
