"""Measures the speed of generating and training with published networks."""

import concurrent.futures
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hardware import stages, timing
from sg3jax.eval.metrics import equivariance
from sg3jax.nets import factory
from sg3jax.train import config as config_lib
from sg3jax.train import memory_estimate, sharding
from sg3jax.train.step import build
from sg3jax.train.step import trainer as trainer_lib
from sg3jax.types import Array, Config, Variables


@dataclasses.dataclass(frozen=True)
class Network:
  """A published configuration with the options of a measurement.

  Attributes:
    design: 't' or 'r'.
    resolution: Width and height of the images in pixels.
    batch: Number of images per batch.
    implementation: Implementation of filtered_lrelu; None for the device's
      default.
    precision: Precision of the highest octaves: fp32, bf16 or fp16.
    micro_batches: Number of micro-batches of a training batch.
  """

  design: str
  resolution: int
  batch: int
  implementation: str | None = None
  precision: str = 'bf16'
  micro_batches: int = 1

  @property
  def columns(self) -> dict[str, Any]:
    """The cells of the network's row in a table."""
    return {
      'design': f'{self.design}-{self.resolution}',
      'implementation': self.implementation or 'default',
      'precision': self.precision,
      'batch': self.batch,
    }

  def config(self, **overrides: Any) -> Config:
    """Returns the full configuration, resolved for RGB without labels."""
    config = config_lib.default_config()
    config.model.resolution = self.resolution
    config.model.precision = self.precision
    config.model.filtered_lrelu_implementation = self.implementation
    if self.design == 'r':
      config.model.synthesis.conv_kernel = 1
      config.model.synthesis.radial_filters = True
      config.model.synthesis.channel_base *= 2
      config.model.synthesis.channel_max *= 2
      config.train.blur_init_sigma = 10.0
    config.train.batch = self.batch
    config.train.micro_batches = self.micro_batches
    config.update_from_flattened_dict(overrides)
    config_lib.resolve(config, img_channels=3, label_dim=0)
    return config


def train_tasks(
  networks: Sequence[Network], **overrides: Any
) -> list[stages.Task]:
  """Returns a task per network: seconds per kimg, memory, compilation time."""
  return [
    stages.Task(
      network.columns | {'micro-batches': network.micro_batches},
      functools.partial(_prepare_train, network, overrides),
    )
    for network in networks
  ]


def _prepare_train(
  network: Network, overrides: Mapping[str, Any]
) -> stages.Measure:
  config = network.config(**overrides)
  trainer = build.make_trainer(config)
  mesh = sharding.make_mesh(1)
  start = time.perf_counter()
  lowered, _, images = memory_estimate.lower_step(trainer, mesh, network.batch)
  shape = images['image'].shape
  with jax.set_mesh(mesh):
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = trainer_lib.jit_init(trainer, mesh).lower(key)
  lowered_at = time.perf_counter()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    compiled_init = pool.submit(init.compile)
    step = lowered.compile()
    compiled_at = time.perf_counter()
  make_state = compiled_init.result()

  def measure() -> Mapping[str, Any]:
    state = make_state(jax.random.key(0))
    return {
      **_time_steps(trainer, mesh, step, state, shape),
      **_memory(step, network.batch),
      'lower s': lowered_at - start,
      'compile s': compiled_at - lowered_at,
    }

  return measure


def _time_steps(
  trainer: trainer_lib.Trainer,
  mesh: Any,
  step: Any,
  state: Any,
  shape: tuple[int, ...],
) -> dict[str, float]:
  """Times three intervals of R1 after one to warm up."""
  key = jax.random.key(0)
  images = np.random.RandomState(0).randint(0, 256, shape, np.uint8)
  batch = sharding.shard_batch({'image': images}, mesh)
  interval = trainer.recipe.r1_interval
  times, moments = [], None
  for _ in range(4):
    jax.block_until_ready(state)
    start = time.perf_counter()
    for _ in range(interval):
      state, moments = step(state, batch, key)
    jax.block_until_ready(state)
    times.append(time.perf_counter() - start)
  assert moments is not None
  losses = {
    name: float(moments[name][1] / moments[name][0])
    for name in ('Loss/G/loss', 'Loss/D/loss')
  }
  if not all(map(math.isfinite, losses.values())):
    raise FloatingPointError(f'the losses must be finite, got {losses}')
  per_kimg = [1000 * t / interval / shape[0] for t in times[1:]]
  return {
    's/kimg': statistics.median(per_kimg),
    'spread': max(per_kimg) - min(per_kimg),
    **losses,
  }


def _memory(compiled: Any, batch: int) -> dict[str, float]:
  analysis = compiled.memory_analysis()
  total = memory_estimate.program_bytes(compiled)
  assert total is not None
  return {
    'GiB': total / 2**30,
    'temporary GiB': analysis.temp_size_in_bytes / 2**30,
    'GiB an image': analysis.temp_size_in_bytes / 2**30 / batch,
  }


def generate_tasks(
  networks: Sequence[Network], **overrides: Any
) -> list[stages.Task]:
  """Returns a task per network: images/s, memory, compilation time."""
  return [
    stages.Task(
      network.columns, functools.partial(_prepare_generate, network, overrides)
    )
    for network in networks
  ]


def _prepare_generate(
  network: Network, overrides: Mapping[str, Any]
) -> stages.Measure:
  config = network.config(**overrides)
  generator = factory.make_generator(config.model.to_dict())
  z = jax.ShapeDtypeStruct((network.batch, generator.z_dim), jnp.float32)
  key = jax.random.key(0)
  structures = jax.eval_shape(lambda: dict(generator.lazy_init(key, z, None)))
  start = time.perf_counter()
  apply = jax.jit(generator.apply).lower(structures, z).compile()
  seconds = time.perf_counter() - start

  def measure() -> Mapping[str, Any]:
    variables = jax.jit(lambda: dict(generator.lazy_init(key, z, None)))()
    latents = [
      (variables, jax.random.normal(jax.random.key(i), z.shape))
      for i in range(2)
    ]
    if not bool(jnp.isfinite(apply(*latents[0])).all()):
      raise FloatingPointError('the images must be finite, got inf or NaN')
    ms, _ = timing.milliseconds(apply, latents, seconds=0.5, repeats=3)
    return {
      'images/s': 1e3 * network.batch / ms,
      **_memory(apply, network.batch),
      'compile s': seconds,
    }

  return measure


def equivariance_tasks(
  networks: Sequence[Network], samples: int, **overrides: Any
) -> list[stages.Task]:
  """Returns a task per network: EQ-T and EQ-R of random weights, and images/s.

  Metrics are measured in the precision of the network.
  """
  return [
    stages.Task(
      network.columns | {'what': 'eqt, eqr'},
      functools.partial(
        lambda network: functools.partial(
          _measure_equivariance, network, samples, overrides
        ),
        network,
      ),
    )
    for network in networks
  ]


def _measure_equivariance(
  network: Network, samples: int, overrides: Mapping[str, Any]
) -> Mapping[str, Any]:
  config = network.config(**overrides)
  generator = factory.make_generator(config.model.to_dict())
  z = jnp.zeros((1, generator.z_dim))
  variables = jax.jit(
    lambda: dict(generator.lazy_init(jax.random.key(0), z, None))
  )()

  def sample_ws(variables: Variables, key: Array, n: int) -> Any:
    z = jax.random.normal(key, (n, generator.z_dim))
    return generator.apply(variables, z, method='mapping')

  @jax.jit
  def synthesize(variables: Variables, ws: Array, transforms: Array) -> Any:
    return generator.apply(variables, ws, transforms, method='synthesis')

  evaluator = equivariance.EquivarianceEvaluator(
    synthesize,
    sample_ws,
    batch_size=network.batch,
    metrics=('eqt', 'eqr'),
    num_samples=samples,
  )
  start = time.perf_counter()
  evaluator(variables)
  middle = time.perf_counter()
  values = evaluator(variables)
  seconds = time.perf_counter() - middle
  return {
    **values,
    'images/s': samples / seconds,
    'compile s': middle - start - seconds,
  }
