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

  `resolve` settles fields that are `None` here, from the data or from other
  fields. Setting a field that does not exist is an error.
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
  # A folder, a zip file, embedded[:COUNT], emoji[:COUNT], gs://BUCKET/PATH or
  # tfds:NAME[:SPLIT][@DATA_DIR].
  data.source = config_dict.placeholder(str)
  data.mirror = False  # Also show every image flipped left to right.
  data.cond = False  # Train on the labels.
  data.max_images = config_dict.placeholder(int)
  data.workers = 2  # Threads that read and decode images.
  # Processes with such threads each; 0 reads in the process that trains.
  data.processes = 0
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
  # Type of the four highest octaves: bf16 or fp16; or fp32 throughout.
  model.precision = 'fp32'
  # Bound of the feature maps; None to clamp only 16-bit maps, at 256.
  model.conv_clamp = config_dict.placeholder(float)
  model.output_scale = 0.25  # Scale of the alias-free ToRGB's images.
  model.filtered_lrelu_implementation = config_dict.placeholder(str)
  model.remat = False  # Recompute layers in gradients: slower, less memory.
  # The designs of the two generators; only the chosen one's is used.
  model.synthesis = _defaults(spec_lib.SynthesisSpec)
  model.stylegan2 = _defaults(stylegan2.StyleGAN2Spec)
  model.discriminator = ml_collections.ConfigDict()
  discriminator = model.discriminator
  discriminator.channel_base, discriminator.channel_max = 32768, 512
  discriminator.mbstd_group = 4  # Images in a minibatch statistics group.
  discriminator.mapping_layers = 8  # Layers of the label mapping.
  discriminator.conv_clamp = config_dict.placeholder(float)  # As for G.
  return model


def _train() -> Config:
  """Returns the fields of training."""
  train: Config = ml_collections.ConfigDict()
  train.batch = 32  # Images per step, over all devices.
  # Parts of a batch computed in turn to save memory; 0 for as many as needed.
  train.micro_batches = 1
  # Where the state is stored: replicated on every device, or fsdp, in parts.
  train.sharding = 'replicated'
  train.total_kimg = 25_000.0  # Total real images shown, in thousands.
  # End before that if log.keep_best has not improved for so many thousands.
  train.plateau_kimg = config_dict.placeholder(float)
  train.g_lr = 0.0025
  train.d_lr = 0.002
  train.r1_gamma = config_dict.placeholder(float)  # By resolution and batch.
  train.r1_interval = 16  # Steps from one R1 phase to the next.
  train.ema_kimg = config_dict.placeholder(float)  # Half-life; batch * 10/32.
  # Bound of the half-life as a fraction of the images shown, 0 for no bound.
  # By default 0.05, or 0 if the run starts from other networks.
  train.ema_rampup = config_dict.placeholder(float)
  train.blur_init_sigma = 0.0  # Pixels; R blurs what D sees at first.
  # By default batch * 200/32, or 0 (no blur) for a run from other networks.
  train.blur_fade_kimg = config_dict.placeholder(float)
  train.style_mixing_prob = 0.0  # Probability per batch; 0.9 in StyleGAN2.
  train.pl_weight = 0.0  # Weight of path lengths; 2 in StyleGAN2.
  train.pl_interval = 4  # Steps from one path length phase to the next.
  train.pl_batch_shrink = 2  # Ratio of the batch to the path length batch.
  train.pl_decay = 0.01  # Weight of a batch in the mean path length.

  # Transfer: a run or checkpoint that provides the initial G, D and G_ema.
  train.init_from = config_dict.placeholder(str)
  train.init_partial = False  # Copy what fits, and initialize the rest.
  train.freeze_d = 0  # Number of frozen convolutions of D, from the image side.
  train.freeze_g = ()  # Frozen parts: mapping, synthesis, embedding.

  # Augmentation of what D sees, for data sets below about 70,000 images.
  train.augment = _augment()
  return train


def _augment() -> Config:
  """Returns the fields of augmentation."""
  augment: Config = ml_collections.ConfigDict()
  augment.mode = 'ada'  # none, fixed, or ada: adapts p to overfitting.
  augment.pipeline = 'bgc'  # blit, geom, color and so on; bg keeps colours.
  augment.p = 0.2  # Probability of each augmentation if mode is fixed.
  augment.target = 0.6  # Mean sign of D(real) that ada maintains.
  # Thousands of images in which ada could raise p from 0 to 1. By default 500,
  # or 100 if the run starts from other networks.
  augment.speed_kimg = config_dict.placeholder(float)
  augment.interval = 4  # Steps from one adaptation to the next.
  return augment


def _log() -> Config:
  """Returns the fields of what a run records."""
  log: Config = ml_collections.ConfigDict()
  log.kimg_per_tick = 4.0  # A tick adds a line to the log and stats.jsonl.
  log.ticks_per_snapshot = 50  # A snapshot: grids, metrics, a checkpoint.
  log.keep_checkpoints = 3  # The newest ones; older ones are deleted.
  # Also keep the best one by swd, eqt50k_int or another value of log.metrics.
  log.keep_best = config_dict.placeholder(str)
  log.grid = (32, 32)  # Maximum columns and rows of image grids.
  # Computed at every snapshot: rfd, swd, eqt and so on; or none.
  log.metrics = _Names(())
  log.metric_samples = 2000  # Images generated for each metric.
  # Computed at snapshots so far apart, and at the end: fid50k_full and so on.
  log.full_metrics = _Names(())
  log.full_metrics_kimg = 1000.0
  log.full_metric_samples = 50_000  # Images generated for each of these.
  log.max_nonfinite_ticks = 3  # Stop after so many ticks in a row.
  log.hang_minutes = 60.0  # Without a step, print the stacks of all threads.
  # Fail if a step copies arrays between host and device unasked, which is slow.
  log.transfer_guard = False
  log.wandb_project = config_dict.placeholder(str)  # Also record to W&B.
  return log


class _Names(config_dict.FieldReference):
  """A tuple of names that also accepts a string, such as `swd`, or None."""

  def set(self, value: Any, type_safe: bool = True) -> None:
    if value is None:
      value = ()
    super().set((value,) if isinstance(value, str) else value, type_safe)


def _defaults(design: type) -> Config:
  """Returns the fields of a design that do not depend on the data."""
  return ml_collections.ConfigDict(
    {
      field.name: field.default
      for field in dataclasses.fields(design)
      if field.name not in ('resolution', 'img_channels')
    }
  )


def take_model(config: Config, model: Mapping[str, Any]) -> None:
  """Copies the networks of another configuration into this one, in place.

  Args:
    config: A configuration with the fields of `default_config`.
    model: The `model` part of another configuration, or of an imported model.
      Channels and labels are left to the data.

  Raises:
    ValueError: If it has an unknown field.
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
