"""What is known of a point without training it, in seconds."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sg3jax.eval.metrics import equivariance
from sg3jax.nets import abstract, layer_tables
from sg3jax.nets import generator as generator_lib
from sg3jax.train import config as config_lib
from sg3jax.train import loop
from sg3jax.types import Array, Config, Variables

# Standard deviation of trained pictures, of the range [-1, 1], near enough.
_CONTRAST = 0.5
_GROUP = 4  # Images that share a transform, as in the paper.

Figures = dict[str, float | int | None]


def check(config: Config) -> None:
  """Raises what is wrong with a point, without computing anything.

  Raises:
    ValueError: If a value is out of its range, or the networks are impossible.
  """
  trainer = _make_trainer(config)
  abstract.shapes(trainer.generator)
  abstract.shapes(trainer.discriminator, config.train.batch)


def analyse(
  config: Config,
  *,
  metrics: Sequence[str] = tuple(equivariance.METRICS),
  samples: int = 16,
) -> Figures:
  """Returns the figures of a new, untrained generator by name.

  Parameters of G and D; the least attenuation in dB of all layers and of the
  non-critical ones; 10^9 operations of drawing an image, and MiB of drawing
  four at once, as the compiler counts them; and equivariance in dB, of
  generators that take transforms. New generators draw with little contrast:
  their figures are given at that of trained ones, a standard deviation of 0.5.

  Args:
    config: The configuration.
    metrics: Of eqt, eqt_frac and eqr.
    samples: Images that each takes.

  Raises:
    ValueError: If the configuration is impossible.
  """
  trainer = _make_trainer(config)
  generator = trainer.generator
  shapes = abstract.shapes(generator)
  d_shapes = abstract.shapes(trainer.discriminator, config.train.batch)
  worst, worst_lowered = layer_tables.worst_attenuations(generator.spec)
  figures: Figures = {
    'g_parameters': abstract.count(shapes['params']),
    'd_parameters': abstract.count(d_shapes['params']),
    'attenuation_db': worst,
    'noncritical_db': worst_lowered,
  }
  program = _Program(generator, shapes, config.seed)
  figures |= program.cost()
  if metrics and generator.spec.takes_transforms:
    figures |= program.equivariance(metrics, samples)
  return figures


def _make_trainer(config: Config) -> Any:
  config = config.copy_and_resolve_references()
  model = config.model
  config_lib.resolve(
    config,
    img_channels=3 if model.img_channels is None else model.img_channels,
    label_dim=model.label_dim or 0,
  )
  return loop.make_trainer(config)


class _Program:
  """A new generator that draws four images at a time, compiled once.

  `EquivarianceEvaluator` would compile the network once more, which is most of
  the time; the protocol is the same.

  Args:
    generator: The generator; it draws in float32 throughout.
    shapes: Of its variables.
    seed: Of weights, latents and transforms.
  """

  def __init__(
    self, generator: generator_lib.Generator, shapes: Variables, seed: int
  ):
    # The figures are of the design, not of its rounding.
    self._generator = generator.clone(low_precision_dtype=None)
    self._seed = seed
    draw = jax.jit(
      lambda variables, z, c, transforms: self._generator.apply(
        variables, z, c, transform=transforms
      )
    )
    self._compiled = draw.lower(shapes, *self._inputs(0)).compile()

  def cost(self) -> Figures:
    """Returns what drawing takes, as far as the compiler tells."""
    memory, cost = (
      self._compiled.memory_analysis(),
      self._compiled.cost_analysis(),
    )
    size = memory and (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
    )
    flops = cost.get('flops') if cost else None
    return {
      'forward_gflop': flops / _GROUP / 1e9 if flops else None,
      'forward_mib': size / 2**20 if size else None,
    }

  def equivariance(self, metrics: Sequence[str], samples: int) -> Figures:
    """Returns the metrics in dB, at the contrast of trained pictures."""
    z, c, eye = self._inputs(0)
    args = (z,) if c is None else (z, c)
    variables = jax.jit(self._generator.init)(jax.random.key(self._seed), *args)
    errors: dict[str, list[equivariance.Errors]] = {m: [] for m in metrics}
    images = []
    for group in range(math.ceil(samples / _GROUP)):
      z, c, _ = self._inputs(group)
      original = self._compiled(variables, z, c, eye)
      images.append(np.asarray(original))
      for i, name in enumerate(metrics):
        metric = equivariance.METRICS[name]
        numbers = (self._seed, group, i)
        parameter, inverse = _draw(metric, numbers, original.shape[1:3])
        moved = self._compiled(
          variables, z, c, np.tile(inverse, (_GROUP, 1, 1))
        )
        compare = jax.jit(metric.compare)
        errors[name].append(compare(original, moved, parameter))
    # The errors grow with the contrast: no picture need be drawn twice.
    gain = 20 * math.log10(_CONTRAST / max(float(np.std(images)), 1e-12))
    figures: Figures = {}
    for name, found in errors.items():
      squares, counts = (
        np.concatenate([np.asarray(pair[i]) for pair in found])[:samples]
        for i in range(2)
      )
      value = equivariance.psnr(squares, counts) - gain
      # Not by the names of the protocol, which promise 50,000 samples.
      figures[f'{name}_db'] = value if math.isfinite(value) else None
    return figures

  def _inputs(
    self, group: int
  ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Returns the latents and labels of a group, and the unit transforms."""
    rng = np.random.RandomState((self._seed, group))
    generator = self._generator
    z = rng.randn(_GROUP, generator.z_dim).astype(np.float32)
    c = eye = None
    if generator.label_dim:
      labels = np.eye(generator.label_dim, dtype=np.float32)
      c = labels[rng.randint(len(labels), size=_GROUP)]
    if generator.spec.takes_transforms:
      eye = np.tile(np.eye(3, dtype=np.float32), (_GROUP, 1, 1))
    return z, c, eye


@functools.partial(jax.jit, static_argnums=(0, 2))
def _draw(
  metric: equivariance.Metric,
  numbers: tuple[Any, Any, Any],
  size: tuple[int, int],
) -> tuple[Array, Array]:
  """Returns the parameter of a random transform, and its inverse matrix."""
  key = jax.random.key(0)
  for number in numbers:
    key = jax.random.fold_in(key, number)
  parameter = metric.draw(key, size)
  return parameter, metric.inverse_transform(parameter, size)
