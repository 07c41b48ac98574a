"""Defines the programs that `compare_revisions.py` times, and its worker.

All revisions under comparison run this same file with their own `sg3jax`, so
cases may only use functions that all of them have. If a revision cannot build a
case, the error is reported and the other cases continue.

The worker reads one request per line, `["METHOD", ARGUMENT ...]` in JSON, and
answers each with one line, `{"result": ...}` or `{"error": "..."}`.
"""

import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sg3jax
from sg3jax.nets import factory
from sg3jax.nets import spec as spec_lib
from sg3jax.ops import conv, filtered_lrelu
from sg3jax.train import config as config_lib
from sg3jax.train import sharding
from sg3jax.types import Config

try:
  from sg3jax.train.step import build
  from sg3jax.train.step import trainer as trainer_lib
except ModuleNotFoundError:  # Revisions before `train/step`.
  build = importlib.import_module('sg3jax.train.loop')
  trainer_lib = importlib.import_module('sg3jax.train.steps')


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled program and the calls of it that are timed.

  Attributes:
    lower: Traces and lowers the program.
    calls: Pairs of a weight and a call of the compiled program. The call
      returns the arrays to wait for; the weights are those of the mean time and
      sum to 1.
  """

  lower: Callable[[], jax.stages.Lowered]
  calls: Sequence[tuple[float, Callable[[jax.stages.Compiled], Any]]]


@dataclasses.dataclass(frozen=True)
class Network:
  """A network small enough for a CPU, of config T or R, and its batch."""

  design: str
  resolution: int
  channel_base: int
  channel_max: int
  batch: int

  @property
  def name(self) -> str:
    """The network's part of the names of its cases."""
    return f'{self.design}{self.resolution}'

  def config(self) -> Config:
    """Returns the configuration of a run without augmentations."""
    config = config_lib.default_config()
    model = config.model
    model.resolution = self.resolution
    for fields in (model.synthesis, model.discriminator):
      fields.channel_base = self.channel_base
      fields.channel_max = self.channel_max
    if self.design == 'r':
      model.synthesis.conv_kernel = 1
      model.synthesis.radial_filters = True
    config.train.batch = self.batch
    config.train.augment.mode = 'none'
    config_lib.resolve(config, img_channels=3, label_dim=0)
    return config

  def layers(self) -> Iterable[spec_lib.LayerSpec]:
    """Returns one layer of each kind, except for ToRGB."""
    spec = factory.make_spec(self.config().model.to_dict())
    assert isinstance(spec, spec_lib.SynthesisSpec)
    kinds = {}
    for layer in spec.layers:
      if not layer.is_torgb:
        channels = (layer.in_channels, layer.out_channels)
        kind = (*channels, layer.padded_size, layer.up_factor, layer.out_size)
        kinds.setdefault(kind, layer)
    return kinds.values()


TINY = Network('t', 16, channel_base=64, channel_max=8, batch=4)
T32 = Network('t', 32, channel_base=1024, channel_max=64, batch=8)
T64 = Network('t', 64, channel_base=2048, channel_max=128, batch=4)
R32 = Network('r', 32, channel_base=2048, channel_max=128, batch=8)


def make_cases() -> dict[str, Callable[[], Program]]:
  """Returns a function that makes the program of each case, by name."""
  cases = {}
  for network in (TINY, T32, T64):
    for layer in network.layers():
      size, channels = layer.in_size, layer.in_channels
      name = f'{size}x{size}x{channels}-{layer.out_channels}'
      cases[f'conv_kernel_gradient_{network.name}/{name}'] = functools.partial(
        kernel_gradient, layer, network.batch
      )
  for size, i, o in ((33, 32, 64), (17, 64, 64)):  # D of T32.
    cases[f'conv_kernel_gradient_stride2/{size}x{size}x{i}-{o}'] = (
      functools.partial(strided_kernel_gradient, T32.batch, size, i, o)
    )
  for layer in R32.layers():
    size = layer.padded_size
    name = f'{size}x{size}x{layer.out_channels}-up{layer.up_factor}'
    for direction in ('forward', 'gradient'):
      cases[f'r_nonlinearity_{R32.name}/{name}/{direction}'] = (
        functools.partial(nonlinearity, layer, R32.batch, direction)
      )
  for network in (TINY, T32, T64, R32):
    cases[f'generator_{network.name}'] = functools.partial(generator, network)
    cases[f'train_step_{network.name}'] = functools.partial(
      train_step, network.config
    )
  cases['train_step_quickstart'] = functools.partial(
    train_step, quickstart_config
  )
  return cases


def kernel_gradient(layer: spec_lib.LayerSpec, batch: int) -> Program:
  """Returns the kernel gradient of a layer's convolution."""
  k, i, o = layer.conv_kernel, layer.in_channels, layer.out_channels
  x = _normal(batch, layer.in_size, layer.in_size, i)
  g = _normal(batch, layer.padded_size, layer.padded_size, o)

  def gradient(x, w, g):
    return jax.vjp(lambda w: conv.conv2d(x, w, padding=k - 1), w)[1](g)

  return _function(gradient, x, _normal(k, k, i, o), g)


def strided_kernel_gradient(n: int, size: int, i: int, o: int) -> Program:
  """Returns the kernel gradient of a 3x3 convolution with stride 2."""

  def gradient(x, w, g):
    return jax.vjp(lambda w: conv.conv2d(x, w, stride=2), w)[1](g)

  x, out_size = _normal(n, size, size, i), (size - 3) // 2 + 1
  return _function(
    gradient, x, _normal(3, 3, i, o), _normal(n, out_size, out_size, o)
  )


def nonlinearity(
  layer: spec_lib.LayerSpec, batch: int, direction: str
) -> Program:
  """Returns a layer's `filtered_lrelu`, or its value and gradients."""
  size, channels = layer.padded_size, layer.out_channels

  def forward(x, b):
    return filtered_lrelu(x, b=b, **layer.nonlinearity())

  def gradient(x, b):
    y, pull = jax.vjp(forward, x, b)
    return y, pull(y)

  function = {'forward': forward, 'gradient': gradient}[direction]
  return _function(
    function, _normal(batch, size, size, channels), _normal(channels)
  )


def generator(network: Network) -> Program:
  """Returns a generator's images of latents."""
  net = factory.make_generator(network.config().model.to_dict())
  z = _normal(network.batch, net.z_dim)
  variables = jax.jit(net.init)(jax.random.key(0), z)
  return _function(net.apply, variables, z)


def train_step(make_config: Callable[[], Config]) -> Program:
  """Returns a training step, with and without R1, weighted by frequency."""
  config = make_config()
  trainer = build.make_trainer(config)
  mesh = sharding.make_mesh(1)
  step = trainer_lib.jit_step(trainer, mesh)
  key = jax.random.key(0)
  # Each call donates the state, and stores the next state here.
  states = [trainer_lib.jit_init(trainer, mesh)(key)]
  shape = (config.train.batch, *trainer.generator.spec.image_shape)
  images = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
  batch = sharding.shard_batch({'image': images}, mesh)

  def lower() -> jax.stages.Lowered:
    with jax.set_mesh(mesh):
      return step.lower(states[0], batch, key)

  def call(number: int, compiled: jax.stages.Compiled):
    state = states.pop()
    number = jax.device_put(jnp.int32(number), state.step.sharding)
    state, moments = compiled(state.replace(step=number), batch, key)
    states.append(state)
    return state, moments

  interval = trainer.recipe.r1_interval
  lazy, plain = (functools.partial(call, number) for number in (0, 1))
  return Program(lower, [(1 - 1 / interval, plain), (1 / interval, lazy)])


def quickstart_config() -> Config:
  """Returns the revision's own configuration of the quickstart."""
  package = pathlib.Path(sg3jax.__file__).parent
  path = package.parent / 'configs' / 'quickstart.py'
  spec = importlib.util.spec_from_file_location('quickstart', path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config_lib.resolve(config, img_channels=3, label_dim=0)
  return config


def _function(function: Callable, *args: Any) -> Program:
  jitted = jax.jit(function)
  args = jax.device_put(args)
  return Program(
    lambda: jitted.lower(*args), [(1.0, lambda compiled: compiled(*args))]
  )


def _normal(*shape: int) -> jax.Array:
  return jnp.asarray(np.random.RandomState(0).randn(*shape), jnp.float32)


class Worker:
  """Times cases, one at a time, in this process."""

  def __init__(self):
    self._cases = make_cases()
    self._program: Program | None = None
    self._compiled: jax.stages.Compiled | None = None
    # Start the device and the compiler now, so that no case includes that.
    jax.block_until_ready(jax.jit(jnp.sin)(jnp.ones(8)))

  def describe(self) -> dict[str, str]:
    """Returns the location of `sg3jax`, the device and the versions."""
    return {
      'package': str(pathlib.Path(sg3jax.__file__).parent),
      'device': f'{jax.devices()[0].device_kind}, {os.cpu_count()} CPUs',
      'versions': f'Python {sys.version.split()[0]}, JAX {jax.__version__}',
    }

  def names(self) -> list[str]:
    """Returns the names of all cases."""
    return list(self._cases)

  def load(self, name: str) -> None:
    """Builds a case, and drops the previous one."""
    self._program = self._compiled = None
    self._program = self._cases[name]()

  def compile(self) -> float:
    """Compiles the case without caches; returns the seconds, with tracing."""
    assert self._program is not None
    jax.clear_caches()
    start = time.perf_counter()
    self._compiled = self._program.lower().compile()
    return time.perf_counter() - start

  def time(self, repeats: int) -> float:
    """Returns the mean duration of a call in seconds."""
    assert self._program is not None
    assert self._compiled is not None
    mean = 0.0
    for weight, call in self._program.calls:
      start = time.perf_counter()
      for _ in range(repeats):
        jax.block_until_ready(call(self._compiled))
      mean += weight * (time.perf_counter() - start) / repeats
    return mean


def main() -> None:
  """Answers requests until the input ends."""
  # Send anything that libraries print to standard error.
  answers, sys.stdout = sys.stdout, sys.stderr
  worker = Worker()
  for line in sys.stdin:
    method, *arguments = json.loads(line)
    try:
      answer = {'result': getattr(worker, method)(*arguments)}
    except Exception as error:
      answer = {'error': f'{type(error).__name__}: {error}'}
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  main()
