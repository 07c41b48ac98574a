"""Trains a small model on the embedded photographs for a few minutes.

The model is small enough to distribute: 64 pixels, few channels, a checkpoint
below 16 MB. The same command resumes from its folder.
"""

import functools
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from hardware import stages
from sg3jax import launch
from sg3jax.train import config as config_lib
from sg3jax.train import preemption, sharding
from sg3jax.types import Config


def make_config(*, is_tiny: bool) -> Config:
  """Returns the configuration, whose run is limited by time, not by images."""
  config = config_lib.default_config()
  config.data.source = 'embedded:16' if is_tiny else 'embedded:20000'
  config.data.mirror = True
  config.data.workers = 0 if is_tiny else 8
  model = config.model
  model.resolution = 16 if is_tiny else 64
  model.z_dim = model.w_dim = 16 if is_tiny else 128
  synthesis, discriminator = model.synthesis, model.discriminator
  synthesis.num_layers = 4 if is_tiny else 10
  synthesis.channel_base = 128 if is_tiny else 2048
  synthesis.channel_max = 8 if is_tiny else 64
  discriminator.channel_base = 128 if is_tiny else 2048
  discriminator.channel_max = 8 if is_tiny else 64
  train = config.train
  train.batch = 4 if is_tiny else 32
  train.total_kimg = 0.016 if is_tiny else 25_000.0
  train.r1_gamma = 0.2
  train.ema_kimg = 5.0
  config.log.kimg_per_tick = 0.008 if is_tiny else 8.0
  config.log.ticks_per_snapshot = 1 if is_tiny else 10
  config.log.grid = (4, 4) if is_tiny else (12, 8)
  config.log.metrics = () if is_tiny else ('swd', 'eqt')
  config.log.metric_samples = 1024
  return config


def make_tasks(
  folder: pathlib.Path, minutes: float, *, is_tiny: bool
) -> Sequence[stages.Task]:
  """Returns a single task, which trains in `folder/pretrain`."""
  run = functools.partial(_train, folder / 'pretrain', minutes, is_tiny)
  return [stages.Task({'what': 'pretrain'}, lambda: run)]


def _train(
  workdir: pathlib.Path, minutes: float, is_tiny: bool
) -> Mapping[str, Any]:
  config = make_config(is_tiny=is_tiny)
  source = launch.open_source(config)
  stop = preemption.Stop()

  def end() -> None:
    stop.signal = 'the end of its minutes'

  # The last step and the checkpoint run in the stage's grace period.
  timer = threading.Timer(60 * minutes, end)
  timer.start()
  try:
    mesh = sharding.make_mesh(1)
    launch.train(config, workdir, source=source, mesh=mesh, stop=stop)
  finally:
    timer.cancel()
  size = sum(
    path.stat().st_size
    for path in (workdir / 'checkpoints').rglob('*')
    if path.is_file()
  )
  return {'checkpoints MB': size / 1e6, 'stopped': stop.signal or 'done'}
