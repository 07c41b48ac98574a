"""Fine-tunes the networks of an imported model or a run on other images.

    sg3jax train --config=finetune:models/ffhq,batch=16 --workdir=runs/cats \
      --config.data.source=cats.zip

The argument names a folder that `sg3jax import` wrote, a run or a checkpoint;
`batch` and `gamma` may follow. All fields of `config.model` are copied from the
source, and `train.init_from` is set to it, so `--init_from` is not needed. A
conditional model trains on labels. The other fields are those of the published
configuration of the generator; the log lists the fields that transfer settles
differently. Keep the source until the run is complete.
"""

from sg3jax import model as model_lib
from sg3jax.train import config as config_lib


def get_config(arg: str = ''):
  """Returns the configuration; `arg` is `SOURCE[,batch=B][,gamma=G]`."""
  source, _, rest = arg.partition(',')
  if not source:
    raise ValueError(
      'a model to start from is required: --config=finetune:FOLDER'
    )
  numbers = config_lib.parse_arg(rest, batch=32, gamma=None)
  try:
    options = model_lib.read_options(source)
  except OSError as error:
    # An OSError here would be reported as a missing configuration file.
    raise ValueError(str(error)) from error
  config = config_lib.default_config()
  config_lib.take_model(config, options['model'])
  if 'train' not in options:
    # An import has no precision; use that of the published configurations.
    config.model.precision = 'bf16'
  config.data.cond = options['model']['label_dim'] > 0
  config.train.init_from = source
  config.train.batch = numbers['batch']
  config.train.r1_gamma = numbers['gamma']
  if config.model.generator == 'stylegan2':
    config.train.g_lr = 0.002
    config.train.style_mixing_prob = 0.9
    config.train.pl_weight = 2.0
  return config
