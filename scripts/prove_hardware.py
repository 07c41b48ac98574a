"""Checks the correctness and speed of sg3jax on this machine's GPU or TPU.

  python scripts/prove_hardware.py --output=docs/hardware/h100 --minutes=8

The script runs stages in order of importance until the time is up. They
describe the machine, check the kernels of filtered_lrelu, time them, and time
the training and generation of whole networks. Each result is written at once to
`results.json` and `results.md` in the folder, so that an interrupted run keeps
its results. If a stage fails, the failure is recorded and the next stage
starts. Running the command again adds a session to the same files.

  --stages=check,bench    runs only these stages, in this order
  --only=forward          runs only the rows whose names contain this text
  --cache=FOLDER          keeps compiled programs in a folder for the next run
  --tiny                  runs every stage at a small size, also on a CPU
  --stages=pretrain       trains a small model on photographs for --minutes

It needs JAX 0.11 or newer for the kernel of GPUs, and the dependencies of this
package, which it imports from the source beside it. The exit status is 0 if
every row was measured and is correct.
"""

import datetime
import functools
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

# Find the package even if it is not installed.
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
from absl import app, flags
from hardware import cases as cases_lib
from hardware import (
  correctness,
  machine,
  networks,
  operators,
  pretrain,
  speed,
  stages,
)

_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder for the results.', required=True
)
_MINUTES = flags.DEFINE_float('minutes', 8.0, 'Time for all stages in minutes.')
_STAGES = flags.DEFINE_list(
  'stages', None, 'Stages to run; by default all but pretrain.'
)
_ONLY = flags.DEFINE_string('only', '', 'Text that names of rows must contain.')
_CACHE = flags.DEFINE_string('cache', None, 'Folder for compiled programs.')
_TINY = flags.DEFINE_bool('tiny', False, 'Use small sizes to test this script.')
_PROCESSES = flags.DEFINE_integer(
  'processes',
  None,
  'Number of concurrent workers; by default one per CPU core, up to 12, on a '
  'machine with a GPU, and one elsewhere.',
)
_WORKER = flags.DEFINE_string(
  'worker', None, 'Used by this script to start its workers.'
)

_TINY_SPEC = {'channel_base': 256, 'channel_max': 8, 'num_layers': 5}
_TINY_CONFIG = {
  'model.z_dim': 16,
  'model.w_dim': 16,
  'model.synthesis.num_layers': 4,
  'model.synthesis.channel_base': 128,
  'model.synthesis.channel_max': 8,
  'model.discriminator.channel_base': 128,
  'model.discriminator.channel_max': 8,
  'train.r1_interval': 2,
  'train.blur_init_sigma': 0.0,
}
_TINY_NETWORK = networks.Network('t', 16, 4, 'banded')


def make_stages() -> list[stages.Stage]:
  """Returns all stages in order of importance."""
  main, large = (32, 32) if _TINY.value else (256, 1024)
  timed = functools.partial(stages.Stage, is_timed=True)

  def check(name: str, size: int) -> stages.Stage:
    title = f'Correctness at {size} pixels'
    return stages.Stage(name, title, lambda: _check_tasks(size))

  def bench(name: str, size: int) -> stages.Stage:
    return timed(
      name,
      f'Speed at {size} pixels',
      lambda: _bench_tasks(size, 'kernel', 'banded'),
      summarize=speed.summarize_bench,
    )

  def depthwise(name: str, size: int) -> stages.Stage:
    title = f'Speed of depthwise convolutions at {size} pixels'
    return timed(name, title, lambda: _bench_tasks(size, 'depthwise'))

  return [
    timed(
      'machine', 'Machine', lambda: machine.make_tasks(is_tiny=_TINY.value)
    ),
    check('check', main),
    bench('bench', main),
    timed('train', 'Training', _train_tasks),
    timed(
      'operators',
      'Forms of operators',
      lambda: operators.make_tasks(is_tiny=_TINY.value),
    ),
    timed('generate', 'Generating', _generate_tasks),
    check('check-large', large),
    bench('bench-large', large),
    depthwise('depthwise', main),
    depthwise('depthwise-large', large),
    timed(
      'pretrain',
      'A small model',
      lambda: pretrain.make_tasks(
        pathlib.Path(_OUTPUT.value), _MINUTES.value, is_tiny=_TINY.value
      ),
      grace_seconds=300,
    ),
  ]


def _cases(size: int, *directions: str) -> list[cases_lib.Case]:
  options = _TINY_SPEC if _TINY.value else {}
  cases = [
    case
    for design in cases_lib.DESIGNS
    for case in cases_lib.cases(design, size, directions, **options)
  ]
  return cases[:2] if _TINY.value else cases


def _check_tasks(size: int) -> list[stages.Task]:
  return [
    task
    for directions in (('forward', 'backward'), ('tangent',))
    for task in correctness.check_tasks(_cases(size, *directions), 2)
  ]


def _bench_tasks(size: int, *forms: str) -> list[stages.Task]:
  return speed.bench_tasks(
    _cases(size, 'forward', 'backward'),
    forms,
    2 if _TINY.value else 8,
    'bfloat16',
    1e9 * _machine()['copy']['GB/s'],
  )


def _train_tasks() -> list[stages.Task]:
  if _TINY.value:
    return networks.train_tasks([_TINY_NETWORK], **_TINY_CONFIG)
  return networks.train_tasks(
    [
      networks.Network(design, 256, 32, name, micro_batches=parts)
      for name, parts in (('pallas', 1), ('banded', 4))
      for design in cases_lib.DESIGNS
    ]
  )


def _generate_tasks() -> list[stages.Task]:
  """Returns the tasks that generate images, then those that measure EQ."""
  if _TINY.value:
    return [
      *networks.generate_tasks([_TINY_NETWORK], **_TINY_CONFIG),
      *networks.equivariance_tasks([_TINY_NETWORK], 4, **_TINY_CONFIG),
    ]
  generated = [
    networks.Network(design, size, number, name, precision)
    for size, number in ((256, 32), (1024, 8))
    for design in cases_lib.DESIGNS
    for name, precision in (('pallas', 'bf16'), ('banded', 'fp32'))
  ]
  measured = [
    networks.Network(design, 256, 32, 'banded', 'fp32')
    for design in cases_lib.DESIGNS
  ]
  return [
    *networks.generate_tasks(generated),
    *networks.equivariance_tasks(measured, 128),
  ]


def _machine() -> dict[str, stages.Row]:
  """Returns the rows of this session's stage `machine`, by name."""
  results = json.loads(
    (pathlib.Path(_OUTPUT.value) / 'results.json').read_text()
  )
  rows = results['sessions'][-1]['stages']['machine']['rows']
  return {row['what']: row for row in rows}


def main(argv: Sequence[str]) -> None:
  """Runs the stages that the flags select, or a worker's part of a stage."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  if _WORKER.value:
    _work(_WORKER.value)
    return
  known = {stage.name: stage for stage in make_stages()}
  names = _STAGES.value or [name for name in known if name != 'pretrain']
  if unknown := set(names) - set(known):
    sys.exit(
      f'error: --stages must be among {", ".join(known)}, got '
      f'{", ".join(sorted(unknown))}'
    )
  # Exit normally on SIGTERM, so that workers end with this process.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  now = datetime.datetime.now(datetime.UTC)
  results = stages.Results(
    pathlib.Path(_OUTPUT.value),
    {
      'date': now.isoformat(timespec='seconds'),
      'command': ' '.join(['prove_hardware.py', *sys.argv[1:]]),
      'xla_flags': os.environ.get('XLA_FLAGS', ''),
    },
  )
  with tempfile.TemporaryDirectory() as cache:
    command = [sys.executable, *sys.argv, f'--cache={_CACHE.value or cache}']
    run = functools.partial(stages.run, results=results, command=command)
    start = time.monotonic()
    # This stage always runs, since others need its rates.
    seconds = 60 * _MINUTES.value
    failures = run([known.pop('machine')], seconds=seconds, processes=1)
    if not failures:
      failures = run(
        [known[name] for name in dict.fromkeys(names) if name in known],
        seconds=seconds - (time.monotonic() - start),
        processes=_PROCESSES.value or _processes(),
      )
  print(f'{failures} failed; the results are in {_OUTPUT.value}')
  sys.exit(min(failures, 1))


def _processes() -> int:
  # Several processes can share a GPU, but not a TPU.
  is_gpu = _machine().get('machine', {}).get('platform') == 'gpu'
  return min(os.cpu_count() or 1, 12) if is_gpu else 1


def _work(which: str) -> None:
  jax.config.update('jax_compilation_cache_dir', _CACHE.value)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  is_first = which.startswith('machine:')
  stages.work(make_stages(), which, '' if is_first else _ONLY.value)


if __name__ == '__main__':
  app.run(main)
