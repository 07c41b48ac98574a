"""Converts official checkpoints to our networks and back, strictly.

Every array of a file is converted, or compared with what its design implies.
Every array of ours is filled, with the required shape.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sg3jax import files
from sg3jax.interop import model_files, schema
from sg3jax.interop.official import arrays as arrays_lib
from sg3jax.interop.official import (
  contents,
  derived,
  hyperparameters,
  recognition,
)
from sg3jax.interop.official import files as official_files
from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  Module,
  NumpyArray,
  Tensor,
  quoted,
)
from sg3jax.nets import spec as spec_lib
from sg3jax.trees import flatten
from sg3jax.types import Tree


@dataclasses.dataclass(frozen=True)
class Converted:
  """Networks of an official checkpoint.

  Attributes:
    model: The `model` part of our configuration.
    networks: Variables by our name: `generator_ema`, `generator` and
      `discriminator`, if the file has them.
    compared: Number of arrays that were not converted, but found equal to what
      the design implies.
    ignored: Names of the file's other parts.
    assumed: Readable lines for the fields that a state dictionary does not show
      and that are assumed to have published values.
  """

  model: dict[str, Any]
  networks: dict[str, Tree]
  compared: int
  ignored: list[str]
  assumed: list[str]


def convert(
  checkpoint: Any, config: Mapping[str, Any] | None = None
) -> Converted:
  """Converts an official checkpoint.

  Args:
    checkpoint: The value that `files.read` returned: networks by name, or G_ema
      alone, as modules or as state dictionaries.
    config: The `model` part of a configuration, for state dictionaries, which
      do not contain their design. Without it, published designs are recognized
      by their shapes.

  Raises:
    CheckpointError: If it has no G_ema, networks with an architecture that this
      package lacks, or arrays that do not fit their design.
  """
  found, ignored = contents.find_networks(checkpoint)
  are_modules = isinstance(found['generator_ema'], Module)
  if config is not None and are_modules:
    raise CheckpointError(
      'the checkpoint contains its design: leave the configuration out'
    )
  model: dict[str, Any] = {}
  networks, compared = {}, 0
  for network in schema.NETWORKS:
    if network not in found:
      continue
    value = found[network]
    if isinstance(value, Module):
      part, variables, count = convert_network(network, value)
    else:
      arrays = _float32_arrays(value)
      part = _recognised(network, arrays, config, model)
      variables, count = _convert_arrays(network, part, arrays)
    _merge(model, part, network)
    networks[network] = variables
    compared += count
  # For a file without D, use this package's own architecture.
  model.setdefault('discriminator', {})
  assumed = [] if are_modules or config is not None else _assumed(model)
  return Converted(model, networks, compared, ignored, assumed)


def import_file(
  file: str | pathlib.Path,
  output: str | pathlib.Path,
  config: Mapping[str, Any] | None = None,
) -> Converted:
  """Converts an official checkpoint to a folder for `load_model`.

  Args:
    file: A pickle or state dictionary of PyTorch, or arrays that
      `sg3jax export` wrote. Nothing in it is executed.
    output: The folder to write, which must be new or empty.
    config: The `model` part of a configuration, for state dictionaries of
      designs that were not published.

  Returns:
    The networks, and what was compared, assumed and ignored.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is damaged, unsafe or not a known network.
    OSError: If the folder already contains files, or cannot be written.
  """
  file, output = files.local_path(file), files.local_path(output)
  model_files.check_is_new(output)
  files.check_folder(output)
  checkpoint, digest = official_files.read(file)
  try:
    converted = convert(checkpoint, config)
  except ValueError as error:
    raise type(error)(f'{file}: {error}') from error
  source = {'file': file.name, 'sha256': digest}
  model_files.save(output, converted.model, converted.networks, source)
  return converted


def _recognised(
  network: str,
  arrays: Mapping[str, np.ndarray],
  config: Mapping[str, Any] | None,
  model: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns the `model` part of the configuration of a state dictionary.

  Args:
    network: Our name for the network.
    arrays: Its arrays.
    config: See `convert`.
    model: The fields that are known from previous networks.
  """
  shapes = {name: array.shape for name, array in arrays.items()}
  if network in schema.GENERATORS:
    if config is not None:
      return recognition.configured_model(config, shapes)
    return recognition.generator_model(shapes)
  if config is not None:
    return dict(model)
  return recognition.discriminator_model(shapes, model.get('conv_clamp'))


def _assumed(model: Mapping[str, Any]) -> list[str]:
  """Returns the fields that no array shows, assumed to be as published."""
  names = [n for n in ('conv_clamp', 'output_scale') if n in model]
  assumed = [f'model.{name} = {model[name]:g}' for name in names]
  group = model['discriminator'].get('mbstd_group')
  if group is not None:
    assumed.append(f'model.discriminator.mbstd_group = {group}')
  return assumed


def convert_network(
  network: str, module: Module
) -> tuple[dict[str, Any], Tree, int]:
  """Converts one network.

  Args:
    network: Our name for it: one of `schema.NETWORKS`.
    module: The official module.

  Returns:
    The `model` part of our configuration, as far as this network determines it;
    its variables, float32; and the number of arrays compared with the design.

  Raises:
    CheckpointError: See `convert`.
  """
  if network in schema.GENERATORS:
    model = hyperparameters.generator_model(module)
  else:
    model = hyperparameters.discriminator_model(module)
  return model, *_convert_arrays(network, model, _arrays(module))


def _convert_arrays(
  network: str, model: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[Tree, int]:
  """Converts a network's arrays; also returns the number compared."""
  table = _table(network, model)
  variables, recomputed = arrays_lib.to_ours(table, arrays)
  shapes = {path: np.shape(x) for path, x in flatten(variables).items()}
  schema.check_shapes(network, model, shapes)
  wanted = derived.derived_arrays(network, model, arrays)
  for name in recomputed:
    derived.check(name, arrays[name], wanted.get(name))
  missing = wanted.keys() - arrays.keys()
  if missing:
    raise CheckpointError(f'the checkpoint lacks the array {min(missing)}')
  # This covers numbers in names, such as sizes of layers, which ours lack.
  unknown = arrays.keys() - export(network, model, variables).keys()
  if unknown:
    raise CheckpointError(
      f'the checkpoint has an array {min(unknown)}, which its design lacks'
    )
  return variables, len(recomputed)


def export(
  network: str, model: Mapping[str, Any], variables: Tree
) -> dict[str, np.ndarray]:
  """Returns a network's arrays with official names; inverts `convert_network`.

  They are a complete state dictionary of the official module, including the
  arrays that follow from the design.

  Args:
    network: Our name for it: one of `schema.NETWORKS`.
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
  arrays |= derived.derived_arrays(network, model, arrays)
  return {name: np.asarray(x, order='C') for name, x in sorted(arrays.items())}


def _check_released(spec: spec_lib.SynthesisSpec) -> None:
  """Raises a ValueError unless the official code supports a design."""
  for name in (
    'sampling', 'learned_transform', 'filter', 'conv_before_up', 'noise', 'p4'
  ):  # fmt: skip
    if getattr(spec, name) != getattr(spec_lib.SynthesisSpec, name):
      raise ValueError(
        f'the official code has no network with model.synthesis.{name} = '
        f'{getattr(spec, name)!r}: arrays of T and R can be exported, with any '
        'values of their other fields; .stablehlo can hold any design'
      )


def _table(network: str, model: Mapping[str, Any]) -> arrays_lib.Table:
  if network not in schema.GENERATORS:
    return arrays_lib.DISCRIMINATOR
  return {
    'stylegan3': arrays_lib.STYLEGAN3_GENERATOR,
    'stylegan2': arrays_lib.STYLEGAN2_GENERATOR,
  }[model['generator']]


def _merge(
  model: dict[str, Any], found: Mapping[str, Any], network: str
) -> None:
  """Adds the fields of one network; shared fields must be equal."""
  for key, value in found.items():
    if model.setdefault(key, value) != value:
      raise CheckpointError(
        f'the {network} of the checkpoint differs from its generator_ema in '
        f'{key}: {value} and {model[key]}'
      )


def _float32_arrays(
  arrays: Mapping[str, Tensor | NumpyArray],
) -> dict[str, np.ndarray]:
  """Returns a state dictionary in float32."""
  return {name: _float32(name, tensor) for name, tensor in arrays.items()}


def _arrays(module: Module) -> dict[str, np.ndarray]:
  """Returns the arrays of a module by dotted name."""
  arrays = {}
  for name, tensor in _tensors(module, '', set()):
    # For example a parameter and a buffer, or a dotted and a nested name.
    if name in arrays:
      raise CheckpointError(
        f'the checkpoint has two arrays named {quoted(name)}'
      )
    arrays[name] = _float32(name, tensor)
  return arrays


def _tensors(
  module: Module, prefix: str, seen: set[int]
) -> Iterator[tuple[str, Tensor]]:
  """Yields the tensors of a module and its parts by dotted name."""
  if id(module) in seen:  # Otherwise a few could stand for any number.
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
          f'{quoted(prefix + name)} of the checkpoint must be a tensor'
        )
  for name in module.part('_modules'):
    yield from _tensors(module.submodule(name), f'{prefix}{name}.', seen)


def _float32(name: str, tensor: Tensor | NumpyArray) -> np.ndarray:
  array = tensor.numpy()
  if array.dtype.name not in ('float16', 'bfloat16', 'float32', 'float64'):
    raise CheckpointError(
      f'the array {quoted(name)} of the checkpoint has the dtype {array.dtype}'
    )
  with np.errstate(over='ignore'):  # Overflow is checked below.
    result = np.asarray(array, np.float32)
  if (
    array.dtype == np.float64
    and (np.isfinite(array) != np.isfinite(result)).any()
  ):
    raise CheckpointError(
      f'the array {quoted(name)} of the checkpoint exceeds float32'
    )
  return result
