"""Maps official names and layouts of arrays to ours, and back.

A rule pairs an official name with the path of our array, collection first.
A placeholder such as `{layer}` stands for one part of a name that both share:

  {dense}   embed, fc0, fc1 ...
  {layer}   L0, L1 ..., whose official names include sizes: L0_36_512
  {side}    4, 8, 16 ...: a block of StyleGAN2, by its resolution
  {conv}    fromrgb, conv0, conv1, skip, conv
  {styled}  conv0, conv1, torgb

A rule without a path describes an array that follows from the design. It is not
converted, but compared with our own (`derived`).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import numpy as np

from sg3jax.interop.torch_pickle.records import CheckpointError, quoted
from sg3jax.nets import spec as spec_lib
from sg3jax.trees import flatten, unflatten
from sg3jax.types import Tree


@dataclasses.dataclass(frozen=True)
class Layout:
  """Converts between the official layout of an array and ours.

  Attributes:
    to_ours: Maps an official array and the parts of its name to our array.
    to_official: The inverse.
  """

  to_ours: Callable[[np.ndarray, Mapping[str, str]], np.ndarray]
  to_official: Callable[[np.ndarray, Mapping[str, str]], np.ndarray]


def _flat_to_ours(x: np.ndarray, parts: Mapping[str, str]) -> np.ndarray:
  side = int(parts['side'])
  x = x.reshape(len(x), -1, side, side)
  return x.transpose(2, 3, 1, 0).reshape(-1, len(x))


def _flat_to_official(x: np.ndarray, parts: Mapping[str, str]) -> np.ndarray:
  side, outputs = int(parts['side']), x.shape[1]
  x = x.reshape(side, side, -1, outputs)
  return x.transpose(3, 2, 0, 1).reshape(outputs, -1)


_SAME = Layout(lambda x, _: x, lambda x, _: x)
# CHW and HWC.
_IMAGE = Layout(
  lambda x, _: x.transpose(1, 2, 0), lambda x, _: x.transpose(2, 0, 1)
)
# [out, in] and [in, out].
_DENSE = Layout(lambda x, _: x.T, lambda x, _: x.T)
# OIHW and HWIO.
_CONV = Layout(
  lambda x, _: x.transpose(2, 3, 1, 0), lambda x, _: x.transpose(3, 2, 0, 1)
)
# Rows ordered (c, h, w) and (h, w, c), in addition to [out, in] and [in, out].
_FLAT = Layout(_flat_to_ours, _flat_to_official)

# Do not use `\d`, which matches the digits of all scripts.
_NUMBER = '[0-9]{1,6}'

_PARTS = {
  'dense': f'embed|fc{_NUMBER}',
  'layer': f'L{_NUMBER}',
  'side': _NUMBER,
  'conv': r'fromrgb|conv0|conv1|skip|conv',
  'styled': r'conv0|conv1|torgb',
}


@dataclasses.dataclass(frozen=True)
class Rule:
  """One line of the table.

  Attributes:
    official: Official name.
    ours: Path of our array; None if it follows from the design.
    layout: Conversion between both layouts.
  """

  official: str
  ours: str | None
  layout: Layout = _SAME


def _both(official: str, ours: str, layout: Layout) -> tuple[Rule, Rule]:
  """Returns the rules for a weight and its bias."""
  return (
    Rule(f'{official}.weight', f'{ours}/weight', layout),
    Rule(f'{official}.bias', f'{ours}/bias'),
  )


_MAPPING = _both('mapping.{dense}', 'params/mapping/{dense}', _DENSE)

STYLEGAN3_GENERATOR = (
  *_MAPPING,
  Rule('mapping.w_avg', 'moving_averages/w_avg'),
  Rule('synthesis.input.freqs', 'buffers/synthesis/input/freqs'),
  Rule('synthesis.input.phases', 'buffers/synthesis/input/phases'),
  Rule('synthesis.input.weight', 'params/synthesis/input/weight', _DENSE),
  *_both('synthesis.input.affine', 'params/synthesis/input/affine', _DENSE),
  Rule('synthesis.input.transform', None),
  *_both('synthesis.{layer}', 'params/synthesis/{layer}', _CONV),
  *_both('synthesis.{layer}.affine', 'params/synthesis/{layer}/affine', _DENSE),
  Rule(
    'synthesis.{layer}.magnitude_ema',
    'moving_averages/synthesis/{layer}/magnitude',
  ),
  Rule('synthesis.{layer}.up_filter', None),
  Rule('synthesis.{layer}.down_filter', None),
)

_STYLED = 'params/synthesis/b{side}/{styled}'

STYLEGAN2_GENERATOR = (
  *_MAPPING,
  Rule('mapping.w_avg', 'moving_averages/w_avg'),
  Rule('synthesis.b{side}.const', 'params/synthesis/b{side}/const', _IMAGE),
  *_both('synthesis.b{side}.{styled}', _STYLED, _CONV),
  *_both('synthesis.b{side}.{styled}.affine', f'{_STYLED}/affine', _DENSE),
  Rule(
    'synthesis.b{side}.{styled}.noise_strength', f'{_STYLED}/noise_strength'
  ),
  Rule(
    'synthesis.b{side}.{styled}.noise_const',
    'noise/synthesis/b{side}/{styled}/noise_const',
  ),
  Rule(
    'synthesis.b{side}.skip.weight',
    'params/synthesis/b{side}/skip/weight',
    _CONV,
  ),
  Rule('synthesis.b{side}.resample_filter', None),
  Rule('synthesis.b{side}.{styled}.resample_filter', None),
  Rule('synthesis.b{side}.skip.resample_filter', None),
)

DISCRIMINATOR = (
  *_MAPPING,
  *_both('b{side}.{conv}', 'params/b{side}/{conv}', _CONV),
  *_both('b{side}.fc', 'params/b{side}/fc', _FLAT),
  *_both('b{side}.out', 'params/b{side}/out', _DENSE),
  Rule('b{side}.resample_filter', None),
  Rule('b{side}.{conv}.resample_filter', None),
)

Table = tuple[Rule, ...]


def to_ours(
  table: Table, arrays: Mapping[str, np.ndarray]
) -> tuple[Tree, list[str]]:
  """Converts official arrays to our names and layouts.

  Args:
    table: The rules.
    arrays: Arrays by official name.

  Returns:
    Our variables, collection first; and the names of the arrays that follow
    from the design.

  Raises:
    CheckpointError: If a name is not in the table, if two names belong to the
      same array of ours, or if an array's shape does not fit its layout.
  """
  variables: dict[str, np.ndarray] = {}
  recomputed, sources = [], {}
  for name, array in arrays.items():
    rule, parts = _find(table, name)
    if rule.ours is None:
      recomputed.append(name)
      continue
    path = rule.ours.format(**parts)
    other = sources.setdefault(path, name)
    if other != name:
      raise CheckpointError(
        f'the arrays {other} and {name} of the checkpoint map to one array'
      )
    try:
      variables[path] = rule.layout.to_ours(array, parts)
    except ValueError as error:
      raise CheckpointError(
        f'the array {name} of the checkpoint has an impossible shape: '
        f'{array.shape}'
      ) from error
  return unflatten(variables), recomputed


def _find(table: Table, name: str) -> tuple[Rule, dict[str, str]]:
  for rule in table:
    match = _official_pattern(rule.official).fullmatch(name)
    if match:
      return rule, match.groupdict()
  raise CheckpointError(
    f'the checkpoint has an array {quoted(name)}, which no network here has: '
    'its architecture is different'
  )


def to_official(
  table: Table,
  variables: Tree,
  layer_names: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
  """Converts our arrays to official names and layouts; inverts `to_ours`.

  Args:
    table: The rules.
    variables: Our variables, collection first.
    layer_names: The official name of each {layer}; see `layer_names`.

  Raises:
    ValueError: If a path is not in the table.
  """
  arrays = {}
  for path, array in flatten(variables).items():
    matches = (
      (rule, _our_pattern(rule.ours).fullmatch(path))
      for rule in table
      if rule.ours
    )
    rule, match = next((m for m in matches if m[1]), (None, None))
    if rule is None or match is None:
      raise ValueError(f'our array {path} has no official name')
    parts = match.groupdict()
    named = dict(parts)
    if 'layer' in parts:
      named['layer'] = (layer_names or {})[parts['layer']]
    arrays[rule.official.format(**named)] = rule.layout.to_official(
      np.asarray(array), parts
    )
  return arrays


def layer_names(spec: spec_lib.SynthesisSpec) -> dict[str, str]:
  """Returns the official name of every layer, such as `L0_36_512` for `L0`."""
  return {
    layer.name: f'{layer.name}_{layer.out_size}_{layer.out_channels}'
    for layer in spec.layers
  }


@functools.cache
def _official_pattern(name: str) -> re.Pattern[str]:
  return _pattern(name.replace('.', r'\.').replace('{layer}', '{layer}_{size}'))


@functools.cache
def _our_pattern(path: str) -> re.Pattern[str]:
  return _pattern(path)


def _pattern(text: str) -> re.Pattern[str]:
  groups = {name: f'(?P<{name}>{part})' for name, part in _PARTS.items()}
  return re.compile(text.format(**groups, size=f'{_NUMBER}_{_NUMBER}'))
