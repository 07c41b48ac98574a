"""Makes models from others: averages, blends, other channels and sizes.

All functions take and return `Parts`, and leave their arguments as they are.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sg3jax import model as model_lib
from sg3jax.editing import layers as layers_lib
from sg3jax.interop import model_files, schema
from sg3jax.nets import factory
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.trees import flatten, unflatten

# Arrays of a network by path.
Arrays = dict[str, np.ndarray]

# Fields that change how networks compute, but not what.
_FREE_FIELDS = ('filtered_lrelu_implementation', 'precision', 'remat')

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Parts:
  """The design and the arrays of a model.

  Attributes:
    design: The `model` part of its configuration.
    networks: Arrays by path, for `generator_ema` and, if the model has one,
      `discriminator`.
  """

  design: Mapping[str, Any]
  networks: Mapping[str, Arrays]

  def model(self) -> model_lib.Model:
    """Returns the model in memory."""
    trees = {name: unflatten(a) for name, a in self.networks.items()}
    return model_lib.Model({'model': dict(self.design)}, trees)


def read(path: str | pathlib.Path) -> Parts:
  """Reads the parts of a run, a checkpoint or a model folder.

  Raises:
    ValueError, OSError: See `model.load_model`.
  """
  options, networks, _ = model_lib.read_networks(path)
  return Parts(
    json.loads(json.dumps(options['model'], default=dict)),
    {
      name: {p: np.asarray(x) for p, x in flatten(networks[name]).items()}
      for name in ('generator_ema', 'discriminator')
      if name in networks
    },
  )


def write(
  path: str | pathlib.Path, parts: Parts, source: Mapping[str, Any]
) -> None:
  """Writes a model folder, which `load_model` opens.

  Args:
    path: The folder, which is new or empty.
    parts: The parts of the model.
    source: Description of its origin, for its configuration file.

  Raises:
    FileExistsError: If the folder contains files.
    ValueError: If the arrays do not fit the design.
  """
  for name, arrays in parts.networks.items():
    shapes = {p: tuple(np.shape(x)) for p, x in arrays.items()}
    schema.check_shapes(name, parts.design, shapes)
  trees = {
    name: unflatten({p: np.asarray(x, np.float32) for p, x in a.items()})
    for name, a in parts.networks.items()
  }
  model_files.save(path, parts.design, trees, source)


def checkpoints(run: str | pathlib.Path) -> list[tuple[pathlib.Path, float]]:
  """Returns the checkpoints of a run, in order, each with its kimg.

  Raises:
    FileNotFoundError: If there are none.
  """
  folder = pathlib.Path(run) / checkpoint_lib.FOLDER
  names = sorted(
    (p for p in folder.glob('*') if p.name.isdecimal()),
    key=lambda p: int(p.name),
  )
  if not names:
    raise FileNotFoundError(
      f'there are no checkpoints in {folder}: pass a run folder'
    )
  return [(p, checkpoint_lib.load_nimg(p, int(p.name)) / 1000) for p in names]


def post_hoc_weights(
  kimg: Sequence[float], half_life: float | None
) -> list[float]:
  """Returns the weights of checkpoints in an average over a run.

  Args:
    kimg: Thousands of images at each checkpoint.
    half_life: Thousands of images over which the weight halves, counted
      backwards from the last checkpoint; None for equal weights.

  Raises:
    ValueError: If the half-life is not positive.
  """
  if half_life is None:
    return [1.0] * len(kimg)
  if half_life <= 0:
    raise ValueError(f'half_life must be positive, got {half_life}')
  return [0.5 ** ((max(kimg) - k) / half_life) for k in kimg]


def average(models: Sequence[Parts], weights: Sequence[float]) -> Parts:
  """Returns the weighted average of models of one run.

  Parameters and moving averages are averaged in float64. The discriminator is
  that of the last model, because averages of discriminators train poorly.

  Args:
    models: At least one model.
    weights: Their weights, which are divided by their sum.

  Raises:
    ValueError: If designs differ, the input's frequencies differ, as between
      runs, or the weights are unusable.
  """
  w = np.asarray(weights, np.float64)
  if len(w) != len(models) or not len(w):
    raise ValueError(
      f'weights must be {len(models)} numbers, one for each model, got {len(w)}'
    )
  if not np.all(np.isfinite(w)) or np.any(w < 0) or not w.sum():
    raise ValueError(
      f'weights must be non-negative with a positive sum, got {w.tolist()}'
    )
  for other in models[1:]:
    check_same_design(models[0], other)
    _check_same_inputs(models[0], other)
  generators = [m.networks['generator_ema'] for m in models]
  mean = {
    path: sum(
      a * np.asarray(g[path], np.float64)
      for a, g in zip(w / w.sum(), generators, strict=True)
    )
    for path in generators[0]
  }
  rest = {k: v for k, v in models[-1].networks.items() if k != 'generator_ema'}
  arrays = {p: np.asarray(x, np.float32) for p, x in mean.items()}
  return Parts(models[-1].design, {'generator_ema': arrays, **rest})


def blend(
  low: Parts,
  high: Parts,
  layer: float,
  *,
  ramp: float = 0.0,
  mapping: str = 'low',
) -> Parts:
  """Returns a model with the low layers of one and the high layers of another.

  It is meaningful if one model was trained from the other: the first layers
  decide the shapes, and the last ones the textures.

  Args:
    low: The model of the first layers; the input is also its own.
    high: The model of the last layers.
    layer: Number of the first layer, counted by its style, that comes from
      `high`.
    ramp: Number of layers over which the weights are interpolated, centred at
      the boundary; 0 for an abrupt change.
    mapping: 'low' or 'high': whose mapping network and mean style to take.

  Returns:
    The model, with the discriminator of `high`.

  Raises:
    ValueError: If the designs differ or an argument is out of range.
  """
  check_same_design(low, high)
  spec = factory.make_spec(low.design)
  if not 0 <= layer <= spec.num_ws:
    raise ValueError(f'layer must be within 0..{spec.num_ws}, got {layer}')
  if ramp < 0 or mapping not in ('low', 'high'):
    raise ValueError(
      'ramp must not be negative and mapping must be low or high, got '
      f'{ramp} and {mapping}'
    )
  styles = layers_lib.style_of_layers(spec)
  arrays = {}
  pair = (low.networks['generator_ema'], high.networks['generator_ema'])
  for path in pair[0]:
    style = _style_of_array(path, styles)
    share = float(mapping == 'high')
    if style is not None:
      # At the boundary, half way from one layer to the next, both have half.
      share = float(style >= layer)
      if ramp:
        share = float(np.clip((style + 0.5 - layer) / ramp + 0.5, 0, 1))
      if path.startswith('buffers/'):
        share = 0.0
    a, b = (np.asarray(x[path], np.float64) for x in pair)
    arrays[path] = np.asarray(a + share * (b - a), np.float32)
  networks = {'generator_ema': arrays}
  if 'discriminator' in high.networks:
    networks['discriminator'] = high.networks['discriminator']
  return Parts(low.design, networks)


def resize(parts: Parts, resolution: int, seed: int = 0) -> tuple[Parts, dict]:
  """Returns a model for another resolution that keeps what fits.

  Arrays with the same path and shape are kept: in the discriminator, all blocks
  up to the smaller resolution; in StyleGAN2's generator, too; in alias-free
  generators, the mapping network and the layers of equal channels, whose
  cutoffs differ. All other arrays are new, and must be trained.

  Args:
    parts: The model.
    resolution: The new resolution.
    seed: Random seed of new arrays.

  Returns:
    The model; and by network the names of layers that are new.

  Raises:
    ValueError: If the resolution is that of the model, or impossible.
  """
  if resolution == parts.design['resolution']:
    raise ValueError(
      f'size must differ from that of the model, got {resolution} for both'
    )
  design = {**parts.design, 'resolution': resolution}
  schema.check_design(design)
  networks, new = {}, {}
  for name, old in parts.networks.items():
    arrays = _fresh(design, name, seed)
    fits = {
      p for p, x in arrays.items() if p in old and old[p].shape == x.shape
    }
    arrays |= {path: old[path] for path in fits}
    networks[name] = arrays
    new[name] = sorted({_layer_of(p) for p in set(arrays) - fits})
  return Parts(design, networks), new


def check_same_design(a: Parts, b: Parts) -> None:
  """Raises ValueError unless two models have the same networks."""
  shown = [
    f'{name} {_get(a.design, name)!r} and {_get(b.design, name)!r}'
    for name in sorted({*_leaves(a.design), *_leaves(b.design)})
    if name not in _FREE_FIELDS and _get(a.design, name) != _get(b.design, name)
  ]
  if shown:
    raise ValueError(
      f'models must have the same design, got {"; ".join(shown[:_SHOWN])}: '
      'choose models that were trained from each other'
    )


def _check_same_inputs(a: Parts, b: Parts) -> None:
  """Raises ValueError unless the constant arrays of generators are equal."""
  left, right = (m.networks['generator_ema'] for m in (a, b))
  for path, array in left.items():
    if path.startswith('buffers/') and not np.array_equal(array, right[path]):
      raise ValueError(
        f'models must be from one run, got different {path}: average only '
        'checkpoints of a run, or runs that were started from one another'
      )


def _leaves(tree: Mapping[str, Any], prefix: str = '') -> list[str]:
  names = []
  for key, value in tree.items():
    nested = isinstance(value, Mapping)
    names += _leaves(value, f'{prefix}{key}.') if nested else [prefix + key]
  return names


def _get(tree: Any, name: str) -> Any:
  for key in name.split('.'):
    tree = tree.get(key) if isinstance(tree, Mapping) else None
  return tree


def _style_of_array(path: str, styles: Mapping[str, int]) -> int | None:
  """Returns the number of the style of an array's layer; None for mapping."""
  _, network, *rest = path.split('/')
  if network != 'synthesis':
    return None
  for end in (2, 1):
    if (name := '/'.join(rest[:end])) in styles:
      return styles[name]
  # A constant or a skip belongs to the first layer of its block.
  return min(s for name, s in styles.items() if name.startswith(f'{rest[0]}/'))


def _fresh(design: Mapping[str, Any], name: str, seed: int) -> Arrays:
  """Returns the arrays of a new network."""
  is_discriminator = name == 'discriminator'
  make = (
    factory.make_discriminator if is_discriminator else factory.make_generator
  )
  network = make({**design, 'precision': 'fp32'})
  n, side = 1, design['resolution']
  inputs: list[Any] = [np.zeros((n, design['z_dim']), np.float32)]
  if is_discriminator:
    inputs = [np.zeros((n, side, side, design['img_channels']), np.float32)]
  if design['label_dim']:
    inputs.append(np.zeros((n, design['label_dim']), np.float32))
  # Jitted, the network itself is removed as dead code.
  variables = jax.jit(network.init)(jax.random.key(seed), *inputs)
  return {path: np.asarray(x) for path, x in flatten(variables).items()}


def _layer_of(path: str) -> str:
  """Returns the name of the layer of an array, for messages."""
  return '/'.join(path.split('/')[1:-1]) or path
