r"""Writes a network's arrays under their official names.

    sg3jax export --network=runs/t256 --output=g_ema.npz
    sg3jax export --network=models/ffhq --of=discriminator \
      --output=d.safetensors

They are the whole state dictionary of the official module, in its layout.
"""

import jax
from absl import flags

from sg3jax import model as model_lib
from sg3jax.cli import common
from sg3jax.interop import model_files, official

flags.declare_key_flag('network')
_OUTPUT = flags.DEFINE_string(
  'output', None, 'The file to write: .npz or .safetensors.'
)
_OF = flags.DEFINE_enum(
  'of', 'generator_ema', ['generator_ema', 'discriminator'], 'Which network.'
)


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and exports."""
  common.run(_export, argv)


def _export() -> None:
  output = common.require(_OUTPUT)
  model = model_lib.load_model(common.require(common.NETWORK))
  variables = model.variables
  if _OF.value == 'discriminator':
    variables = model.discriminator_variables
  if variables is None:
    raise ValueError(f'the model has no {_OF.value}')
  arrays = official.export(
    _OF.value, model.options['model'], jax.device_get(variables)
  )
  model_files.save_arrays(output, arrays)
  print(f'{output}: {len(arrays)} arrays')
