"""Measures how long programs take to compile, also for machines not at hand.

  python scripts/bench_compile.py --designs=t:256,r:256 --targets=cpu,h100:1

A row has the seconds that Python takes to trace and lower a program and that
the compiler takes, by the clock and of processors. Processor time depends less
on what else the machine does. The programs are

  step      A training step, with R1 in its turn.
  generate  The synthesis network.
  eqt, eqr  What EQ-T and EQ-R add to it: transforms and the comparison.

The published designs are compiled in the precision of their configurations.
Compilers for other machines: `pip install 'sg3jax[compile]'`.
"""

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from absl import app, flags, logging
from jax.sharding import Mesh

from sg3jax import launch
from sg3jax.eval import transforms as transforms_lib
from sg3jax.train import config as config_lib
from sg3jax.train import memory_estimate, sharding
from sg3jax.train.planning import plan, topologies
from sg3jax.train.step import build

_DESIGNS = flags.DEFINE_list('designs', ['t:256', 'r:256'], 'Designs, as T:N.')
_TARGETS = flags.DEFINE_list(
  'targets', ['cpu'], '`cpu`, or topologies with one device, as v5e:1x1.'
)
_PROGRAMS = flags.DEFINE_list(
  'programs', ['step', 'generate', 'eqt', 'eqr'], 'Programs.'
)
_BATCH = flags.DEFINE_integer('batch', 8, 'Images in a batch.')

_GROUP = 4  # Images that share a transform.
_COLUMNS = ('design', 'target', 'program', 'trace', 'of CPUs', 'compile',
            'of CPUs')  # fmt: skip

Lower = Callable[[], jax.stages.Lowered]


def _mesh(target: str) -> Mesh:
  if target == 'cpu':
    return sharding.make_mesh(1)
  return topologies.mesh(topologies.parse(target))


def _programs(design: str, mesh: Mesh, batch: int) -> dict[str, Lower]:
  """Returns functions that lower the programs of a design, by name."""
  name, _, resolution = design.partition(':')
  config = launch.load_config(f'stylegan3_{name}:{resolution}')
  config.train.batch = batch
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer = build.make_trainer(config)
  generator = trainer.generator
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(trainer.init, key)
  size = generator.spec.image_shape
  images = jax.ShapeDtypeStruct((batch, *size), jnp.float32)

  def generate() -> jax.stages.Lowered:
    ws = (batch, generator.spec.num_ws, generator.w_dim)
    arguments = [
      jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (ws, (batch, 3, 3))
    ]
    synthesis = functools.partial(generator.apply, method='synthesis')
    return _jit(synthesis, mesh).lower(state.generator, *arguments)

  def equivariance(metric: str) -> jax.stages.Lowered:
    transform = transforms_lib.TRANSFORMS[metric]

    def compare(key, originals, images):
      keys = jax.random.split(key, batch // _GROUP)
      parameters = jax.vmap(lambda k: transform.sample(k, size[:2]))(keys)
      inverses = jax.vmap(lambda p: transform.inverse(p, size[:2]))(parameters)
      groups = (
        x.reshape(-1, _GROUP, *x.shape[1:]) for x in (originals, images)
      )
      errors = jax.lax.map(
        lambda group: transform.compare(*group), (*groups, parameters)
      )
      return inverses, errors

    return _jit(compare, mesh).lower(key, images, images)

  return {
    'step': lambda: memory_estimate.lower_step(trainer, mesh, batch)[0],
    'generate': generate,
    'eqt': functools.partial(equivariance, 'eqt'),
    'eqr': functools.partial(equivariance, 'eqr'),
  }


def _jit(function: Callable, mesh: Mesh) -> jax.stages.Wrapped:
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.jit(function, in_shardings=whole, out_shardings=whole)


def _clocks() -> tuple[float, float]:
  """Returns the time, and that of processors, also of ended compilers."""
  return time.perf_counter(), sum(os.times()[:4])


def _rows() -> Iterator[tuple[str, ...]]:
  for design, target in itertools.product(_DESIGNS.value, _TARGETS.value):
    mesh = _mesh(target)
    with jax.set_mesh(mesh):
      programs = _programs(design, mesh, _BATCH.value)
      for name in _PROGRAMS.value:
        jax.clear_caches()
        clocks = [_clocks()]
        lowered = programs[name]()
        clocks.append(_clocks())
        lowered.compile()
        clocks.append(_clocks())
        seconds = (
          f'{later - earlier:.1f}'
          for before, after in itertools.pairwise(clocks)
          for earlier, later in zip(before, after, strict=True)
        )
        yield design, target, name, *seconds


def main(argv: Sequence[str]) -> None:
  """Prints the table, each row when it is known."""
  if argv[1:]:
    raise app.UsageError(f'this command has flags only, got {argv[1]!r}')
  if _BATCH.value < 1 or _BATCH.value % _GROUP:
    raise app.UsageError(
      f'--batch must be a positive multiple of {_GROUP}, got {_BATCH.value}'
    )
  logging.set_verbosity(logging.WARNING)
  jax.config.update('jax_enable_compilation_cache', False)
  print(f'{plan.compilers()}, {os.cpu_count()} processors; seconds\n')
  print(f'| {" | ".join(_COLUMNS)} |')
  print('|---|---|---|' + '---:|' * 4)
  for row in _rows():
    print(f'| {" | ".join(row)} |', flush=True)


if __name__ == '__main__':
  app.run(main)
