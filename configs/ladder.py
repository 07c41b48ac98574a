"""The paper's ablation: configs A to R, and changes to T and R (Fig. 3, 5, 15).

    sg3jax train --config=ladder:F --workdir=runs/F \
      --config.data.source=ffhq-u-256x256.zip

The argument names a step, A to H, T or R; or T or R with a change, as in
`T-noise`. `resolution`, `batch`, `channel_base` and `channel_max` may follow,
as in `F,resolution=64,batch=16`.

Every step changes a few fields of the previous one:

    A  StyleGAN2                     F  + filtered nonlinearities
    B  + Fourier features            G  + non-critical sampling
    C  - noise inputs                H  + transformed Fourier features
    D  + simplified generator        T  + flexible layers
    E  + boundaries and upsampling   R  + rotation equivariance

and the changes are

    filter4, filter8     taps of filters per unit of their factor, n
    up1, up4             oversampling of the nonlinearity, m
    stopband1.5, stopband3.1    log2 of the first stopband
    mixing               style mixing of half the batches
    noise                noise inputs
    rigid                rates that double every second layer, as in H
    fixed                Fourier features that styles do not rotate or shift
    path_length          path length regularization
    half, double         capacity
    lanczos, gaussian    other low-pass filters, separable
    ideal                brick walls in the Fourier domain; not in the paper
    p4                   group convolutions, only for T

docs/ladder.md states which details the paper leaves open, how they were filled
in, and its results along with those of a small study. At 256 pixels, a run of T
takes 1.1 days and one of R 1.4 days on 8 A100, as published for the PyTorch
system.
"""

from sg3jax.train import config as config_lib

# The values of the paper's FFHQ-U runs.
_DEFAULTS = {
  'resolution': 256,
  'batch': 64,
  'channel_base': 16384,
  'channel_max': 512,
}


def _steps(rigid_layers: int) -> dict[str, dict]:
  """Returns the changes of each step, in order."""
  return {
    'A': {
      'model.generator': 'stylegan2',
      'model.mapping_layers': 8,
      'model.discriminator.mbstd_group': 8,
      'train.style_mixing_prob': 0.9,
      'train.pl_weight': 2.0,
    },
    'B': {'model.stylegan2.input': 'fourier'},
    'C': {'model.stylegan2.noise': False},
    'D': {
      'model.mapping_layers': 2,
      'model.discriminator.mbstd_group': 4,
      'train.style_mixing_prob': 0.0,
      'train.pl_weight': 0.0,
      # A plain StyleGAN2, built with this package's other generator: it
      # normalizes by magnitudes, scales its output, and has a second first
      # layer.
      'model.generator': 'stylegan3',
      'model.synthesis.num_layers': rigid_layers,
      'model.synthesis.sampling': 'critical',
      'model.synthesis.learned_transform': False,
      'model.synthesis.margin': 0,
      'model.synthesis.filter': 'binomial',
      'model.synthesis.conv_before_up': False,
      'model.synthesis.lrelu_upsampling': 1,
    },
    'E': {'model.synthesis.margin': 10, 'model.synthesis.filter': 'kaiser'},
    'F': {
      'model.synthesis.conv_before_up': True,
      'model.synthesis.lrelu_upsampling': 2,
    },
    'G': {'model.synthesis.sampling': 'lowered'},
    'H': {'model.synthesis.learned_transform': True},
    'T': {
      'model.synthesis.num_layers': 14,
      'model.synthesis.sampling': 'flexible',
    },
    'R': {
      'model.synthesis.conv_kernel': 1,
      'model.synthesis.radial_filters': True,
      'train.blur_init_sigma': 10.0,
    },
  }


def _changes(rigid_layers: int) -> dict[str, dict]:
  """Returns the fields that each ablation of T or R changes."""
  return {
    'filter4': {'model.synthesis.filter_size': 4},
    'filter8': {'model.synthesis.filter_size': 8},
    'up1': {'model.synthesis.lrelu_upsampling': 1},
    'up4': {'model.synthesis.lrelu_upsampling': 4},
    'stopband1.5': {'model.synthesis.first_stopband': 2.0**1.5},
    'stopband3.1': {'model.synthesis.first_stopband': 2.0**3.1},
    'mixing': {'train.style_mixing_prob': 0.5},
    'noise': {'model.synthesis.noise': True},
    'rigid': {
      'model.synthesis.num_layers': rigid_layers,
      'model.synthesis.sampling': 'lowered',
    },
    'fixed': {'model.synthesis.learned_transform': False},
    'path_length': {'train.pl_weight': 0.5},
    'half': {},  # Half the channels; see `get_config`.
    'double': {},
    'lanczos': _SEPARABLE | {'model.synthesis.filter': 'lanczos'},
    'gaussian': _SEPARABLE | {'model.synthesis.filter': 'gaussian'},
    'ideal': _SEPARABLE | {'model.synthesis.filter': 'ideal'},
    'p4': {'model.synthesis.p4': True},
  }


_SEPARABLE = {'model.synthesis.radial_filters': False}

# These factors multiply the channels.
_CAPACITY = {'R': 2.0, 'half': 0.5, 'double': 2.0, 'p4': 0.5}


def get_config(arg: str = 'T'):
  """Returns the configuration; the module describes `arg`."""
  name, _, rest = arg.partition(',')
  step, _, change = name.partition('-')
  options = config_lib.parse_arg(rest, **_DEFAULTS)
  resolution, batch = options['resolution'], options['batch']
  rigid_layers = 2 * max(resolution.bit_length() - 2, 1)
  steps, changes = _steps(rigid_layers), _changes(rigid_layers)
  if step not in steps or (change and step not in ('T', 'R')):
    raise ValueError(
      f'the configuration of the ladder must be {", ".join(steps)}, or T or R '
      f'with a change, as in T-noise, got {name!r}'
    )
  if (change and change not in changes) or name == 'R-p4':
    raise ValueError(
      f'the change of {step} must be one of {", ".join(changes)} (p4 only for '
      f'T), got {name!r}'
    )
  config = config_lib.default_config()
  for fields in list(steps.values())[: list(steps).index(step) + 1]:
    config.update_from_flattened_dict(fields)
  config.update_from_flattened_dict(changes.get(change, {}))

  config.model.resolution = resolution
  config.model.precision = 'bf16'
  capacity = _CAPACITY.get(step, 1) * _CAPACITY.get(change, 1)
  for name in ('channel_base', 'channel_max'):
    config.model.synthesis[name] = int(capacity * options[name])
    config.model.stylegan2[name] = options[name]
    config.model.discriminator[name] = options[name]
  config.data.mirror = True
  config.train.batch = batch
  config.train.g_lr = config.train.d_lr = 0.0025
  # 1 in all runs of the paper. The weight scales with pixels over batch.
  config.train.r1_gamma = (resolution / 256) ** 2 * 64 / batch
  config.train.augment.mode = 'none'
  return config
