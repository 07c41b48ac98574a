"""Settles what a configuration leaves to the data, and checks its values."""

import math
from typing import Any

from sg3jax.train.step import augment as augment_lib
from sg3jax.types import Config

AUGMENT_MODES = ('none', 'fixed', 'ada')


# Published R1 weights at batch 32, by resolution.
_PUBLISHED_GAMMA = {128: 0.5, 256: 2.0, 512: 8.0, 1024: 32.0}


_STYLEGAN2_GAMMA = 0.0002  # Times pixels over batch.


def resolve(config: Config, *, img_channels: int, label_dim: int) -> list[str]:
  """Settles in place what is still `None`; returns a reason for each.

  Args:
    config: A configuration with the fields of `default_config`.
    img_channels: Channels of the training images.
    label_dim: Features of the training labels, 0 for none.

  Raises:
    ValueError: If a value is out of range; the message names the field.
  """
  _check(config)
  reasons = []

  def settle(section: str, field: str, value, reason: str) -> None:
    fields = _get(config, section)
    if fields[field] is None:
      fields[field] = value
      reasons.append(f'{section}.{field} = {value:g}: {reason}')

  batch = _get(config, 'train.batch')
  settle('model', 'img_channels', img_channels, 'the channels of the data')
  settle('model', 'label_dim', label_dim, 'the labels of the data')
  gamma, reason = published_gamma(
    _get(config, 'model.resolution'), batch, _get(config, 'model.generator')
  )
  settle('train', 'r1_gamma', gamma, reason)
  settle('train', 'ema_kimg', batch * 10 / 32, 'batch * 10/32')
  if _get(config, 'train.init_from'):
    fade, rampup, speed = 0.0, 0.0, 100.0
    reason = fade_reason = 'published for transfer'
  else:
    fade, rampup, speed = batch * 200 / 32, 0.05, 500.0
    reason, fade_reason = 'published for new networks', 'batch * 200/32'
  if _get(config, 'train.blur_init_sigma'):
    settle('train', 'blur_fade_kimg', fade, fade_reason)
  settle('train', 'ema_rampup', rampup, reason)
  settle('train.augment', 'speed_kimg', speed, reason)
  for field, data in (('img_channels', img_channels), ('label_dim', label_dim)):
    value = _get(config, f'model.{field}')
    if value != data:
      raise ValueError(
        f'config.model.{field} is {value}, but that of the data is {data}: '
        'leave it unset'
      )
  return reasons


def published_gamma(
  resolution: int, batch: int, generator: str = 'stylegan3'
) -> tuple[float, str]:
  """Returns the R1 weight for a resolution and batch, and why.

  The published table holds for a batch of 32; the weight is proportional to
  the pixels and to 1 / batch. StyleGAN2 has a rule of its own, which gives less
  (math.md 5.3). Try twice and half as much.
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
    'log.ticks_per_snapshot': 1,
    'log.keep_checkpoints': 1,
    'log.metric_samples': 1,
    'log.max_nonfinite_ticks': 1,
    'model.discriminator.mbstd_group': 1,
    'model.discriminator.mapping_layers': 1,
  }
  above_zero = [
    'train.total_kimg', 'train.g_lr', 'train.d_lr', 'log.kimg_per_tick',
    'train.augment.speed_kimg', 'model.output_scale', 'model.conv_clamp',
    'model.discriminator.conv_clamp',
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
    value = _get(config, name)
    if value is None:
      continue
    if not math.isfinite(value) or value < bound or (strict and value == bound):
      relation = 'above' if strict else 'at least'
      raise ValueError(f'config.{name} must be {relation} {bound}, is {value}')
  for name in ('train.style_mixing_prob', 'train.pl_decay'):
    if _get(config, name) > 1:
      raise ValueError(
        f'config.{name} must be at most 1, is {_get(config, name)}'
      )
  if _get(config, 'train.init_partial') and not _get(config, 'train.init_from'):
    raise ValueError(
      'config.train.init_partial is set, but there is nothing to start from: '
      'pass --init_from'
    )
  _check_augment(_get(config, 'train.augment'))


def _check_augment(options: Config) -> None:
  if options.mode not in AUGMENT_MODES:
    raise ValueError(
      f'config.train.augment.mode must be one of {", ".join(AUGMENT_MODES)}, '
      f'is {options.mode!r}'
    )
  augment_lib.get_ops(options.pipeline)
  for name, low in (('p', 0), ('target', -1)):
    if not low <= options[name] <= 1:
      raise ValueError(
        f'config.train.augment.{name} must be between {low} and 1, is '
        f'{options[name]}'
      )


def _get(config: Config, dotted: str) -> Any:
  value: Any = config
  for part in dotted.split('.'):
    value = value[part]
  return value
