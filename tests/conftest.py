"""Shared by all tests: fake devices, compiled programs, goldens, commands."""

import functools
import gc
import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Most of the time of these tests is compilation: of code that runs once or
# twice, to be optimized little; and of the same programs, in all workers and in
# the processes that they start. JAX reads this when it is imported.
_COMPILATION = {
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
}
for _name, _value in _COMPILATION.items():
  os.environ.setdefault(_name, _value)
# Workers have that of the process that started them; a user may have one too.
_MAKES_CACHE = 'JAX_COMPILATION_CACHE_DIR' not in os.environ
if _MAKES_CACHE:
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='sg3jax-')

# Types are checked in every function (`--jaxtyping-packages`), but not in those
# that the reader of pickles calls for every opcode: with checks, reading takes
# longer than all that is tested with it. They have no arrays.
_finders = list(sys.meta_path)
sys.meta_path[:] = [
  finder
  for finder in _finders
  if not type(finder).__module__.startswith('jaxtyping')
]
importlib.import_module('sg3jax.interop.torch_pickle.machine')
sys.meta_path[:] = _finders

import jax  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402

# In one part, because the cores have other workers: splitting a program to
# compile it in threads takes a seventh more time in all.
_flags = ['--xla_cpu_parallel_codegen_split_count=1']
if jax.__version_info__ < (0, 11):
  # A quarter faster to compile for, and slower to run; later ones have no such
  # choice, and do not start if it is made.
  _flags.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *_flags])

# Four devices on one CPU, so that every test may ask for a mesh of 1, 2 or 4.
jax.config.update('jax_num_cpu_devices', 4)

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
SCRIPTS = pathlib.Path(__file__).parents[1] / 'scripts'
GOLDENS = pathlib.Path(__file__).parent / 'goldens'


# Scripts find the modules beside them.
sys.path.append(str(SCRIPTS))


def run_file(path: pathlib.Path):
  """Returns the module that a file outside of packages makes: a config, say."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@functools.cache
def load_golden(name: str):
  """Returns a golden file: a dict of arrays (.npz) or parsed JSON (.json)."""
  path = GOLDENS / name
  if path.suffix == '.json':
    return json.loads(path.read_text())
  with np.load(path) as arrays:
    return {key: arrays[key] for key in arrays.files}


# Programs that JAX keeps in memory would grow to several GiB a worker.
_MAX_MEMORY = 3 * 2**30


@pytest.fixture(scope='module', autouse=True)
def _bounded_memory():
  """Forgets compiled programs after a module if there are too many of them."""
  yield
  if psutil.Process().memory_info().rss > _MAX_MEMORY:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope='session')
def golden():
  """`golden('filters.npz')` returns that file's arrays, read once."""
  return load_golden


@pytest.fixture(scope='session')
def _programs():
  """Functions of the trainer that return the same program for equal arguments.

  A program keeps what was traced, lowered and compiled, which for the smallest
  training step takes ten seconds; a run makes a new one.
  """
  from sg3jax.train.step import trainer  # Few tests need it.

  return {
    name: functools.cache(getattr(trainer, name))
    for name in ('jit_init', 'jit_step')
  }


@pytest.fixture(scope='module')
def shared_programs(_programs):
  """Lets the runs of a module share the programs of equal trainers.

  A test that changes what is traced must restore `trainer.jit_step.__wrapped__`
  for itself.
  """
  from sg3jax.train.step import trainer

  with pytest.MonkeyPatch.context() as patch:
    for name, make in _programs.items():
      patch.setattr(trainer, name, make)
    yield


@pytest.fixture(scope='session')
def cli():
  """`cli('train', '--workdir=...')` runs a command: (status, out, error).

  Keyword arguments are variables of its environment. `cli.start` returns the
  process at once.
  """
  options = {
    'env': os.environ
    | {
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': str(pathlib.Path(__file__).parents[1]),
    },
    'text': True,
  }

  def command(*args):
    return [sys.executable, '-m', 'sg3jax', *map(str, args)]

  def start(*args):
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    return subprocess.Popen(command(*args), **options, **pipes)

  def call(*args, **environment):
    process = subprocess.run(
      command(*args),
      **options | {'env': options['env'] | environment},
      capture_output=True,
      timeout=300,
      check=False,
    )
    return process.returncode, process.stdout, process.stderr

  call.start = start
  return call


def pytest_unconfigure(config):
  """Deletes the programs, when the last worker has ended."""
  del config
  if _MAKES_CACHE:
    shutil.rmtree(os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
