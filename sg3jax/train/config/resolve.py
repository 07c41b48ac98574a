"""Settles the fields that a configuration leaves open, and checks values."""

import math

from sg3jax.data import sources
from sg3jax.train.config import fields
from sg3jax.train.step import augment as augment_lib
from sg3jax.types import Config

AUGMENT_MODES = ('none', 'fixed', 'ada')


# Published R1 weights by resolution, at batch 32.
_PUBLISHED_GAMMA = {128: 0.5, 256: 2.0, 512: 8.0, 1024: 32.0}


_STYLEGAN2_GAMMA = 0.0002  # Multiplied by pixels over batch.


def resolve(config: Config, *, img_channels: int, label_dim: int) -> list[str]:
  """Sets fields that are still `None` in place; returns a reason for each.

  Args:
    config: A configuration with the fields of `default_config`.
    img_channels: Channels of the training images.
    label_dim: Features of the training labels, 0 for no labels.

  Raises:
    ValueError: If a value is out of range; the message names the field.
  """
  _check(config)
  if config.data.source:
    # A resumed run may have a different working directory.
    config.data.source = sources.absolute(config.data.source)
  reasons = []

  def settle(section: str, field: str, value, reason: str) -> None:
    path = f'{section}.{field}'
    if fields.get(config, path) is None:
      fields.assign(config, path, value)
      reasons.append(f'{path} = {value:g}: {reason}')

  batch = config.train.batch
  settle('model', 'img_channels', img_channels, 'the channels of the data')
  settle('model', 'label_dim', label_dim, 'the labels of the data')
  gamma, reason = published_gamma(
    config.model.resolution,
    batch,
    config.model.generator,
  )
  settle('train', 'r1_gamma', gamma, reason)
  settle('train', 'ema_kimg', batch * 10 / 32, 'batch * 10/32')
  if config.train.init_from:
    fade, rampup, speed = 0.0, 0.0, 100.0
    reason = fade_reason = 'published for transfer'
  else:
    fade, rampup, speed = batch * 200 / 32, 0.05, 500.0
    reason, fade_reason = 'published for new networks', 'batch * 200/32'
  if config.train.blur_init_sigma:
    settle('train', 'blur_fade_kimg', fade, fade_reason)
  settle('train', 'ema_rampup', rampup, reason)
  settle('train.augment', 'speed_kimg', speed, reason)
  for field, data in (('img_channels', img_channels), ('label_dim', label_dim)):
    value = fields.get(config, f'model.{field}')
    if value != data:
      raise ValueError(
        f'model.{field} must be {data}, as in the data, got {value}: leave it '
        'unset'
      )
  return reasons


def published_gamma(
  resolution: int, batch: int, generator: str = 'stylegan3'
) -> tuple[float, str]:
  """Returns the R1 weight for a resolution and batch, and why.

  The published table holds for a batch of 32. The weight is proportional to
  the number of pixels and to 1 / batch. StyleGAN2 has its own rule, which gives
  a smaller weight (math.md 5.3). It is worth trying twice and half the value.
  """
  if generator == 'stylegan2':
    gamma = _STYLEGAN2_GAMMA * resolution**2 / batch
    return gamma, f'published {_STYLEGAN2_GAMMA:g} * {resolution}^2 / {batch}'
  if resolution in _PUBLISHED_GAMMA:
    gamma = _PUBLISHED_GAMMA[resolution]
    reason = f'published {gamma:g} at {resolution} pixels and batch 32'
  else:
    gamma = _PUBLISHED_GAMMA[256] * (resolution / 256) ** 2
    reason = (
      f'published {_PUBLISHED_GAMMA[256]:g} at 256 pixels and batch 32, times '
      f'({resolution}/256)^2'
    )
  if batch != 32:
    gamma *= 32 / batch
    reason += f', times 32/{batch}'
  return gamma, reason


def _check(config: Config) -> None:
  at_least = {
    'train.batch': 1,
    'train.micro_batches': 0,
    'train.r1_interval': 1,
    'train.pl_interval': 1,
    'train.pl_batch_shrink': 1,
    'train.augment.interval': 1,
    'data.workers': 0,
    'data.processes': 0,
    'log.ticks_per_snapshot': 1,
    'log.keep_checkpoints': 1,
    'log.metric_samples': 1,
    'log.full_metric_samples': 1,
    'log.max_nonfinite_ticks': 1,
    'model.discriminator.mbstd_group': 1,
    'model.discriminator.mapping_layers': 1,
  }
  above_zero = [
    'train.total_kimg', 'train.plateau_kimg', 'train.g_lr', 'train.d_lr',
    'log.kimg_per_tick', 'train.augment.speed_kimg', 'model.output_scale',
    'model.conv_clamp', 'model.discriminator.conv_clamp',
  ]  # fmt: skip
  not_negative = [
    'train.r1_gamma', 'train.ema_kimg', 'train.ema_rampup',
    'train.blur_init_sigma', 'train.blur_fade_kimg', 'train.style_mixing_prob',
    'train.pl_weight', 'train.pl_decay',
  ]  # fmt: skip
  ranges = [
    *((name, least, False) for name, least in at_least.items()),
    *((name, 0, True) for name in above_zero),
    *((name, 0, False) for name in not_negative),
  ]
  for name, bound, strict in ranges:
    value = fields.get(config, name)
    if value is None:
      continue
    if not math.isfinite(value) or value < bound or (strict and value == bound):
      relation = 'above' if strict else 'at least'
      raise ValueError(f'{name} must be {relation} {bound}, got {value}')
  for name in ('train.style_mixing_prob', 'train.pl_decay'):
    if (value := fields.get(config, name)) > 1:
      raise ValueError(f'{name} must be at most 1, got {value}')
  if config.train.init_partial and not config.train.init_from:
    raise ValueError(
      'train.init_partial must be False without networks to start from: set '
      'train.init_from too'
    )
  _check_augment(config.train.augment)


def _check_augment(options: Config) -> None:
  if options.mode not in AUGMENT_MODES:
    raise ValueError(
      f'train.augment.mode must be one of {", ".join(AUGMENT_MODES)}, got '
      f'{options.mode!r}'
    )
  augment_lib.get_ops(options.pipeline)
  for name, low in (('p', 0), ('target', -1)):
    if not low <= options[name] <= 1:
      raise ValueError(
        f'train.augment.{name} must be between {low} and 1, got {options[name]}'
      )
