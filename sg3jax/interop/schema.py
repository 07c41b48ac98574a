"""Determines the arrays of a configuration's networks, and their shapes."""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from sg3jax.interop.torch_pickle.records import CheckpointError
from sg3jax.nets import abstract, factory
from sg3jax.trees import flatten

GENERATORS = ('generator_ema', 'generator')
NETWORKS = (*GENERATORS, 'discriminator')

_SHOWN = 3

# Errors raised at some depth by a field that is missing or has a wrong type.
_ERRORS = (
  ValueError, TypeError, ArithmeticError, LookupError, AttributeError,
  RecursionError,
)  # fmt: skip


def expected_shapes(
  network: str, model: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every array of a network, by path.

  Args:
    network: One of `NETWORKS`.
    model: The `model` part of a configuration.
  """
  return _traced_shapes(network, json.dumps(model, default=dict))


# Cached, because tracing takes a second and is requested several times.
@functools.lru_cache(maxsize=64)
def _traced_shapes(network: str, text: str) -> dict[str, tuple[int, ...]]:
  model = json.loads(text)
  # This form of the nonlinearity, which has no arrays, is traced fastest.
  model['filtered_lrelu_implementation'] = 'reference'
  is_discriminator = network == 'discriminator'
  make = (
    factory.make_discriminator if is_discriminator else factory.make_generator
  )
  shapes = abstract.shapes(make(model))
  return {path: leaf.shape for path, leaf in flatten(shapes).items()}


def check_class_names(names: Any, label_dim: int) -> None:
  """Checks that there is a name for each class.

  Raises:
    ValueError: If there is not.
  """
  if (
    not isinstance(names, list | tuple)
    or not all(isinstance(name, str) for name in names)
    or len(names) != label_dim
  ):
    raise ValueError(
      f'class_names of the model must be a list of {label_dim} strings: '
      'correct or remove it'
    )


def check_design(model: Mapping[str, Any]) -> None:
  """Checks that networks can be built, even without arrays.

  Args:
    model: The `model` part of a configuration.

  Raises:
    CheckpointError: If the design is impossible.
  """
  with _impossible('generator'):
    factory.make_generator(model)
  with _impossible('discriminator'):
    factory.make_discriminator(model)


def check_shapes(
  network: str, model: Mapping[str, Any], found: Mapping[str, tuple[int, ...]]
) -> None:
  """Checks that arrays are exactly those that a network needs.

  Args:
    network: One of `NETWORKS`.
    model: The `model` part of a configuration.
    found: The shape of every array, by path.

  Raises:
    CheckpointError: If an array is missing, unexpected or has a wrong shape
      (the message names the first three), or if the design is impossible.
  """
  with _impossible(network):
    wanted = expected_shapes(network, model)
  compare_shapes(
    wanted, found, f'the arrays of the {network} do not match its design'
  )


def compare_shapes(
  wanted: Mapping[str, tuple[int, ...]],
  found: Mapping[str, tuple[int, ...]],
  problem: str,
) -> None:
  """Checks that arrays are exactly those that are wanted.

  Args:
    wanted: Shapes by path.
    found: Likewise.
    problem: The beginning of the message.

  Raises:
    CheckpointError: If an array is missing, unexpected or has a wrong shape;
      the message names the first three.
  """
  differences = [
    f'{path[:80]} is {found.get(path, "absent")}, not '
    f'{wanted.get(path, "absent")}'
    for path in dict.fromkeys((*wanted, *found))
    if found.get(path) != wanted.get(path)
  ]
  if differences:
    more = len(differences) - _SHOWN
    raise CheckpointError(
      f'{problem}: '
      + '; '.join(differences[:_SHOWN])
      + (f' and {more} more' if more > 0 else '')
    )


@contextlib.contextmanager
def _impossible(network: str) -> Iterator[None]:
  """Turns the errors of an impossible design into a CheckpointError."""
  try:
    yield
  except _ERRORS as error:
    # Include the type, because the text of a KeyError is only a key.
    kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
    reason = str(error).partition('\n')[0]
    raise CheckpointError(
      f'the {network} has an impossible design: {kind}{reason[:200]}'
    ) from error
