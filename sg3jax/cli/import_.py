r"""Converts an official checkpoint safely to a folder in our format.

    sg3jax import stylegan3-t-ffhq-1024x1024.pkl --output=models/ffhq

No code in the file is executed. The folder can be used like a run:

    sg3jax generate --network=models/ffhq --seeds=0-7 --outdir=out

State dictionaries and files written by `sg3jax export` do not contain the
design of their network. Published designs are recognised; others need a
configuration:

    sg3jax import g_ema.pt --output=models/mine --config=mine.py

Converted weights keep the licence of the original weights.
"""

import sys

import jax
from absl import flags

from sg3jax import text
from sg3jax.cli import common, config_flag
from sg3jax.interop.official import convert
from sg3jax.trees import flatten

flags.declare_key_flag('config')
flags.declare_key_flag('output')


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and converts the checkpoint."""
  common.run(_import, config_flag.locate(argv or sys.argv), arguments=1)


def _import(file: str) -> None:
  output = common.require(common.OUTPUT)
  config = config_flag.CONFIG.value
  jax.config.update('jax_platforms', 'cpu')  # This needs no accelerator.
  converted = convert.import_file(
    file, output, None if config is None else config.model.to_dict()
  )
  _describe(converted)
  print(f'written       {output}')
  print('Converted weights keep the licence of the original weights.')


def _describe(converted: convert.Converted) -> None:
  """Prints what was found, converted, compared, assumed and ignored."""
  model = converted.model
  if model['generator'] == 'stylegan2':
    kind = f'StyleGAN2 ({model["stylegan2"]["architecture"]})'
  else:
    is_radial = model['synthesis']['radial_filters']
    kind = f'StyleGAN3-{"R" if is_radial else "T"}'
  print(
    f'found         {kind}, {model["resolution"]} pixels, '
    f'{text.counted(model["img_channels"], "channel")}, '
    f'{text.counted(model["label_dim"], "label")}'
  )
  for network, variables in converted.networks.items():
    arrays = flatten(variables).values()
    print(
      f'converted     {network}: {len(arrays)} arrays, '
      f'{sum(array.size for array in arrays):,} numbers'
    )
  print(
    f'compared      {converted.compared} arrays that follow from the design'
  )
  for verb, names in (
    ('assumed', converted.assumed),
    ('ignored', converted.ignored),
  ):
    if names:
      print(f'{verb:13} {", ".join(names)}')
