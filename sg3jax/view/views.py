"""What a viewer shows, as one value that can be checked and sent."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sg3jax import model as model_lib
from sg3jax.nets import layers
from sg3jax.render import camera

# The grid of seeds has 100 columns, and as many rows as have seeds of 32 bits.
COLUMNS = 100
ROWS = 2**32 // COLUMNS

# What the view of the equivariance error moves the input by.
CHECKS = ('', 'translation', 'rotation')

# Beyond this, styles are far from those of any image.
_MAX_STRENGTH = 20

# Widths by which the image can be dragged, in each direction.
_MAX_SHIFT = 10

_MAX_NAME = 100
_MAX_LIST = 200


@dataclasses.dataclass(frozen=True)
class View:
  """Everything that determines what a viewer shows.

  Attributes:
    column: Position in the grid of seeds, from 0 to below `COLUMNS`.
    row: Position in the grid of seeds, from 0 to below `ROWS`. The image at
      integer positions is that of seed `100 * row + column`; between them,
      latents are interpolated. The first column follows the last one, and the
      first row the last one.
    psi: Truncation psi.
    towards: The mean to truncate towards: see `Model.mapping`.
    label: Index of the class, for a conditional model.
    mix_seed: Seed of the image whose styles are mixed in.
    mix_layers: Indices of the styles that are taken from `mix_seed`.
    noise: Noise mode: see `Model.synthesis`.
    x: Translation of the image to the right, in widths of the image.
    y: Translation of the image downwards, in widths of the image.
    rotate: Rotation in degrees, counterclockwise.
    zoom: Magnification about the centre.
    layer: Name of the layer whose features are shown; empty for none.
    channel: Number of the first of three channels of the features.
    check: What the equivariance error is shown for, one of `CHECKS`.
    strengths: Names of directions, and how far styles are moved along them in
      standard deviations.
    photo: Number of the projected photograph whose styles replace those of the
      seeds; 0 for none.

  Raises:
    ValueError: If a value is out of range.
  """

  column: float = 0.0
  row: float = 0.0
  psi: float = 1.0
  towards: str = 'global'
  label: int = 0
  mix_seed: int = 0
  mix_layers: tuple[int, ...] = ()
  noise: str = 'const'
  x: float = 0.0
  y: float = 0.0
  rotate: float = 0.0
  zoom: float = 1.0
  layer: str = ''
  channel: int = 0
  check: str = ''
  strengths: tuple[tuple[str, float], ...] = ()
  photo: int = 0

  def __post_init__(self):
    for name, is_valid, meaning in _RULES:
      value = getattr(self, name)
      if not is_valid(value):
        raise ValueError(f'{name} must be {meaning}, got {str(value)[:100]}')

  @property
  def pose(self) -> camera.Pose:
    """The position of the image."""
    return camera.Pose(self.x, self.y, self.rotate, self.zoom)

  @property
  def seed(self) -> int | None:
    """The seed at this position of the grid, None between seeds."""
    if self.column != round(self.column) or self.row != round(self.row):
      return None
    return seed_at(round(self.column), round(self.row))

  @property
  def is_of_seed(self) -> bool:
    """Whether the styles are those of one seed, perhaps along directions."""
    return self.seed is not None and not self.mix_layers and not self.photo

  @property
  def edits(self) -> tuple[tuple[str, float], ...]:
    """The directions that have an effect, with their strengths."""
    return tuple((name, s) for name, s in self.strengths if s)


def seed_at(column: int, row: int) -> int:
  """Returns the seed at a position of the grid, which has no borders."""
  return COLUMNS * (row % ROWS) + column % COLUMNS


def parse(fields: Any) -> View:
  """Makes a view from fields that came from outside, such as parsed JSON.

  Args:
    fields: A mapping; missing fields have their defaults.

  Raises:
    ValueError: If there is an unknown field, or a value has the wrong type or
      is out of range; the message names the field.
  """
  if not isinstance(fields, Mapping):
    raise ValueError(f'a view must be an object, got {type(fields).__name__}')
  known = {field.name: field for field in dataclasses.fields(View)}
  values = {}
  for name, value in fields.items():
    if name not in known:
      raise ValueError(f'a view has no field {str(name)[:_MAX_NAME]!r}')
    try:
      values[name] = _convert(name, value, known[name].default)
    except (TypeError, OverflowError) as error:
      kind = type(known[name].default).__name__
      kind = {'float': 'a number', 'int': 'an integer', 'str': 'text'}.get(
        kind, 'a list'
      )
      raise ValueError(
        f'{name} must be {kind}, got {str(value)[:_MAX_NAME]}'
      ) from error
  return View(**values)


def _convert(name: str, value: Any, default: Any) -> Any:
  """Returns a value in the type of a field's default, or raises TypeError."""
  if isinstance(default, tuple):
    if not isinstance(value, list) or len(value) > _MAX_LIST:
      raise TypeError
    element = _integer if name == 'mix_layers' else _strength
    return tuple(element(x) for x in value)
  if isinstance(value, bool):
    raise TypeError
  if isinstance(default, float) and isinstance(value, int | float):
    return float(value)
  if isinstance(default, int) and isinstance(value, float):
    if not value.is_integer():
      raise TypeError
    return int(value)
  if not isinstance(value, type(default)):
    raise TypeError
  return value


def _integer(value: Any) -> int:
  if isinstance(value, int) and not isinstance(value, bool):
    return value
  raise TypeError


def _strength(value: Any) -> tuple[str, float]:
  match value:
    case [str(name), int(s) | float(s)] if not isinstance(s, bool):
      return name, float(s)
  raise TypeError


def _within(low: float | int, high: float | int) -> Callable[[Any], bool]:
  return lambda value: low <= value <= high


def _range(name: str, low: float | int, high: float | int):
  return name, _within(low, high), f'{low:g} to {high:g}'


def _choice(name: str, choices: Sequence[str]):
  listed = ', '.join(repr(choice) for choice in choices)
  return name, lambda value: value in choices, f'one of {listed}'


def _are_layers(value: tuple) -> bool:
  return all(0 <= x < _MAX_LIST for x in value)


def _are_strengths(value: tuple) -> bool:
  return all(
    len(name) <= _MAX_NAME and abs(strength) <= _MAX_STRENGTH
    for name, strength in value
  )


_RULES = (
  ('column', lambda v: 0 <= v < COLUMNS, f'at least 0 and below {COLUMNS}'),
  ('row', lambda v: 0 <= v < ROWS, f'at least 0 and below {ROWS}'),
  _range('psi', -model_lib.MAX_PSI, model_lib.MAX_PSI),
  _choice('towards', model_lib.TRUNCATION_CENTERS),
  _range('label', 0, 2**31),
  _range('mix_seed', 0, 2**32 - 1),
  ('mix_layers', _are_layers, f'integers from 0 to {_MAX_LIST - 1}'),
  _choice('noise', layers.NOISE_MODES),
  _range('x', -_MAX_SHIFT, _MAX_SHIFT),
  _range('y', -_MAX_SHIFT, _MAX_SHIFT),
  _range('rotate', -360, 360),
  _range('zoom', 1 / camera.MAX_ZOOM, camera.MAX_ZOOM),
  ('layer', lambda v: len(v) <= _MAX_NAME, 'the name of a layer'),
  _range('channel', 0, 2**20),
  _choice('check', CHECKS),
  (
    'strengths',
    _are_strengths,
    f'pairs of a name and a number within +-{_MAX_STRENGTH}',
  ),
  ('photo', lambda v: v >= 0, 'at least 0'),
)
