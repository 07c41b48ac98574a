"""Builds the networks and the recipe described by a configuration."""

import dataclasses

from jax.sharding import Mesh

from sg3jax.data import sources
from sg3jax.nets import factory
from sg3jax.train import config as config_lib
from sg3jax.train import memory_estimate, sharding
from sg3jax.train.step import ada, augment, freeze, phases
from sg3jax.train.step import trainer as trainer_lib
from sg3jax.types import Config


def prepare(
  config: Config, source: sources.ImageSource, mesh: Mesh
) -> tuple[trainer_lib.Trainer, list[str]]:
  """Settles the open fields of a configuration in place, and checks it.

  Args:
    config: A configuration with the fields of `config.default_config`.
    source: The training images.
    mesh: The devices.

  Returns:
    The networks and recipe, and a reason for each field that was settled.

  Raises:
    ValueError: If the configuration is impossible, or its batch cannot be
      spread over the devices.
  """
  return prepare_for(
    config, mesh, img_channels=source.channels, label_dim=source.label_dim
  )


def prepare_for(
  config: Config, mesh: Mesh, *, img_channels: int, label_dim: int
) -> tuple[trainer_lib.Trainer, list[str]]:
  """Does what `prepare` does, given the shapes of the training images.

  Args:
    config: A configuration; it is settled in place.
    mesh: The devices.
    img_channels: Channels of the images.
    label_dim: Features of their labels, 0 for no labels.

  Returns:
    See `prepare`.

  Raises:
    ValueError: See `prepare`.
  """
  reasons = config_lib.resolve(
    config, img_channels=img_channels, label_dim=label_dim
  )
  options = config.train
  sharding.check_layout(options.sharding)
  sharding.check_batch(
    options.batch,
    mesh,
    micro_batches=options.micro_batches or 1,
    pl_batch_shrink=options.pl_batch_shrink if options.pl_weight else 1,
  )
  return make_trainer(config), reasons


def settle_micro_batches(
  config: Config, trainer: trainer_lib.Trainer, mesh: Mesh
) -> tuple[trainer_lib.Trainer, list[str]]:
  """Chooses the largest micro-batches that fit, if configured to.

  Args:
    config: The configuration; `train.micro_batches` is set in place if it is 0.
    trainer: The trainer that `prepare` returned for it.
    mesh: The devices.

  Returns:
    The trainer with these micro-batches, and the reason for the choice, if any.

  Raises:
    ValueError: If none fit into the memory of the devices.
  """
  if config.train.micro_batches:
    return trainer, []
  memory = memory_estimate.device_memory(mesh)
  if memory is None:
    count, reason = 1, 'this device does not report its memory'
  else:
    chosen = memory_estimate.fit(trainer, mesh, config.train.batch, memory)
    count = chosen.micro_batches
    reason = f'takes {chosen.peak / 2**30:.2f} of {memory / 2**30:.2f} GiB'
  config.train.micro_batches = count
  recipe = dataclasses.replace(trainer.recipe, micro_batches=count)
  return dataclasses.replace(trainer, recipe=recipe), [
    f'train.micro_batches = {count}: {reason}'
  ]


def make_trainer(config: Config) -> trainer_lib.Trainer:
  """Returns the networks and recipe of a resolved configuration.

  Raises:
    ValueError: If the networks are impossible.
  """
  options = config.train
  generator = factory.make_generator(config.model.to_dict())
  discriminator = factory.make_discriminator(config.model.to_dict())
  return trainer_lib.Trainer(
    generator=generator,
    discriminator=discriminator,
    recipe=phases.Recipe(
      r1_gamma=options.r1_gamma,
      r1_interval=options.r1_interval,
      ema_kimg=options.ema_kimg,
      ema_rampup=options.ema_rampup,
      blur_init_sigma=options.blur_init_sigma,
      blur_fade_kimg=options.blur_fade_kimg or 0.0,
      style_mixing_prob=options.style_mixing_prob,
      pl_weight=options.pl_weight,
      pl_interval=options.pl_interval,
      pl_batch_shrink=options.pl_batch_shrink,
      pl_decay=options.pl_decay,
      augmentation=make_augmentation(options.augment),
      micro_batches=max(options.micro_batches, 1),
    ),
    g_lr=options.g_lr,
    d_lr=options.d_lr,
    layout=options.sharding,
    frozen=freeze.make_frozen(
      generator,
      discriminator,
      # The command line parses `mapping,synthesis` as a tuple of one name.
      generator_parts=[
        part for names in options.freeze_g for part in names.split(',')
      ],
      discriminator_layers=options.freeze_d,
    ),
  )


def make_augmentation(options: Config) -> ada.Augmentation | None:
  """Returns the augmentation of `config.train.augment`, None if it is off."""
  if options.mode == 'none':
    return None
  return ada.Augmentation(
    ops=augment.get_ops(options.pipeline),
    fixed_p=options.p if options.mode == 'fixed' else None,
    target=options.target,
    speed_kimg=options.speed_kimg,
    interval=options.interval,
  )
