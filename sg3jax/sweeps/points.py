"""Reads sweep files, which describe variants of a configuration.

A sweep file is TOML (docs/sweeps.md):

    config = 'stylegan3_r:64'            # as for --config
    seeds = [0, 1]

    [base]                               # for all points
    model.synthesis.channel_base = 1024

    [axes]                               # every combination
    model.synthesis.filter_size = [4, 6, 8]
    model.synthesis.first_stopband = ['2^1.5', '2^2.1']

    [[zip]]                              # one axis: fields that vary together
    model.synthesis.num_layers = [8, 10]
    model.synthesis.num_critical = [1, 2]

    [[points]]                           # a single point outside the grid
    name = 'wide'
    model.synthesis.channel_base = 4096

    [[points]]                           # a point of another configuration
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
_MAX_NAME = 150  # File systems allow 255 characters, including suffixes.


@dataclasses.dataclass(frozen=True)
class Point:
  """One variant of a configuration.

  Attributes:
    name: Name of the point and its files; readable and safe in file systems.
    values: Values that distinguish the point, by dotted field.
    config: The complete configuration, as far as it was built before any error.
    error: One line on why the point cannot run; empty if it can.
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
    short_names: Short name of each field that varies: the shortest unique
      suffix of its dotted name.
  """

  points: Sequence[Point]
  short_names: Mapping[str, str]

  def invalid(self) -> list[Point]:
    """Returns the points that cannot run."""
    return [point for point in self.points if point.error]


def read(
  path: str | pathlib.Path, check: Callable[[Config], None] | None = None
) -> Sweep:
  """Reads a sweep file and determines which of its points can run.

  Args:
    path: The file.
    check: Called with a configuration; raises an error if it is impossible.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is malformed, or `base` does not fit the
      configuration. The problem of a single point is stored in its `error`.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'there is no sweep file {path}')
  try:
    content = tomllib.loads(path.read_text(encoding='utf-8'))
    return _expand(content, path.parent, check)
  except ValueError as error:  # TOMLDecodeError is a ValueError too.
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
    raise ValueError(
      "config is missing: add a line such as config = 'stylegan3_t:64'"
    )

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
    except Exception as problem:  # A user's design may raise anything.
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
  """Returns a check that runs once for configurations that differ in seed.

  A check takes seconds.
  """
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
  """Loads a configuration; a file in the sweep file's folder comes first."""
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
  """Yields the name (None if not given) and the values of each point."""
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
        'the name of a point must consist of letters, digits and . _ = + -, '
        f'starting with a letter or digit, got {name!r}'
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
      'the fields of a [[zip]] must have lists of one length, got: '
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
      f'{name} must be a list of values such as [4, 6], got {values!r}: move '
      'values that all points share to [base]'
    )


def _flatten(table: Mapping[str, Any], prefix: str = '') -> Values:
  """Returns the values of nested tables by dotted field."""
  flat: Values = {}
  for key, value in table.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat


def get(config: Config, field: str, values: Mapping[str, Any]) -> Any:
  """Returns the value of a field at a point.

  Args:
    config: The configuration of the point.
    field: The dotted name of the field.
    values: The values that distinguish the point.

  Returns:
    The value in `values`, or else in `config`; None if there is no such field.
  """
  if field in values:
    return values[field]
  return fields.find(config, field)


def _assign(config: Config, values: Values) -> Values:
  """Sets fields of a configuration, and returns the converted values.

  Raises:
    ValueError: If a field is unknown or a value has the wrong type.
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
  """Returns a value converted to a field's type.

  Raises:
    ValueError: If the value has the wrong type.
  """
  if isinstance(value, str) and kind in (int, float):
    power = re.fullmatch(r'\s*([\d.]+)\s*\^\s*(-?[\d.]+)\s*', value)
    if power:  # The paper writes stopbands as powers.
      value = float(power[1]) ** float(power[2])
      if kind is int and value.is_integer():
        value = int(value)
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if kind is tuple and isinstance(value, list):
    return tuple(value)
  # bool is a subclass of int.
  if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
    names = {
      int: 'an integer', float: 'a number', bool: 'true or false',
      str: 'text', tuple: 'a list',
    }  # fmt: skip
    raise ValueError(
      f'{field} must be {names.get(kind, kind.__name__)}, got {value!r}'
    )
  return value


def _short_name(field: str, known: Sequence[str]) -> str:
  """Returns the shortest suffix of a field that no other field has."""
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
    # Some file systems are case-insensitive.
    other = seen.setdefault(point.name.lower(), point)
    if other is not point:
      raise ValueError(
        f'names of points must be unique, got {point.name} for both '
        f'{dict(other.values)} and {dict(point.values)}: remove one point, or '
        'give [[points]] a name'
      )
