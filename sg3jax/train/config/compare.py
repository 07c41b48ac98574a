"""Compares two configurations, and decides which differences matter."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from sg3jax.data import sources
from sg3jax.train.config import fields
from sg3jax.train.config.defaults import default_config

Config = Mapping[str, Any] | ml_collections.ConfigDict

# Fields that a resumed run may change: none affects the numbers of a step.
MAY_CHANGE = (
  'train.total_kimg:',
  'train.plateau_kimg:',
  'train.micro_batches:',
  'train.sharding:',
  'log.',
  'data.workers:',
  'data.processes:',
)

# Fields that name data or files, compared by what they name.
_NAMES = ('data.source', 'train.init_from')

_ABSENT = '(absent)'


def config_difference(old: Config, new: Config) -> list[str]:
  """Returns the differences between two configurations as readable lines.

  Both are compared as JSON stores them, so a tuple equals a list.

  Args:
    old: One configuration, nested mappings with JSON values as leaves.
    new: The other.

  Returns:
    A line such as `data.resolution: 64 -> 128` for every key whose value
    differs, with `(absent)` for a missing value; empty if both are the same.

  Raises:
    TypeError: If JSON cannot hold a value; the error names its key.
  """
  before, after = (
    dict(fields.leaves(plain(old))),
    dict(fields.leaves(plain(new))),
  )
  lines = []
  for key in dict.fromkeys((*before, *after)):
    a, b = (
      json.dumps(leaves[key]) if key in leaves else _ABSENT
      for leaves in (before, after)
    )
    if key in _NAMES and _name_the_same(before.get(key), after.get(key)):
      continue
    # As texts, NaN equals NaN; as values, 1 equals 1.0.
    if a != b and before.get(key, _ABSENT) != after.get(key, _ABSENT):
      lines.append(f'{key}: {a} -> {b}')
  return lines


def _name_the_same(old: Any, new: Any) -> bool:
  both = isinstance(old, str) and isinstance(new, str)
  return both and sources.is_same(old, new)


def plain(config: Config) -> dict[str, Any]:
  """Returns the configuration as a JSON file would restore it."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  for key, value in fields.leaves(config):
    try:
      json.dumps(value)
    except TypeError as error:
      raise TypeError(
        f'The option {key} has the value {value!r}, which JSON cannot hold: '
        'use numbers, strings, booleans, None, lists or mappings.'
      ) from error
  return json.loads(json.dumps(config))


def added_fields() -> list[str]:
  """Returns the differences to ignore for runs that predate a field.

  Such a run behaved as the field's current default does.
  """
  return config_difference({}, default_config())


def check_changes(
  difference: Sequence[str], workdir: pathlib.Path, *, allow_all: bool
) -> list[str]:
  """Returns what a resumed run changes, if the changes are allowed.

  Args:
    difference: Lines of `config_difference` from the run so far.
    workdir: The run folder, for the message.
    allow_all: Whether any field may change, not only those in `MAY_CHANGE`.

  Returns:
    The lines, without those of fields that were added after the run began.

  Raises:
    ValueError: If a field that may not change differs.
  """
  added = added_fields()
  changes = [line for line in difference if line not in added]
  refused = [line for line in changes if not line.startswith(MAY_CHANGE)]
  if refused and not allow_all:
    raise ValueError(
      f'{workdir} holds a run of another configuration: '
      + '; '.join(refused)
      + '. Use the same options to continue, or another workdir; or allow the '
      'change with allow_config_change'
    )
  return changes
