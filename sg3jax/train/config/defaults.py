"""The configuration of a run: every field, its default and its unit."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from sg3jax.nets import spec as spec_lib
from sg3jax.nets import stylegan2
from sg3jax.types import Config


def default_config() -> Config:
  """Returns the defaults of all runs: StyleGAN3-T at 256 pixels.

  Fields that are `None` here are settled by `resolve`, from the data or from
  other fields. There are no others: to set one that is misspelt is an error.
  """
  config: Config = ml_collections.ConfigDict()
  config.seed = 0  # Random seed for initial weights, latents and data order.
  config.data = _data()
  config.model = _model()
  config.train = _train()
  config.log = _log()
  return config.lock()


def _data() -> Config:
  """Returns the fields of the training images."""
  data: Config = ml_collections.ConfigDict()
  # A folder, a zip file, embedded[:COUNT] or tfds:NAME[:SPLIT][@DATA_DIR].
  data.source = config_dict.placeholder(str)
  data.mirror = False  # Also show every image flipped left to right.
  data.cond = False  # Train on the labels.
  data.max_images = config_dict.placeholder(int)
  data.workers = 2  # Threads that read and decode images.
  return data


def _model() -> Config:
  """Returns the fields of the networks."""
  model: Config = ml_collections.ConfigDict()
  model.generator = 'stylegan3'  # Or stylegan2.
  model.resolution = 256
  model.img_channels = config_dict.placeholder(int)  # From the data.
  model.label_dim = config_dict.placeholder(int)  # From the data.
  model.z_dim = 512
  model.w_dim = 512
  model.mapping_layers = 2
  # fp32, or the type of the four highest octaves: bf16 or fp16.
  model.precision = 'fp32'
  # Bound of the feature maps; without one, 256 where they are of 16 bits.
  model.conv_clamp = config_dict.placeholder(float)
  model.output_scale = 0.25  # Factor of the images of an alias-free ToRGB.
  model.filtered_lrelu_implementation = config_dict.placeholder(str)
  model.remat = False  # Gradients compute layers again: slower, less memory.
  # The designs of the two generators; that of the other one is not used.
  model.synthesis = _defaults(spec_lib.SynthesisSpec)
  model.stylegan2 = _defaults(stylegan2.StyleGAN2Spec)
  model.discriminator = ml_collections.ConfigDict()
  discriminator = model.discriminator
  discriminator.channel_base, discriminator.channel_max = 32768, 512
  discriminator.mbstd_group = 4  # Images that are compared with each other.
  discriminator.mapping_layers = 8  # Layers that map labels.
  discriminator.conv_clamp = config_dict.placeholder(float)  # As that of G.
  return model


def _train() -> Config:
  """Returns the fields of training."""
  train: Config = ml_collections.ConfigDict()
  train.batch = 32  # Images a step, over all devices.
  # Parts that a batch is computed in, to save memory; 0: as many as it takes.
  train.micro_batches = 1
  train.total_kimg = 25_000.0  # Thousands of real images shown, in all.
  train.g_lr = 0.0025
  train.d_lr = 0.002
  train.r1_gamma = config_dict.placeholder(float)  # By resolution and batch.
  train.r1_interval = 16  # Steps from one R1 phase to the next.
  train.ema_kimg = config_dict.placeholder(float)  # Half-life; batch * 10/32.
  # Half-life as a part of the images shown, 0 for no bound; 0.05, or 0 if the
  # run starts from other networks.
  train.ema_rampup = config_dict.placeholder(float)
  train.blur_init_sigma = 0.0  # Pixels; R blurs what D sees at first.
  # batch * 200/32, or 0, for no blur, if the run starts from other networks.
  train.blur_fade_kimg = config_dict.placeholder(float)
  train.style_mixing_prob = 0.0  # StyleGAN2 mixes the styles of 0.9 of batches.
  train.pl_weight = 0.0  # Weight of path lengths; StyleGAN2 has 2.
  train.pl_interval = 4  # Steps from one path length phase to the next.
  train.pl_batch_shrink = 2  # How many times smaller its batch is.
  train.pl_decay = 0.01  # Weight of a batch in the mean path length.

  # Transfer: a run or checkpoint to take G, D and G_ema from, at the start.
  train.init_from = config_dict.placeholder(str)
  train.init_partial = False  # Take what fits, and leave the rest as it is new.
  train.freeze_d = 0  # Convolutions of D that stay, from the image: 10, say.
  train.freeze_g = ()  # Parts that stay: mapping, synthesis, embedding.

  # Augmentation of what D sees, for data sets of less than some 70,000 images.
  train.augment = _augment()
  return train


def _augment() -> Config:
  """Returns the fields of augmentation."""
  augment: Config = ml_collections.ConfigDict()
  augment.mode = 'ada'  # none, fixed, or ada: as much as the data call for.
  augment.pipeline = 'bgc'  # blit, geom, color and so on; bg keeps colours.
  augment.p = 0.2  # Probability of each augmentation, where it is fixed.
  augment.target = 0.6  # Mean sign of D(real) that ada keeps.
  # Thousands of images in which ada could take p from 0 to 1: 500, or 100 if
  # the run starts from other networks.
  augment.speed_kimg = config_dict.placeholder(float)
  augment.interval = 4  # Steps from one adaptation to the next.
  return augment


def _log() -> Config:
  """Returns the fields of what a run records."""
  log: Config = ml_collections.ConfigDict()
  log.kimg_per_tick = 4.0  # A line in the log and in stats.jsonl.
  log.ticks_per_snapshot = 50  # Pictures, metrics and a checkpoint.
  log.keep_checkpoints = 3  # The newest ones; older ones are deleted.
  # Keep the best one too: by swd, eqt50k_int or another value of log.metrics.
  log.keep_best = config_dict.placeholder(str)
  log.grid = (32, 32)  # Columns and rows of picture grids, at most.
  # At every snapshot: swd, eqt, eqt_frac, eqr; or none.
  log.metrics = _Names(())
  log.metric_samples = 2000  # Images that a metric generates.
  log.max_nonfinite_ticks = 3  # In a row, of a loss; the run stops then.
  log.wandb_project = config_dict.placeholder(str)  # Also record it there.
  return log


class _Names(config_dict.FieldReference):
  """A tuple of names that may also be set to a text, `swd,eqt`, or to None."""

  def set(self, value: Any, type_safe: bool = True) -> None:
    if value is None:
      value = ()
    super().set((value,) if isinstance(value, str) else value, type_safe)


def _defaults(design: type) -> Config:
  """Returns the fields of a design that the data do not settle."""
  return ml_collections.ConfigDict(
    {
      field.name: field.default
      for field in dataclasses.fields(design)
      if field.name not in ('resolution', 'img_channels')
    }
  )


def take_model(config: Config, model: Mapping[str, Any]) -> None:
  """Gives a configuration the networks of another, in place.

  Args:
    config: A configuration with the fields of `default_config`.
    model: The `model` part of another one, or of an imported model. Channels
      and labels are left to the data.

  Raises:
    ValueError: If it has a field that there is not here.
  """
  fields = dict(model)
  for name in ('img_channels', 'label_dim'):
    fields.pop(name, None)
  try:
    config.model.update(fields)
  except (AttributeError, KeyError) as error:
    raise ValueError(
      f'the model to start from has a field that this sg3jax lacks: {error}'
    ) from error
