"""Sweep files, which describe variants of a configuration.

A sweep file is TOML (docs/sweeps.md):

    config = 'stylegan3_r:64'            # as behind --config
    seeds = [0, 1]

    [base]                               # for all points
    model.synthesis.channel_base = 1024

    [axes]                               # every combination
    model.synthesis.filter_size = [4, 6, 8]
    model.synthesis.first_stopband = ['2^1.5', '2^2.1']

    [[zip]]                              # fields that change together: one axis
    model.synthesis.num_layers = [8, 10]
    model.synthesis.num_critical = [1, 2]

    [[points]]                           # single ones, beside the grid
    name = 'wide'
    model.synthesis.channel_base = 4096

    [[points]]                           # one of another configuration
    name = 'T'
    config = 'stylegan3_t:64'
"""

import dataclasses
import difflib
import hashlib
import itertools
import pathlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sg3jax.train.config import fields
from sg3jax.train.config import files as config_files
from sg3jax.types import Config

Values = dict[str, Any]

_KEYS = ('config', 'base', 'axes', 'zip', 'points', 'seeds')
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._=+-]*')
_MAX_NAME = 150  # File systems end at 255, and suffixes follow.


@dataclasses.dataclass(frozen=True)
class Point:
  """One variant of a configuration.

  Attributes:
    name: Name of its files: stable, readable, safe in file systems.
    values: Values that distinguish it, by dotted field.
    config: The whole configuration; None if `error` says why there is none.
    error: Why the point cannot run, in one line; empty if it can.
  """

  name: str
  values: Mapping[str, Any]
  config: Config
  error: str = ''


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The points of a sweep file.

  Attributes:
    points: All points, in the order of the file.
    short_names: Short name of each field that varies: the shortest end of its
      dotted name that no other field has.
  """

  points: Sequence[Point]
  short_names: Mapping[str, str]

  def invalid(self) -> list[Point]:
    """Returns the points that cannot run."""
    return [point for point in self.points if point.error]


def read(
  path: str | pathlib.Path, check: Callable[[Config], None] | None = None
) -> Sweep:
  """Reads a sweep file, and finds out which of its points can run.

  Args:
    path: The file.
    check: Raises if a configuration is impossible.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is not understood, or `base` does not fit the
      configuration. What is wrong with a point is in its `error` instead.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'there is no sweep file {path}')
  try:
    content = tomllib.loads(path.read_text(encoding='utf-8'))
    return _expand(content, path.parent, check)
  except ValueError as error:  # TOML's own is one too.
    raise ValueError(f'{path}: {error}') from error


def _expand(
  content: Mapping[str, Any],
  folder: pathlib.Path,
  check: Callable[[Config], None] | None,
) -> Sweep:
  for key in content:
    if key not in _KEYS:
      raise ValueError(f'unknown key {key!r}: use {", ".join(_KEYS)}')
  if not isinstance(content.get('config'), str):
    raise ValueError("config is missing: give config = 'stylegan3_t:64', say")

  def load(value: str) -> Config:
    config = _load(value, folder)
    _assign(config, _flatten(_table(content, 'base')))
    return config

  if check is not None:
    check = _once_for_all_seeds(check)
  base = load(content['config'])
  known = [name for name, _ in fields.leaves(base)]
  named = list(_combinations(content))
  varied = dict.fromkeys(field for _, values in named for field in values)
  short_names = {field: _short_name(field, known) for field in varied}
  points = []
  for name, values in named:
    config = base.copy_and_resolve_references()
    error = ''
    try:
      if 'config' in values:
        config = load(values['config'])
      others = {k: v for k, v in values.items() if k != 'config'}
      values = values | _assign(config, others)
      if check is not None:
        check(config)
    except Exception as problem:  # Whatever a design of a user's leads to.
      error = ' '.join(str(problem).split())
      if not isinstance(problem, ValueError | OSError | ImportError):
        error = f'{type(problem).__name__}: {error}'
    full_name = _full_name(name, values, short_names)
    points.append(Point(full_name, values, config, error))
  _check_names(points)
  return Sweep(points, short_names)


def _once_for_all_seeds(
  check: Callable[[Config], None],
) -> Callable[[Config], None]:
  """Returns the check, which takes seconds, but knows what it has checked."""
  errors: dict[str, Exception | None] = {}

  def check_once(config: Config) -> None:
    seedless = config.copy_and_resolve_references()
    seedless.seed = 0
    key = seedless.to_json_best_effort()
    if key not in errors:
      errors[key] = None
      try:
        check(config)
      except Exception as error:
        errors[key] = error
    problem = errors[key]
    if problem is not None:
      raise problem

  return check_once


def _load(value: str, folder: pathlib.Path) -> Config:
  """Loads a configuration; a file is looked for beside the sweep file first."""
  beside = folder / value.partition(':')[0]
  if beside.suffix == '.py' and beside.is_file():
    value = str(folder / value)
  return config_files.load(value)


def _table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
  table = content.get(key, {})
  if not isinstance(table, Mapping):
    raise ValueError(f'{key} must be a table: write [{key}] and lines below it')
  return table


def _tables(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
  tables = content.get(key, [])
  if not isinstance(tables, list) or not all(
    isinstance(table, Mapping) for table in tables
  ):
    raise ValueError(f'{key} must be tables: write [[{key}]], twice bracketed')
  return tables


def _combinations(
  content: Mapping[str, Any],
) -> Iterator[tuple[str | None, Values]]:
  """Yields the names, where given, and the values of all points."""
  seeds = content.get('seeds')
  if seeds is not None:
    _check_list('seeds', seeds)
  last = [[{'seed': seed} for seed in seeds]] if seeds else []
  axes = [_axis(f, v) for f, v in _flatten(_table(content, 'axes')).items()]
  axes += [_zip_axis(_flatten(table)) for table in _tables(content, 'zip')]
  explicit = _tables(content, 'points')
  if axes or not explicit:
    for parts in itertools.product(*axes, *last):
      yield None, {k: v for part in parts for k, v in part.items()}
  for table in explicit:
    values = _flatten(table)
    name = values.pop('name', None)
    if name is not None and not (
      isinstance(name, str) and _NAME.fullmatch(name) and len(name) < _MAX_NAME
    ):
      raise ValueError(
        f'the name {name!r} of a point is not usable: use letters, digits and '
        '. _ = + -, beginning with a letter or digit'
      )
    for parts in itertools.product(*last):
      yield name, values | {k: v for part in parts for k, v in part.items()}


def _axis(field: str, values: Any) -> list[Values]:
  _check_list(field, values)
  return [{field: value} for value in values]


def _zip_axis(lists: Values) -> list[Values]:
  for field, values in lists.items():
    _check_list(field, values)
  lengths = {field: len(values) for field, values in lists.items()}
  if len(set(lengths.values())) != 1:
    raise ValueError(
      'the fields of a [[zip]] change together and need lists of one length: '
      + ', '.join(f'{field} has {n}' for field, n in lengths.items())
    )
  columns = [_axis(field, values) for field, values in lists.items()]
  return [
    {k: v for part in parts for k, v in part.items()}
    for parts in zip(*columns, strict=True)
  ]


def _check_list(name: str, values: Any) -> None:
  if not isinstance(values, list) or not values:
    raise ValueError(
      f'{name} must be a list of values such as [4, 6], is {values!r}; what is '
      'the same for all points belongs in [base]'
    )


def _flatten(table: Mapping[str, Any], prefix: str = '') -> Values:
  """Returns values by dotted field, of tables in tables."""
  flat: Values = {}
  for key, value in table.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat


def get(config: Config, field: str, values: Mapping[str, Any]) -> Any:
  """Returns the value of a point in a field, whether it is its own or not.

  None if the configuration has no such field.
  """
  if field in values:
    return values[field]
  return fields.find(config, field)


def _assign(config: Config, values: Values) -> Values:
  """Sets fields, and returns their values as the fields hold them.

  Raises:
    ValueError: If a field is unknown or a value not of its type.
  """
  known = [name for name, _ in fields.leaves(config)]
  converted = {}
  for field, value in values.items():
    if field not in known:
      close = difflib.get_close_matches(field, known, n=1)
      hint = f': did you mean {close[0]}?' if close else ''
      raise ValueError(f'there is no field {field} in the configuration{hint}')
    kind = fields.get_type(config, field)
    converted[field] = _convert(field, kind, value)
    fields.assign(config, field, converted[field])
  return converted


def _convert(field: str, kind: type, value: Any) -> Any:
  """Returns a value of a field's type, or raises ValueError."""
  if isinstance(value, str) and kind in (int, float):
    power = re.fullmatch(r'\s*([\d.]+)\s*\^\s*(-?[\d.]+)\s*', value)
    if power:  # The paper writes its stopbands so.
      value = float(power[1]) ** float(power[2])
      if kind is int and value.is_integer():
        value = int(value)
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if kind is tuple and isinstance(value, list):
    return tuple(value)
  # True is an int to Python.
  if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
    names = {
      int: 'an integer', float: 'a number', bool: 'true or false',
      str: 'text', tuple: 'a list',
    }  # fmt: skip
    raise ValueError(
      f'{field} must be {names.get(kind, kind.__name__)}, is {value!r}'
    )
  return value


def _short_name(field: str, known: Sequence[str]) -> str:
  """Returns the shortest end of a field that no other field has."""
  parts = field.split('.')
  for i in range(len(parts) - 1, 0, -1):
    short = '.'.join(parts[i:])
    if sum(f'.{other}'.endswith(f'.{short}') for other in known) <= 1:
      return short
  return field


def _full_name(
  name: str | None, values: Values, short_names: Mapping[str, str]
) -> str:
  parts = [name] if name else []
  parts += [
    f'{short_names[field]}={_text(value)}'
    for field, value in values.items()
    if name is None or field == 'seed'
  ]
  full = '--'.join(parts) or 'base'
  if len(full) > _MAX_NAME:
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    full = f'{full[: _MAX_NAME - 9]}-{digest}'
  return full


def _text(value: Any) -> str:
  """Returns a value as part of a file's name."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float):
    return f'{value:.6g}'
  if isinstance(value, list | tuple):
    return '+'.join(map(_text, value)) or 'none'
  return re.sub(r'[^A-Za-z0-9._+-]', '-', str(value)) or 'none'


def _check_names(points: Sequence[Point]) -> None:
  seen: dict[str, Point] = {}
  for point in points:
    # Some file systems do not tell upper from lower case.
    other = seen.setdefault(point.name.lower(), point)
    if other is not point:
      raise ValueError(
        f'two points have the name {point.name}: '
        f'{dict(other.values)} and {dict(point.values)}. Leave one out, or '
        'give [[points]] a name of their own'
      )
