"""Starts a new run from the networks of another (transfer).

The networks G_ema, G and D are trees of variables from any reader. The
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

# Maps a path to options with a `model` part, variables by network, and the
# training step.
Reader = Callable[[str], tuple[dict[str, Any], dict[str, Any], int]]

NETWORKS = ('generator_ema', 'generator', 'discriminator')

# Maximum number of arrays that a message lists for each kind of difference.
_SHOWN = 3

_HINTS = {
  'generator': 'the source has model.generator {!r}, this run {!r}',
  'resolution': 'the source has {} pixels a side, this run {}',
  'img_channels': 'the source has {} image channels, the data have {}',
  'label_dim': 'the source has {} label features, the data have {}',
}
_OTHER_FIELDS = (
  'z_dim', 'w_dim', 'mapping_layers', 'discriminator.mapping_layers'
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The arrays of a source compared with those of a target, by name.

  G and G_ema have the same arrays, which count once.

  Attributes:
    fitting: Arrays in both, with the same shape.
    other_shape: Shapes in the source and in the target, for arrays in both.
    only_here: Arrays that are only in the target.
    only_there: Shapes of the arrays that are only in the source.
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
  """Networks to start from, already checked to fit.

  Attributes:
    networks: Variables by network.
    report: Lines for the log.
  """

  networks: Mapping[str, Variables]
  report: tuple[str, ...]

  def enter(self, state: TrainState) -> TrainState:
    """Returns a fresh state with these networks and the state's sharding."""
    target = {name: getattr(state, name) for name in NETWORKS}
    return state.replace(**merge(self.networks, target))


def prepare(
  config: Config,
  trainer: Trainer,
  workdir: str | pathlib.Path,
  read: Reader = checkpoint_lib.load_networks,
) -> Start | None:
  """Reads what `train.init_from` names, before a run writes anything.

  Args:
    config: The run's resolved configuration.
    trainer: Its networks.
    workdir: Its folder. A run with a checkpoint continues from that instead.
    read: Reads the source.

  Returns:
    The networks to start from; None for new networks or the run's own state.

  Raises:
    FileNotFoundError: If the source does not exist.
    ValueError: If it does not fit, or, with `train.init_partial`, if nothing
      fits. The message lists the differences.
  """
  options = config.train
  if not options.init_from or checkpoint_lib.has_checkpoint(workdir):
    return None
  source_options, networks, step = read(options.init_from)
  # A file with only G_ema and D is enough.
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
      + '; '.join(hints or ['its arrays differ']),
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
    target: The same for the networks to be filled.
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
  """Returns the target with every fitting array replaced by the source's.

  Args:
    source: Variables by network.
    target: The same as `jax.Array`s, whose dtypes and shardings are kept.
  """
  values = dict(jax.tree.leaves_with_path(dict(source)))

  def choose(path: tuple[Any, ...], old: jax.Array) -> jax.Array:
    new = values.get(path)
    if new is None or np.shape(new) != old.shape:
      return old
    # Copy, because every step donates the state.
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
  """Yields the differences in options that determine arrays and functions."""
  for name, hint in _HINTS.items():
    if name in there and there[name] != here[name]:
      yield hint.format(there[name], here[name])
  names = [*_OTHER_FIELDS]
  for part in ('discriminator', _design(here)):
    names += [f'{part}.channel_base', f'{part}.channel_max']
  yield from _differences(names, there, here)
  yield from _design_differences(there, here)


def _complete(model: Mapping[str, Any]) -> dict[str, Any]:
  """Fills in design fields that were added after the source was written."""
  defaults = config_lib.default_config().model.to_dict()
  designs = ('synthesis', 'stylegan2')
  return dict(model) | {
    name: defaults[name] | model[name] for name in designs if name in model
  }


def _design_differences(
  there: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterable[str]:
  """Yields the differences of designs whose arrays may have the same shapes."""
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
    # The default clamp depends on the precision, which may differ.
    if old != new and {old, new} - {None, factory.CONV_CLAMP}:
      yield f'model.{name} is {old!r} in the source, {new!r} here'


def _design(model: Mapping[str, Any]) -> str:
  return 'synthesis' if model['generator'] == 'stylegan3' else 'stylegan2'


def _differences(
  names: Iterable[str], there: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterable[str]:
  """Yields the differing fields among those that the source has."""
  for name in names:
    old, new = fields.find(there, name), fields.find(here, name)
    if old is not None and old != new:
      yield f'model.{name} is {old!r} in the source, {new!r} here'


def _describe(comparison: Comparison) -> list[str]:
  """Returns one or more lines for each kind of difference."""

  def text(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'

  groups = {
    'with a different shape': {
      name: f'{text(there)} in the source, {text(here)} here'
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
  """Returns a line for each module on what was copied and what was not."""
  lines = []
  for verb, names, reason in (
    ('copied', comparison.fitting, ''),
    ('skipped', comparison.other_shape, ', different shape'),
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
