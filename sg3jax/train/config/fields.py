"""Gets and sets fields of a configuration by path, such as `train.batch`.

A configuration is an `ml_collections.ConfigDict` or, as read from a file,
nested mappings.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
from ml_collections.config_flags import config_path

from sg3jax.types import Config


def get(config: Config, path: str) -> Any:
  """Returns the value of a field.

  Raises:
    KeyError: If there is no such field.
  """
  return config_path.get_value(path, config)


def find(config: Config, path: str) -> Any:
  """Returns the value of a field, or None if there is no such field."""
  try:
    return get(config, path)
  except KeyError:
    return None


def get_type(config: Config, path: str) -> Any:
  """Returns the type of the values that a field of a `ConfigDict` accepts."""
  return config_path.get_type(path, config)


def assign(config: Config, path: str, value: Any) -> None:
  """Sets an existing field.

  Raises:
    KeyError: If there is no such field.
    TypeError: If the value does not have the field's type.
  """
  config_path.set_value(path, config, value)


def leaves(config: Config, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields the path and the value of every field."""
  for key, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      yield from leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value
