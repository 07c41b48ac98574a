r"""Trains a model, or goes on training it.

    sg3jax train --config=quickstart --workdir=runs/quickstart
    sg3jax train --config=stylegan3_t:512,batch=32 --workdir=runs/t512 \
      --config.data.source=images.zip --config.data.mirror=1

`--config` names a configuration of this package or a file, with an argument
behind a colon. `--config.x.y=VALUE` overrides a field. The same command again
continues a run that was interrupted.

On SIGTERM or Ctrl-C the run finishes its step, saves, and exits with status 75:
run the same command again. A second signal ends it at once.

    sg3jax train --config=stylegan3_t:512 --workdir=runs/cats \
      --config.data.source=cats.zip --init_from=runs/t512

starts a new run from the networks of another one.
"""

import sys

import jax
from absl import flags

from sg3jax import launch
from sg3jax.cli import common, config_flag
from sg3jax.train import memory_estimate, preemption, profiling, sharding
from sg3jax.train.step import build
from sg3jax.types import Config

flags.declare_key_flag('config')
_WORKDIR = flags.DEFINE(
  common.PathParser(may_be_remote=True), 'workdir', None, 'The run folder.'
)
_INIT_FROM = flags.DEFINE(
  common.PATH,
  'init_from',
  None,
  'A run folder or checkpoint whose networks a new run starts from.',
)
flags.DEFINE_alias('init-from', 'init_from')
_INIT_PARTIAL = flags.DEFINE_bool(
  'init_partial', False, 'Start from what of them fits.'
)
flags.DEFINE_alias('init-partial', 'init_partial')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('devices')
_PLAN = flags.DEFINE_bool(
  'plan',
  False,
  'Compile a step without running it, print what it takes, and end.',
)
_PLAN_MEMORY = flags.DEFINE_float(
  'plan_memory',
  None,
  'GiB of a device, for --plan to find the largest micro-batch that fits; by '
  'default what the device reports.',
  lower_bound=0.0,
)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
  'allow_config_change',
  False,
  'Go on with a run although its configuration has changed, and log what has.',
)
_PROFILE = flags.DEFINE_string(
  'profile', None, 'Record steps FIRST:LAST, from 1, in profile/ of the run.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Take part in a run on several hosts; start this command on each.',
)


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and trains."""
  common.run(_train, config_flag.locate(argv or sys.argv))


def _train() -> None:
  workdir = None if _PLAN.value else common.require(_WORKDIR)
  config = _read_config()
  profile = (
    profiling.parse_steps(_PROFILE.value) if _PROFILE.value else range(0)
  )
  if _DISTRIBUTED.value:
    jax.distributed.initialize()
  if workdir is None:
    _plan(config)
    return
  mesh = sharding.make_mesh(common.DEVICES.value)
  with preemption.stop_on_signals() as stop:
    launch.train(
      config,
      workdir,
      mesh=mesh,
      stop=stop,
      profile=profile,
      allow_config_change=_ALLOW_CONFIG_CHANGE.value,
    )
  if stop.obeyed:
    sys.exit(preemption.EXIT_CODE)


def _read_config() -> Config:
  """Returns the configuration, with the flags that stand for fields of it."""
  config = common.require(config_flag.CONFIG)
  if _INIT_FROM.value:
    config.train.init_from = _INIT_FROM.value
  if _INIT_PARTIAL.present:
    config.train.init_partial = _INIT_PARTIAL.value
  return config


def _plan(config: Config) -> None:
  """Prints what a step takes, and the micro-batches that fit."""
  mesh = sharding.make_mesh(common.DEVICES.value)
  trainer, _ = build.prepare(config, launch.open_source(config), mesh)
  batch = config.train.batch
  print(memory_estimate.estimate(trainer, mesh, batch).report(), flush=True)
  memory = memory_estimate.device_memory(mesh)
  if _PLAN_MEMORY.value is not None:
    memory = int(_PLAN_MEMORY.value * 2**30)
  if memory is None:
    print('--plan_memory=GIB finds the largest micro-batch that fits')
    return
  chosen, tried = memory_estimate.fit(trainer, mesh, batch, memory)
  print(memory_estimate.table(tried))
  print(
    f'{memory / 2**30:g} GiB hold {batch // chosen.micro_batches} images at a '
    f'time: --config.train.micro_batches={chosen.micro_batches}'
  )
