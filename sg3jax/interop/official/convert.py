"""Official checkpoints to our networks and back, strictly in both directions.

Every array of a file is converted or compared with what its design gives, and
every array of ours is filled, with the shape it must have.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sg3jax.interop import schema
from sg3jax.interop.official import arrays as arrays_lib
from sg3jax.interop.official import hyperparameters
from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  Module,
  Tensor,
  quoted,
)
from sg3jax.nets import spec as spec_lib
from sg3jax.nets import stylegan2
from sg3jax.ops import filters as filter_lib
from sg3jax.trees import flatten
from sg3jax.types import Tree

# Official names of networks, and ours.
_NETWORKS = {
  'G_ema': 'generator_ema',
  'G': 'generator',
  'D': 'discriminator',
}

# Filters are stored in float32; ours, in float64, agree to its last digits.
_FILTER_TOLERANCE = 1e-6

# What StyleGAN2's networks resample with.
_BINOMIAL = np.outer(filter_lib.BINOMIAL, filter_lib.BINOMIAL)


@dataclasses.dataclass(frozen=True)
class Converted:
  """Networks of an official checkpoint.

  Attributes:
    model: The `model` part of our configuration.
    networks: Variables by our name: `generator_ema`, `generator` and
      `discriminator`, as far as the file has them.
    compared: How many arrays were not converted, but found equal to what the
      design gives.
    ignored: Names of the file's other parts.
  """

  model: dict[str, Any]
  networks: dict[str, Tree]
  compared: int
  ignored: list[str]


def convert(checkpoint: Any) -> Converted:
  """Converts an official checkpoint.

  Args:
    checkpoint: What `reader.read_checkpoint` returned.

  Raises:
    CheckpointError: If it holds no G_ema, networks of an architecture that this
      package lacks, or arrays that do not fit their design.
  """
  if not isinstance(checkpoint, dict):
    raise CheckpointError(
      'the checkpoint is no dictionary with the networks G, D and G_ema'
    )
  modules = {
    official: checkpoint[official]
    for official in _NETWORKS
    if isinstance(checkpoint.get(official), Module)
  }
  if 'G_ema' not in modules:
    keys = ', '.join(quoted(key) for key in list(checkpoint)[:8])
    raise CheckpointError(f'the checkpoint has no network G_ema, but {keys}')
  model: dict[str, Any] = {}
  networks, compared = {}, 0
  for official, module in modules.items():
    network = _NETWORKS[official]
    found, variables, count = convert_network(network, module)
    _merge(model, found, official)
    networks[network] = variables
    compared += count
  # The architecture of this package's own, for a file without D.
  model.setdefault('discriminator', {})
  ignored = [quoted(key) for key in checkpoint if key not in modules]
  return Converted(model, networks, compared, ignored)


def convert_network(
  network: str, module: Module
) -> tuple[dict[str, Any], Tree, int]:
  """Converts one network.

  Args:
    network: Our name of it: one of `schema.NETWORKS`.
    module: The official module.

  Returns:
    The `model` part of our configuration, as far as this network knows it; its
    variables, float32; and how many arrays were compared with the design.

  Raises:
    CheckpointError: As `convert`.
  """
  is_generator = network in schema.GENERATORS
  if is_generator:
    model = hyperparameters.generator_model(module)
  else:
    model = hyperparameters.discriminator_model(module)
  table = _table(network, model)
  arrays = _arrays(module)
  variables, recomputed = arrays_lib.to_ours(table, arrays)
  shapes = {path: np.shape(x) for path, x in flatten(variables).items()}
  schema.check_shapes(network, model, shapes)
  wanted = _recomputed(network, model, arrays)
  for name in recomputed:
    _compare(name, arrays[name], wanted.get(name))
  missing = wanted.keys() - arrays.keys()
  if missing:
    raise CheckpointError(f'the checkpoint lacks the array {min(missing)}')
  # Numbers within names too: sizes of layers, say, which ours do not have.
  unknown = arrays.keys() - export(network, model, variables).keys()
  if unknown:
    raise CheckpointError(
      f'the checkpoint has an array {min(unknown)}, which is none of its design'
    )
  return model, variables, len(recomputed)


def export(
  network: str, model: Mapping[str, Any], variables: Tree
) -> dict[str, np.ndarray]:
  """Returns a network's arrays under official names: undoes `convert_network`.

  They are a whole state dictionary of the official module, with the arrays that
  follow from the design.

  Args:
    network: Our name of it: one of `schema.NETWORKS`.
    model: The `model` part of our configuration.
    variables: Our variables, collection first.

  Raises:
    ValueError: If the official code has no such network.
  """
  layer_names = None
  if network in schema.GENERATORS:
    spec = hyperparameters.synthesis_spec(model)
    if isinstance(spec, spec_lib.SynthesisSpec):
      _check_released(spec)
      layer_names = arrays_lib.layer_names(spec)
  arrays = arrays_lib.to_official(
    _table(network, model), variables, layer_names
  )
  arrays |= _recomputed(network, model, arrays)
  return {name: np.asarray(x, order='C') for name, x in sorted(arrays.items())}


def _check_released(spec: spec_lib.SynthesisSpec) -> None:
  """Raises ValueError unless the official code can draw with a design."""
  for name in (
    'sampling', 'learned_transform', 'filter', 'conv_before_up', 'noise', 'p4'
  ):  # fmt: skip
    if getattr(spec, name) != getattr(spec_lib.SynthesisSpec, name):
      raise ValueError(
        f'the official code has no network with model.synthesis.{name} = '
        f'{getattr(spec, name)!r}: only T and R and what their other fields '
        'make of them can be exported; .stablehlo can hold any'
      )


def _table(network: str, model: Mapping[str, Any]) -> arrays_lib.Table:
  if network not in schema.GENERATORS:
    return arrays_lib.DISCRIMINATOR
  return {
    'stylegan3': arrays_lib.STYLEGAN3_GENERATOR,
    'stylegan2': arrays_lib.STYLEGAN2_GENERATOR,
  }[model['generator']]


def _merge(model: dict[str, Any], found: dict[str, Any], official: str) -> None:
  """Adds what one network says of the model; others must say the same."""
  for key, value in found.items():
    if model.setdefault(key, value) != value:
      raise CheckpointError(
        f'the networks G_ema and {official} of the checkpoint differ in {key}: '
        f'{model[key]} and {value}'
      )


def _arrays(module: Module) -> dict[str, np.ndarray]:
  """Returns the arrays of a network by dotted name."""
  arrays = {}
  for name, tensor in _tensors(module, '', set()):
    # A parameter and a buffer, say, or a dotted name and a nested one.
    if name in arrays:
      raise CheckpointError(
        f'the checkpoint has two arrays of the name {quoted(name)}'
      )
    arrays[name] = _float32(name, tensor)
  return arrays


def _tensors(
  module: Module, prefix: str, seen: set[int]
) -> Iterator[tuple[str, Tensor]]:
  """Yields the tensors of a module and its parts by dotted name."""
  if id(module) in seen:  # Else a few could pass for any number.
    raise CheckpointError(
      f'{quoted(prefix)} of the checkpoint is the same as another module'
    )
  seen.add(id(module))
  for part in ('_parameters', '_buffers'):
    for name, tensor in module.part(part).items():
      if isinstance(tensor, Tensor):
        yield prefix + name, tensor
      elif tensor is not None:
        raise CheckpointError(
          f'{quoted(prefix + name)} of the checkpoint is no tensor'
        )
  for name in module.part('_modules'):
    yield from _tensors(module.submodule(name), f'{prefix}{name}.', seen)


def _float32(name: str, tensor: Tensor) -> np.ndarray:
  array = tensor.numpy()
  if array.dtype.name not in ('float16', 'bfloat16', 'float32', 'float64'):
    raise CheckpointError(
      f'the array {quoted(name)} of the checkpoint has the dtype {array.dtype}'
    )
  with np.errstate(over='ignore'):  # It is an error here.
    result = np.asarray(array, np.float32)
  if (
    array.dtype == np.float64
    and (np.isfinite(array) != np.isfinite(result)).any()
  ):
    raise CheckpointError(
      f'the array {quoted(name)} of the checkpoint exceeds float32'
    )
  return result


def _recomputed(
  network: str, model: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the arrays of an official network that follow from the design."""
  if network not in schema.GENERATORS:
    return _binomials_of_discriminator(arrays)
  spec = hyperparameters.synthesis_spec(model)
  if isinstance(spec, stylegan2.StyleGAN2Spec):
    return _binomials_of_generator(spec)
  filters = {
    f'synthesis.{name}.{kind}': x
    for layer, name in zip(
      spec.layers, arrays_lib.layer_names(spec).values(), strict=True
    )
    for kind, x in (
      ('up_filter', layer.up_filter()),
      ('down_filter', layer.down_filter()),
    )
    if x is not None
  }
  filters['synthesis.input.transform'] = np.eye(3)
  return {name: x.astype(np.float32) for name, x in filters.items()}


def _binomials_of_generator(
  spec: stylegan2.StyleGAN2Spec,
) -> dict[str, np.ndarray]:
  """Returns the filters of StyleGAN2's generator."""
  found = []
  for side in spec.resolutions:
    is_first = side == spec.resolutions[0]
    parts = ['', 'conv1.'] + ([] if is_first else ['conv0.'])
    if spec.architecture == 'resnet' and not is_first:
      parts.append('skip.')
    found += [f'synthesis.b{side}.{part}resample_filter' for part in parts]
  return {name: _BINOMIAL.astype(np.float32) for name in found}


def _binomials_of_discriminator(
  arrays: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Returns the filters of the discriminator with these arrays."""
  convolutions = {
    name.removesuffix('weight') for name, x in arrays.items() if x.ndim == 4
  }
  blocks = {name.partition('.')[0] + '.' for name in convolutions}
  # The last block has no downsampling of its own.
  blocks = {name for name in blocks if f'{name}skip.weight' in arrays}
  return {
    f'{name}resample_filter': _BINOMIAL.astype(np.float32)
    for name in convolutions | blocks
  }


def _compare(name: str, found: np.ndarray, wanted: np.ndarray | None) -> None:
  if (
    wanted is None
    or found.shape != wanted.shape
    or not np.allclose(found, wanted, rtol=0, atol=_FILTER_TOLERANCE)
  ):
    raise CheckpointError(
      f'the array {name} of the checkpoint is not what its design gives: it '
      'would draw other pictures here'
    )
