"""Reads from the text of a compiled program what a step of it does."""

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

from sg3jax.train import collectives

# `ENTRY %name (...) -> ... {` and, for all others, without ENTRY.
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{\s*$')
_NAME = r'%?([\w.\-]+)'
_INSTRUCTION = re.compile(rf'^\s+(?:ROOT )?{_NAME} = (.*)$')
_OPCODE = re.compile(r' ([a-z][a-z0-9\-]*)\(')
_CALLED = re.compile(rf'(?:to_apply|calls)={_NAME}')
_BODY = re.compile(rf'body={_NAME}')
_BRANCHES = re.compile(
  rf'branch_computations=\{{([^}}]*)\}}|'
  rf'(?:true|false)_computation={_NAME}'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_DECLARED = re.compile(r'"(flops|bytes_accessed)":"?(\d+)')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')

_KERNELS = ('tpu_custom_call', 'mosaic_gpu')

# These move nothing, or are counted by what they call.
_FREE = frozenset(
  (
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
    'conditional', 'call', 'after-all', 'partition-id', 'replica-id', 'iota',
    'async-start', 'async-update', 'async-done', 'copy-start', 'copy-done',
  )
)  # fmt: skip


class Program(NamedTuple):
  """What one device does in a mean step.

  Phases that not every step has count in proportion.

  Attributes:
    cycles: Clock cycles of all that is not a kernel, as the compiler estimates
      them; 0 if it states none (GPUs).
    traffic: Bytes that operations read and write, if each reads its operands
      once from device memory; an upper bound, since some stay on the chip.
    kernels: Number of calls of this package's kernels.
    kernel_flops: Operations that the kernels declare.
    kernel_bytes: Bytes that the kernels declare, or, if they do not, the sizes
      of their operands and results.
    sent: Bytes of the results of collective operations, by kind.
    exchanges: Number of collective operations.
  """

  cycles: float
  traffic: float
  kernels: float
  kernel_flops: float
  kernel_bytes: float
  sent: dict[str, float]
  exchanges: float


def read(hlo: str, lazy_share: float = 1.0) -> Program:
  """Returns what a step of a compiled program does.

  Args:
    hlo: The text, from `jax.stages.Compiled.as_text`.
    lazy_share: Share of the steps in which a branch of a conditional runs,
      such as 1 / r1_interval. Of its branches the first that computes counts.
  """
  blocks = _blocks(hlo)
  cycles = traffic = kernels = kernel_flops = kernel_bytes = exchanges = 0.0
  sent: dict[str, float] = collections.defaultdict(float)
  for name, times in _executions(blocks, lazy_share).items():
    lines = blocks[name]
    sizes = {n: collectives.array_bytes(s) for n, s, _, _ in lines}
    for _, shape, opcode, rest in lines:
      if opcode in _FREE:
        continue
      moved = collectives.array_bytes(shape) + _operand_bytes(rest, sizes)
      for found in collectives.collectives(f'= {shape} {opcode}('):
        sent[found.kind] += times * found.size
        exchanges += times
      cycles += times * sum(map(int, _CYCLES.findall(rest)[:1]))
      if opcode == 'custom-call' and _is_kernel(rest):
        declared = dict(_DECLARED.findall(rest))
        kernels += times
        kernel_flops += times * int(declared.get('flops', 0))
        kernel_bytes += times * int(declared.get('bytes_accessed', moved))
      traffic += times * moved
  return Program(
    cycles, traffic, kernels, kernel_flops, kernel_bytes, dict(sent), exchanges
  )


class _Line(NamedTuple):
  """An instruction: its name, the text of its shape, its opcode, the rest."""

  name: str
  shape: str
  opcode: str
  rest: str


def _blocks(hlo: str) -> dict[str, list[_Line]]:
  """Returns the instructions of each computation; that of '' is the entry."""
  blocks: dict[str, list[_Line]] = {'': []}
  lines: list[_Line] = []
  for line in hlo.splitlines():
    if header := _HEADER.match(line):
      lines = []
      blocks[header[2]] = lines
      if header[1]:
        blocks[''] = lines
    elif instruction := _INSTRUCTION.match(line):
      text = instruction[2]
      if opcode := _OPCODE.search(f' {text}' if text[0] != '(' else text):
        start = text.index(f'{opcode[1]}(')
        rest = text[start + len(opcode[1]) :]
        lines.append(_Line(instruction[1], text[:start], opcode[1], rest))
  return blocks


def _executions(
  blocks: dict[str, list[_Line]], lazy_share: float
) -> dict[str, float]:
  """Returns how often a step runs each computation that is not in a fusion."""
  times: dict[str, float] = collections.defaultdict(float)
  waiting = [('', 1.0, False)]
  while waiting:
    name, count, is_lazy = waiting.pop()
    times[name] += count
    for line in blocks.get(name, []):
      if line.opcode == 'while':
        trips = _TRIPS.search(line.rest)
        body = _BODY.search(line.rest)
        assert body is not None
        waiting.append(
          (body[1], count * (int(trips[1]) if trips else 1), is_lazy)
        )
      elif line.opcode == 'conditional':
        branch = _longest_branch(line.rest, blocks)
        # Conditionals inside of a lazy phase run whenever it does.
        share = 1.0 if is_lazy else lazy_share
        waiting.append((branch, count * share, True))
      elif line.opcode in ('call', 'async-start'):
        waiting += [(n, count, is_lazy) for n in _CALLED.findall(line.rest)]
  return {name: n for name, n in times.items() if name in blocks}


def _longest_branch(rest: str, blocks: dict[str, list[_Line]]) -> str:
  names = [
    name
    for several, one in _BRANCHES.findall(rest)
    for name in re.findall(_NAME, several or one)
  ]
  return max(names, key=lambda name: len(blocks.get(name, [])))


def _operand_bytes(rest: str, sizes: dict[str, int]) -> int:
  return sum(sizes.get(name, 0) for name in _operands(rest))


def _operands(rest: str) -> Iterator[str]:
  """Yields the names in the first pair of parentheses."""
  depth = 0
  for end, character in enumerate(rest):
    depth += (character == '(') - (character == ')')
    if not depth:
      yield from re.findall(r'%([\w.\-]+)', rest[: end + 1])
      return


def _is_kernel(rest: str) -> bool:
  target = _TARGET.search(rest)
  return target is not None and target[1].startswith(_KERNELS)
