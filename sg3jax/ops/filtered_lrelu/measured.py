"""Looks up which kernels were measured right, and faster than `banded`.

`measured.json` is made by `scripts/hardware_tables.py` from the committed
results of `scripts/prove_hardware.py`. A kernel that has no results there is
not taken unless it is asked for.
"""

import functools
import importlib.resources
import json

from sg3jax.ops.filtered_lrelu.plan import Chain

_FILE = 'measured.json'


def kind_of(chain: Chain) -> str:
  """Returns what a kernel's speed depends on beside the sizes.

  Rates by which the operands are upsampled, the rate by which the result is
  downsampled, and the terms of the filters: `2>2` for a layer of T, `4,2>4` for
  the derivative of one that upsamples, `2>2 of 1>4 terms` for a layer of R.
  """
  ups = ','.join(str(terms[0][0].up) for terms in chain.expand)
  kind = f'{ups}>{chain.contract[0][0].down}'
  terms = [len(t) for t in (*chain.expand, chain.contract)]
  if max(terms) > 1:
    *before, after = terms
    kind += f' of {",".join(map(str, before))}>{after} terms'
  return kind


def times_faster(kernel: str, chain: Chain) -> float | None:
  """Returns the least ratio to `banded` that was measured for such chains.

  Args:
    kernel: Name of the implementation.
    chain: What to compute.

  Returns:
    The ratio, or None if none was measured, or the kernel was wrong.
  """
  return _table().get(kernel, {}).get(kind_of(chain))


def is_proven(kernel: str) -> bool:
  """Returns whether there are chains for which a kernel is the better one."""
  return any(ratio > 1 for ratio in _table().get(kernel, {}).values())


@functools.cache
def _table() -> dict[str, dict[str, float]]:
  folder = importlib.resources.files(__package__ or __name__)
  return json.loads((folder / _FILE).read_text())
