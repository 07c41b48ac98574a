r"""Writes a network as arrays under official names, or as a program.

    sg3jax export --network=runs/t256 --output=g_ema.npz
    sg3jax export --network=models/ffhq --of=discriminator \
      --output=d.safetensors

These commands write the complete state dictionary of the official module, in
its layout. The default is the moving average of the generator;
`--of=generator` selects the generator without averaging.

    sg3jax export --network=models/ffhq --output=g.stablehlo

This command writes the generator with its arrays as a StableHLO program, which
JAX runs on a CPU, a GPU or a TPU without this package: see
`examples/generate_stablehlo.py`. `--of=mapping` and `--of=synthesis` write its
two halves. `g.stablehlo.json` describes the inputs and outputs.
"""

import pathlib

import jax
from absl import flags

from sg3jax import model as model_lib
from sg3jax.cli import common
from sg3jax.interop import model_files, packaged_models, schema, stablehlo
from sg3jax.interop.official import convert

flags.declare_key_flag('network')
flags.declare_key_flag('output')
_OF = flags.DEFINE_enum(
  'of',
  'generator_ema',
  sorted({*schema.NETWORKS, *stablehlo.PARTS}),
  'The network to write: generator (G without its moving average) and '
  'discriminator only as arrays, mapping and synthesis only as programs.',
)


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and exports the network."""
  common.run(_export, argv)


def _export() -> None:
  output = pathlib.Path(common.require(common.OUTPUT))
  network = common.require(common.NETWORK)
  model_files.check_is_new_file(
    output, [*model_files.ARRAY_SUFFIXES, model_files.PROGRAM_SUFFIX]
  )
  is_program = output.suffix == model_files.PROGRAM_SUFFIX
  choices = stablehlo.PARTS if is_program else schema.NETWORKS
  if _OF.value not in choices:
    raise ValueError(
      f'--of={_OF.value} cannot be written as {output.suffix}: use --of='
      + ' or --of='.join(choices)
    )
  if is_program:
    _export_program(output, network, model_lib.load_model(network))
  else:
    _export_arrays(output, network)


def _export_arrays(output: pathlib.Path, network: str) -> None:
  jax.config.update('jax_platforms', 'cpu')  # This needs no accelerator.
  options, networks, _ = model_lib.read_networks(network)
  if _OF.value not in networks:
    raise ValueError(f'the model has no {_OF.value}')
  arrays = convert.export(_OF.value, options['model'], networks[_OF.value])
  model_files.save_arrays(output, arrays)
  print(f'{output}: {len(arrays)} arrays')


def _export_program(
  output: pathlib.Path, network: str, model: model_lib.Model
) -> None:
  program, about = stablehlo.export_program(
    _OF.value, model.options['model'], model.variables
  )
  if model.class_names:
    about['class_names'] = list(model.class_names)
  source = {'step': model.step}
  folder = packaged_models.locate(network)
  if model_files.is_model_folder(folder):
    source = model_files.read_config(folder)['source']
  about_path = model_files.save_program(
    output, program, about | {'source': source}
  )
  inputs = ', '.join(about['inputs'])
  print(
    f'{output}: ({inputs}) -> {about["output"]["shape"]}, '
    f'{len(program):,} bytes, for {", ".join(about["platforms"])}'
  )
  print(f'{about_path}: its inputs and outputs')
