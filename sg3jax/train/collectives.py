"""Lists what the devices of a compiled program send to each other."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
)

# `%name = SHAPES KIND(`; asynchronous ones have two halves, KIND-start and
# KIND-done, of which the first is counted.
_CALL = re.compile(rf'= (.+?) ({"|".join(KINDS)})(-start)?\(')
_ARRAY = re.compile(r'\b(pred|bf16|[suf]\d+)\[([\d,]*)\]')
_BYTES = {'pred': 1, 'bf16': 2}


class Collective(NamedTuple):
  """One collective operation of a program.

  Attributes:
    kind: One of `KINDS`.
    size: Bytes of its result on one device.
  """

  kind: str
  size: int


def collectives(hlo: str) -> list[Collective]:
  """Returns the collective operations in the text of a compiled program.

  Operations inside a loop or a branch are listed once.

  Args:
    hlo: The text, from `jax.stages.Compiled.as_text`.
  """
  return list(_find(hlo))


def array_bytes(shapes: str) -> int:
  """Returns the bytes of all arrays in the text of a shape or of a tuple."""
  return sum(_sizes(shapes))


def total(found: list[Collective]) -> dict[str, int]:
  """Returns the sum of the bytes by kind, in the order of `KINDS`."""
  sums = {kind: sum(c.size for c in found if c.kind == kind) for kind in KINDS}
  return {kind: size for kind, size in sums.items() if size}


def _find(hlo: str) -> Iterator[Collective]:
  for shapes, kind, start in _CALL.findall(hlo):
    sizes = _sizes(shapes)
    # The result of an asynchronous start is its operand, then its result; that
    # of an all-reduce is only the result, except on GPUs.
    if start and (kind != 'all-reduce' or shapes.startswith('((')):
      sizes = sizes[len(sizes) // 2 :]
    yield Collective(kind, sum(sizes))


def _sizes(shapes: str) -> list[int]:
  return [
    _item_size(dtype) * math.prod(map(int, filter(None, dims.split(','))))
    for dtype, dims in _ARRAY.findall(shapes)
  ]


def _item_size(dtype: str) -> int:
  return _BYTES.get(dtype) or np.dtype(_numpy_name(dtype)).itemsize


def _numpy_name(dtype: str) -> str:
  return {'s': 'i', 'u': 'u', 'f': 'f'}[dtype[0]] + str(int(dtype[1:]) // 8)
