"""Transfer: a new run that starts from the networks of another.

Networks are trees of variables, wherever they were read: G_ema, G and D. The
optimizers, the counters and the augmentation's p start afresh.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from sg3jax.nets import factory
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import config as config_lib
from sg3jax.train.config import fields
from sg3jax.train.step.state import TrainState
from sg3jax.train.step.trainer import Trainer
from sg3jax.types import Config, Tree, Variables

# Reads what a path names: options with a part `model`, variables by network,
# and the training step.
Reader = Callable[[str], tuple[dict[str, Any], dict[str, Any], int]]

NETWORKS = ('generator_ema', 'generator', 'discriminator')

# Lines of a message about each kind of difference.
_SHOWN = 3

_HINTS = {
  'generator': 'the source is of model.generator {!r}, and here it is {!r}',
  'resolution': 'the source is of {} pixels, the data of {}',
  'img_channels': 'the source has images of {} channels, the data of {}',
  'label_dim': 'the source has labels of {} features, the data of {}',
}
_OTHER_FIELDS = (
  'z_dim', 'w_dim', 'mapping_layers', 'discriminator.mapping_layers'
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The arrays of a source and those to be filled, by name.

  G and G_ema, which have the same, are counted once.

  Attributes:
    fitting: In both, of the same shape.
    other_shape: In both; shapes there and here.
    only_here: Not in the source.
    only_there: Shapes of those in the source alone.
  """

  fitting: tuple[str, ...]
  other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
  only_here: Mapping[str, tuple[int, ...]]
  only_there: Mapping[str, tuple[int, ...]]

  @property
  def is_exact(self) -> bool:
    """Whether every array has its counterpart."""
    return not (self.other_shape or self.only_here or self.only_there)


@dataclasses.dataclass(frozen=True)
class Start:
  """Networks to start from, found to fit.

  Attributes:
    networks: Variables by network.
    report: Lines for the log.
  """

  networks: Mapping[str, Variables]
  report: tuple[str, ...]

  def enter(self, state: TrainState) -> TrainState:
    """Returns a fresh state with the networks in it, placed as it is."""
    target = {name: getattr(state, name) for name in NETWORKS}
    return state.replace(**merge(self.networks, target))


def prepare(
  config: Config,
  trainer: Trainer,
  workdir: str | pathlib.Path,
  read: Reader = checkpoint_lib.load_networks,
) -> Start | None:
  """Reads what `train.init_from` names, before a run leaves any trace.

  Args:
    config: The run's configuration, resolved.
    trainer: Its networks.
    workdir: Its folder. A run that has a checkpoint goes on from that.
    read: Reads the source.

  Returns:
    What the run starts from, or None if from nothing or from its own state.

  Raises:
    FileNotFoundError: If the source does not exist.
    ValueError: If it does not fit; the message says in what. With
      `train.init_partial`, if nothing fits.
  """
  options = config.train
  if not options.init_from or checkpoint_lib.has_checkpoint(workdir):
    return None
  source_options, networks, step = read(options.init_from)
  # A file of G_ema and D alone will do.
  networks = {'generator': networks['generator_ema'], **networks}
  shapes = jax.eval_shape(trainer.init, jax.random.key(0))
  comparison = compare(
    networks, {name: getattr(shapes, name) for name in NETWORKS}
  )
  there = _complete(source_options.get('model', {}))
  here = config.model.to_dict()
  hints = list(_model_differences(there, here))
  if not comparison.fitting:
    raise ValueError(
      f'nothing of train.init_from={options.init_from} fits'
      + ''.join(f': {hint}' for hint in hints[:1])
    )
  is_exact = comparison.is_exact and not any(_design_differences(there, here))
  if not is_exact and not options.init_partial:
    message = [
      f'train.init_from={options.init_from} does not fit: '
      + '; '.join(hints or ['its arrays are others']),
      *_describe(comparison),
      f'config=finetune:{options.init_from} takes the fields of the source; '
      'train.init_partial=True copies what fits',
    ]
    raise ValueError('\n'.join(message))
  return Start(
    networks,
    (
      f'Transfer:       {"all " if is_exact else ""}{len(comparison.fitting)} '
      f'arrays of {options.init_from}' + (f', step {step}' if step else ''),
      *(f'Warning: {hint}' for hint in hints if not is_exact),
      *(() if is_exact else _list_modules(comparison)),
    ),
  )


def compare(
  source: Mapping[str, Variables], target: Mapping[str, Tree]
) -> Comparison:
  """Compares arrays, or anything with a shape, by name.

  Args:
    source: Variables by network.
    target: The same, of the networks to be filled.
  """
  there, here = _shapes(source), _shapes(target)
  common = [name for name in here if name in there]
  return Comparison(
    fitting=tuple(n for n in common if there[n] == here[n]),
    other_shape={n: (there[n], here[n]) for n in common if there[n] != here[n]},
    only_here={n: shape for n, shape in here.items() if n not in there},
    only_there={n: shape for n, shape in there.items() if n not in here},
  )


def merge(
  source: Mapping[str, Variables], target: Mapping[str, Tree]
) -> dict[str, Tree]:
  """Returns the target with every array of the source that fits in its place.

  Args:
    source: Variables by network.
    target: The same, `jax.Array`s: type and sharding stay as they are.
  """
  values = dict(jax.tree.leaves_with_path(dict(source)))

  def choose(path: tuple[Any, ...], old: jax.Array) -> jax.Array:
    new = values.get(path)
    if new is None or np.shape(new) != old.shape:
      return old
    # A copy: the state is given away to every step.
    new = np.asarray(new, old.dtype)
    return jax.device_put(new, old.sharding, may_alias=False)

  return jax.tree.map_with_path(choose, dict(target))


def _shapes(networks: Mapping[str, Tree]) -> dict[str, tuple[int, ...]]:
  """Returns shapes by name: network, modules, array."""
  shapes = {}
  for name in NETWORKS:
    network = name.removesuffix('_ema')
    for path, x in jax.tree.leaves_with_path(networks.get(name, {})):
      _, *keys = (key.key for key in path)  # Without the collection.
      shapes['/'.join((network, *keys))] = tuple(np.shape(x))
  return shapes


def _model_differences(
  there: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterable[str]:
  """Yields in what the options differ that make arrays and functions."""
  for name, hint in _HINTS.items():
    if name in there and there[name] != here[name]:
      yield hint.format(there[name], here[name])
  names = [*_OTHER_FIELDS]
  for part in ('discriminator', _design(here)):
    names += [f'{part}.channel_base', f'{part}.channel_max']
  yield from _differences(names, there, here)
  yield from _design_differences(there, here)


def _complete(model: Mapping[str, Any]) -> dict[str, Any]:
  """Fills in the fields of designs that are younger than the source."""
  defaults = config_lib.default_config().model.to_dict()
  designs = ('synthesis', 'stylegan2')
  return dict(model) | {
    name: defaults[name] | model[name] for name in designs if name in model
  }


def _design_differences(
  there: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterable[str]:
  """Yields in what designs differ that have the same arrays, or may have."""
  design = _design(here)
  names = [
    f'{design}.{name}'
    for name in here[design]
    if name not in ('channel_base', 'channel_max')
  ]
  if design == 'synthesis':
    names.append('output_scale')
  yield from _differences(names, there, here)
  for name in ('conv_clamp', 'discriminator.conv_clamp'):
    old, new = fields.find(there, name), fields.find(here, name)
    # The usual one comes and goes with the precision, which may differ.
    if old != new and {old, new} - {None, factory.CONV_CLAMP}:
      yield f'model.{name} is {old!r} there, {new!r} here'


def _design(model: Mapping[str, Any]) -> str:
  return 'synthesis' if model['generator'] == 'stylegan3' else 'stylegan2'


def _differences(
  names: Iterable[str], there: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterable[str]:
  """Yields the fields that differ, of those that the source has."""
  for name in names:
    old, new = fields.find(there, name), fields.find(here, name)
    if old is not None and old != new:
      yield f'model.{name} is {old!r} there, {new!r} here'


def _describe(comparison: Comparison) -> list[str]:
  """Returns a line or more for each kind of difference."""

  def text(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'

  groups = {
    'of another shape': {
      name: f'{text(there)} there, {text(here)} here'
      for name, (there, here) in comparison.other_shape.items()
    },
    'not in the source': {
      name: text(shape) for name, shape in comparison.only_here.items()
    },
    'only in the source': {
      name: text(shape) for name, shape in comparison.only_there.items()
    },
  }
  lines = []
  for title, group in groups.items():
    if group:
      lines.append(f'  {title}, {len(group)}:')
      names = list(group)[:_SHOWN]
      lines += [f'    {name}: {group[name]}' for name in names]
      if len(group) > _SHOWN:
        lines.append(f'    and {len(group) - _SHOWN} more')
  return lines


def _list_modules(comparison: Comparison) -> list[str]:
  """Returns what was copied and what was not, a line for each module."""
  lines = []
  for verb, names, reason in (
    ('copied', comparison.fitting, ''),
    ('skipped', comparison.other_shape, ', of another shape'),
    ('skipped', comparison.only_there, ', not needed here'),
    ('new', comparison.only_here, ', not in the source'),
  ):
    modules: dict[str, list[str]] = {}
    for name in names:
      module, _, array = name.rpartition('/')
      modules.setdefault(module, []).append(array)
    for module, arrays in modules.items():
      lines.append(f'  {verb:<14s}{module}: {", ".join(arrays)}{reason}')
  return lines
