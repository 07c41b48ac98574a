"""Converts an official checkpoint to a folder of our own files, safely.

    sg3jax import stylegan3-t-ffhq-1024x1024.pkl --output=models/ffhq

Nothing of the file is executed. The folder opens like a run:

    sg3jax generate --network=models/ffhq --seeds=0-7 --outdir=out

Converted weights keep the licence of those they were made from.
"""

import pathlib

from absl import flags

from sg3jax.cli import common
from sg3jax.interop import model_files
from sg3jax.interop.official import convert
from sg3jax.interop.torch_pickle import reader
from sg3jax.trees import flatten

_OUTPUT = flags.DEFINE_string('output', None, 'The folder to write, a new one.')


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and converts."""
  common.run(_import, argv, arguments=1)


def _import(file: str) -> None:
  output = pathlib.Path(common.require(_OUTPUT))
  model_files.check_is_new(output)
  path = pathlib.Path(file)
  checkpoint, digest = reader.read_hashed(path)
  converted = convert.convert(checkpoint)
  _describe(converted)
  source = {'file': path.name, 'sha256': digest}
  model_files.save(output, converted.model, converted.networks, source)
  print(f'written       {output}')
  print('Converted weights keep the licence of those they were made from.')


def _describe(converted: convert.Converted) -> None:
  """Prints what was found, converted and ignored."""
  model = converted.model
  if model['generator'] == 'stylegan2':
    kind = f'StyleGAN2 ({model["stylegan2"]["architecture"]})'
  else:
    is_radial = model['synthesis']['radial_filters']
    kind = f'StyleGAN3-{"R" if is_radial else "T"}'
  print(
    f'found         {kind}, {model["resolution"]} pixels, '
    f'{model["img_channels"]} channels, {model["label_dim"]} labels'
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
  if converted.ignored:
    print(f'ignored       {", ".join(converted.ignored)}')
