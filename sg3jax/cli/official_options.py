"""Options of the official tools and their equivalents here.

`docs/options.md` has the complete table, with the differences.
"""

import difflib
from collections.abc import Sequence

_TRAIN = {
  'outdir': '--workdir',
  'data': '--config.data.source',
  'batch': '--config.train.batch',
  'cfg': '--config=stylegan3_t:RESOLUTION, stylegan3_r or stylegan2',
  'gamma': '--config.train.r1_gamma',
  'cond': '--config.data.cond',
  'mirror': '--config.data.mirror',
  'aug': '--config.train.augment.mode',
  'resume': '--init_from',
  'freezed': '--config.train.freeze_d',
  'p': '--config.train.augment.p',
  'target': '--config.train.augment.target',
  'batch-gpu': '--config.train.micro_batches',
  'cbase': '--config.model.synthesis.channel_base',
  'cmax': '--config.model.synthesis.channel_max',
  'glr': '--config.train.g_lr',
  'dlr': '--config.train.d_lr',
  'map-depth': '--config.model.mapping_layers',
  'mbstd-group': '--config.model.discriminator.mbstd_group',
  'desc': '--workdir',
  'metrics': '--config.log.metrics',
  'kimg': '--config.train.total_kimg',
  'tick': '--config.log.kimg_per_tick',
  'snap': '--config.log.ticks_per_snapshot',
  'seed': '--config.seed',
  'fp32': '--config.model.precision=fp32',
  'nobench': 'not needed',
  'workers': '--config.data.workers',
  'dry-run': '--plan',
  'n': '--plan',
}
_GENERATE = {
  'noise-mode': '--noise_mode',
  **dict.fromkeys(
    ('output', 'w-frames', 'num-keyframes', 'shuffle-seed'),
    'an option of sg3jax video',
  ),
}
_VIDEO = {
  'w-frames': '--w_frames',
  'num-keyframes': '--num_keyframes',
  'shuffle-seed': '--shuffle_seed',
}
_EVALUATE = {'verbose': 'not needed'}

# The equivalent of each official option, without its dashes, by command.
WORDS = {
  'train': _TRAIN,
  'generate': _GENERATE,
  'video': _VIDEO,
  'evaluate': _EVALUATE,
}


def explain(module: str, unknown: Sequence[str], known: Sequence[str]) -> str:
  """Returns a message about options that a command does not accept.

  Args:
    module: The module of the command.
    unknown: The names of the options.
    known: The names of all flags.
  """
  words = WORDS.get(module.rpartition('.')[2], {})
  parts, is_official = [], False
  for name in dict.fromkeys(unknown):
    word = words.get(name.replace('_', '-'))
    if word:
      is_official = True
      dashes = '-' if len(name) == 1 else '--'
      parts.append(f'{dashes}{name} is {word} here')
      continue
    # A flag of another command may be known, and is as close as can be.
    others = [other for other in known if other not in unknown]
    close = difflib.get_close_matches(name, others, 1)
    hint = f": did you mean '{close[0]}'?" if close else ''
    parts.append(f"unknown command line flag '{name}'{hint}")
  page = '; docs/options.md has all official options' if is_official else ''
  return ', '.join(parts) + page
