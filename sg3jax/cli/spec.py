r"""Shows the design of a model, layer by layer, without computing anything.

    sg3jax spec --config=stylegan3_t:256
    sg3jax spec --config=stylegan3_r:1024 --outdir=out \
      --config.model.synthesis.filter_size=8

Frequencies are in cycles and rates in samples per side of the canvas: f_c is
the cutoff of a layer's downsampling filter, f_t its minimum stopband, f_h half
the width of its transition band, s the sampling rate of its output, s' the rate
at which the nonlinearity is evaluated, and A the filter's attenuation of
aliases by Kaiser's formula. `--outdir` also plots the paper's Figure 4 for the
design.
"""

import pathlib
import sys

import jax
from absl import flags

from sg3jax import files, text
from sg3jax.cli import common, config_flag
from sg3jax.eval.plots import layers
from sg3jax.nets import abstract, factory, layer_tables
from sg3jax.nets import spec as spec_lib

flags.declare_key_flag('config')
flags.declare_key_flag('outdir')


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and prints the design."""
  common.run(_spec, config_flag.locate(argv or sys.argv))


def _spec() -> None:
  config = common.require(config_flag.CONFIG)
  if common.OUTDIR.value:
    files.check_folder(common.OUTDIR.value)
  jax.config.update('jax_platforms', 'cpu')  # This needs no accelerator.
  model = config.model.to_dict()
  # In training, these come from the data.
  model['img_channels'] = model['img_channels'] or 3
  model['label_dim'] = model['label_dim'] or 0
  generator = factory.make_generator(model)
  discriminator = factory.make_discriminator(model)
  spec = generator.spec
  params = abstract.shapes(generator)['params']
  d = abstract.shapes(discriminator, config.train.batch)
  mapping = params.get('mapping', {})  # The mapping may have no layers.
  print(text.markdown(layer_tables.layer_rows(spec, params['synthesis'])))
  print(
    f'\nGenerator:      {abstract.count(params):,} parameters, '
    f'{abstract.count(mapping):,} of them in the mapping; '
    f'{spec.num_layers} layers, {spec.num_ws} styles'
  )
  print(f'Discriminator:  {abstract.count(d["params"]):,} parameters')
  worst, worst_lowered = layer_tables.worst_attenuations(spec)
  if worst is not None:
    lowered = '-' if worst_lowered is None else f'{worst_lowered:.1f} dB'
    print(
      f'Attenuation:    at least {worst:.1f} dB; {lowered} without the '
      'critically sampled layers'
    )
  if not common.OUTDIR.value:
    return
  if not isinstance(spec, spec_lib.SynthesisSpec):
    raise ValueError(
      "StyleGAN2's blocks have fixed binomial filters and no bands to plot: "
      'leave --outdir out, or choose an alias-free configuration'
    )
  for path in layers.plot_design(spec, pathlib.Path(common.OUTDIR.value)):
    print(f'Written:        {path}')
