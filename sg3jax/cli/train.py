r"""Trains a model, or resumes its training.

    sg3jax train --config=quickstart --workdir=runs/quickstart
    sg3jax train --config=stylegan3_t:512,batch=32 --workdir=runs/t512 \
      --config.data.source=images.zip --config.data.mirror=1

`--config` names a configuration of this package or a file, optionally followed
by a colon and an argument. `--config.x.y=VALUE` overrides a field. The same
command resumes an interrupted run.

On SIGTERM or Ctrl-C the run finishes its step, saves, and exits with status 75:
resume it with the same command. A second signal ends it at once.

    sg3jax train --config=stylegan3_t:512 --workdir=runs/cats \
      --config.data.source=cats.zip --init_from=runs/t512

This command starts a new run from the networks of another run.

    sg3jax train --config=stylegan3_t:256,batch=2048 --plan --topology=v5e:16x16

This command compiles a training step for 256 TPUs that need not be there, and
prints its memory, its communication and an estimate of its duration.
"""

import sys

from absl import flags

from sg3jax import launch
from sg3jax.cli import common, config_flag, plan
from sg3jax.train import preemption, processes, profiling, sharding
from sg3jax.types import Config

flags.declare_key_flag('config')
_WORKDIR = flags.DEFINE(
  common.PathParser(may_be_remote=True), 'workdir', None, 'The run folder.'
)
_INIT_FROM = flags.DEFINE(
  common.PATH,
  'init_from',
  None,
  'Run folder or checkpoint whose networks initialise a new run.',
)
flags.DEFINE_alias('init-from', 'init_from')
_INIT_PARTIAL = flags.DEFINE_bool(
  'init_partial', False, 'Load only the arrays of --init_from that fit.'
)
flags.DEFINE_alias('init-partial', 'init_partial')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('stats_cache')
flags.declare_key_flag('weights_dir')
flags.declare_key_flag('devices')
for _name in ('plan', 'plan_memory', 'topology'):
  flags.declare_key_flag(_name)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
  'allow_config_change',
  False,
  'Resume a run although its configuration has changed; log the changes.',
)
_PROFILE = flags.DEFINE_string(
  'profile',
  None,
  'Profile steps FIRST:LAST, from 1, into RUN/profile/.',
)
_PROFILE_PROCESSES = flags.DEFINE_list(
  'profile_processes',
  None,
  'Numbers of the processes that --profile records, such as 0,3; by default '
  'all of them.',
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Join a run on several hosts; start the same command on each of them. Cloud '
  'TPU, Slurm, Kubernetes and Open MPI say who is who; or pass --coordinator, '
  '--num_processes and --process_id.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0, the same for all processes.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Number of processes of the run.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process, from 0.', lower_bound=0
)


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and trains the model."""
  common.run(_train, config_flag.locate(argv or sys.argv))


def _train() -> None:
  plan.check()
  workdir = None if plan.PLAN.value else common.require(_WORKDIR)
  config = _read_config()
  profile = (
    profiling.parse_steps(_PROFILE.value) if _PROFILE.value else range(0)
  )
  if _PROFILE_PROCESSES.value is not None and not profile:
    raise ValueError(
      '--profile_processes says where --profile records: add --profile, such '
      'as --profile=20:24'
    )
  chosen = profiling.parse_processes(_PROFILE_PROCESSES.value)
  where = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  if _DISTRIBUTED.value or any(value is not None for value in where):
    processes.join(*where)
  if workdir is None:
    plan.run(config)
    return
  mesh = sharding.make_mesh(common.DEVICES.value)
  with preemption.stop_on_signals() as stop:
    launch.train(
      config,
      workdir,
      mesh=mesh,
      stop=stop,
      profile=profiling.steps_of_this_process(profile, chosen),
      allow_config_change=_ALLOW_CONFIG_CHANGE.value,
      stats_cache=common.stats_cache(),
      weights_dir=common.WEIGHTS_DIR.value,
    )
  if stop.obeyed:
    sys.exit(preemption.EXIT_CODE)


def _read_config() -> Config:
  """Returns the configuration, updated by the flags that set its fields."""
  config = common.require(config_flag.CONFIG)
  if _INIT_FROM.value:
    config.train.init_from = _INIT_FROM.value
  if _INIT_PARTIAL.present:
    config.train.init_partial = _INIT_PARTIAL.value
  return config
