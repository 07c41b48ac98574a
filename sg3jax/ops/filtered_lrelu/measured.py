"""Looks up which kernels are correct and faster than `banded`.

`scripts/hardware_tables.py` makes `measured.json` from the committed results of
`scripts/prove_hardware.py`. A GPU kernel without results there runs only if it
is requested by name.

No TPU has been measured yet. For them `scripts/estimate_on_tpus.py` makes
`estimated.json` from what the compilers of the generations estimate. The kernel
is their default unless an estimate says that it is slower.
"""

import functools
import importlib.resources
import json

from sg3jax.ops.filtered_lrelu.plan import Chain

_MEASURED = 'measured.json'
_ESTIMATED = 'estimated.json'


def kind_of(chain: Chain) -> str:
  """Returns the properties that determine a kernel's speed, except sizes.

  These are the upsampling factors of the operands, the downsampling factor of
  the result and the numbers of terms of the filters: `2>2` for a layer of T,
  `4,2>4` for the derivative of one that upsamples, `2>2 of 1>4 terms` for a
  layer of R.
  """
  ups = ','.join(str(terms[0][0].up) for terms in chain.expand)
  kind = f'{ups}>{chain.contract[0][0].down}'
  terms = [len(t) for t in (*chain.expand, chain.contract)]
  if max(terms) > 1:
    *before, after = terms
    kind += f' of {",".join(map(str, before))}>{after} terms'
  return kind


def times_faster(kernel: str, chain: Chain) -> float | None:
  """Returns the least speedup over `banded` measured for a kind of chain.

  Args:
    kernel: Name of the implementation.
    chain: A chain of that kind.

  Returns:
    The speedup, or None if none was measured or the kernel was incorrect.
  """
  return _table(_MEASURED).get(kernel, {}).get(kind_of(chain))


def is_proven(kernel: str) -> bool:
  """Returns whether a kernel is faster than `banded` for some chains."""
  return any(ratio > 1 for ratio in _table(_MEASURED).get(kernel, {}).values())


def estimated_times_faster(
  generation: str | None, chain: Chain
) -> float | None:
  """Returns the least speedup over `banded` that a TPU's compiler estimates.

  Args:
    generation: A key of `tpu.tiling.GENERATIONS`, or None.
    chain: A chain of a kind.

  Returns:
    The speedup, or None if there is no estimate.
  """
  return _table(_ESTIMATED).get(generation or '', {}).get(kind_of(chain))


@functools.cache
def _table(name: str) -> dict[str, dict[str, float]]:
  folder = importlib.resources.files(__package__ or __name__)
  return json.loads((folder / name).read_text())
