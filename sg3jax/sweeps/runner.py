"""Functions on the machines of a Ray cluster, or on this one.

Every job is one task. Ray starts a job again whose process or machine dies; one
that raises is reported, and the others go on.
"""

import contextlib
import dataclasses
import os
import pathlib
import platform
import re
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from sg3jax.train import preemption

_CONFIG: Any = jax.config  # Its fields are made at run time.

# Seconds between two looks at whether to stop.
_POLL = 0.5

# Results are a few numbers; by default Ray takes a third of the memory.
_OBJECT_STORE = 100 * 2**20

# Jobs of a process that has no accelerator, before it is replaced.
_CALLS = 16

_COLOURS = re.compile(r'\x1b\[[0-9;]*m')


@dataclasses.dataclass(frozen=True)
class Job:
  """A call.

  Attributes:
    name: Its name.
    function: A function of a module that the workers can import; its result
      can be pickled.
    arguments: Its keyword arguments.
  """

  name: str
  function: Callable[..., Any]
  arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The outcome of a job.

  Attributes:
    value: The value that it returned.
    error: The error in one line; empty if it returned.
    traceback: Where the error was raised.
    seconds: Duration of the last attempt.
    host: The machine.
    device: The kind of its first device.
  """

  value: Any = None
  error: str = ''
  traceback: str = ''
  seconds: float | None = None
  host: str | None = None
  device: str | None = None


@dataclasses.dataclass(frozen=True)
class Resources:
  """The machines on which jobs run, and the resources each of them takes.

  Attributes:
    address: Address of a Ray cluster, 'auto' for the one of this machine;
      'local' for workers of this process's own.
    cpus: CPUs a job, which Ray counts but does not enforce.
    gpus: GPUs a job; it sees no others.
    custom: Other resources that the cluster's machines declare, `{'TPU': 4}`.
    max_retries: How often a job may be started again whose process died.
  """

  address: str = 'local'
  cpus: float = 1.0
  gpus: float = 0.0
  custom: Mapping[str, float] = dataclasses.field(default_factory=dict)
  max_retries: int = 3

  @property
  def on_cpu(self) -> bool:
    """Whether jobs have no accelerator."""
    return not self.gpus and not self.custom


def run(
  jobs: Sequence[Job],
  resources: Resources,
  report: Callable[[Job, Outcome], None],
  *,
  stop: preemption.Stop,
  patient: bool,
) -> None:
  """Runs jobs until all are done, or until asked to stop.

  Args:
    jobs: The jobs; as many run at a time as the resources allow.
    resources: The machines, and what a job takes.
    report: Called with each job that has ended, in the order in which they do.
    stop: Whether to end early. Set `obeyed` then.
    patient: Whether jobs that run are then asked to end, as by Ctrl-C, and
      waited for; else they are killed.

  Raises:
    ImportError: If Ray is not installed.
    ValueError: If no machine has what a job takes.
    ConnectionError: If there is no cluster at the address.
  """
  ray = import_ray()
  with _connected(ray, resources):
    _check_resources(ray, resources)
    # A process for each training: it leaves no memory taken, on no device.
    # Short jobs share what they have compiled, but not for ever.
    alone = patient or not resources.on_cpu
    remote = ray.remote(max_calls=1 if alone else _CALLS)(_call)
    cache = _CONFIG.jax_compilation_cache_dir
    options = {
      'num_cpus': resources.cpus,
      'num_gpus': resources.gpus,
      'resources': dict(resources.custom),
      'max_retries': resources.max_retries,
    }
    pending = {
      remote.options(name=job.name, **options).remote(
        job.function,
        dict(job.arguments),
        on_cpu=resources.on_cpu,
        cache=cache,
      ): job
      for job in jobs
    }
    while pending:
      ready, _ = ray.wait(list(pending), timeout=_POLL)
      for reference in ready:
        job = pending.pop(reference)
        outcome = _outcome(ray, reference, resources.max_retries)
        # After a stop, errors are those of the cancellation.
        if not (stop.obeyed and outcome.error):
          report(job, outcome)
      if stop.signal and pending and not stop.obeyed:
        stop.obeyed = True
        if not patient:
          # To disconnect ends them. `ray.cancel(force=True)` of one that is
          # about to return is more than Ray 2.60 survives.
          return
        for reference in pending:
          ray.cancel(reference)


def import_ray() -> Any:
  """Returns the package, of which only this module knows.

  Raises:
    ImportError: If it is not installed.
  """
  # Ray would report the use of it to its makers otherwise.
  os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
  try:
    import ray
  except ImportError as error:
    raise ImportError(
      "sweeps run on Ray, which is not installed: pip install 'sg3jax[sweep]'"
    ) from error
  return ray


@contextlib.contextmanager
def _connected(ray: Any, resources: Resources) -> Iterator[None]:
  quiet = {'log_to_driver': False, 'logging_level': 'ERROR'}
  if resources.address == 'local':
    # A point that needs more memory than there is would be tried forever.
    os.environ.setdefault('RAY_task_oom_retries', str(resources.max_retries))
    quiet |= {
      'include_dashboard': False,
      'object_store_memory': _OBJECT_STORE,
    }
  else:
    _check_address(resources.address)
  with warnings.catch_warnings():
    # It warns of forking beside JAX's threads, but Ray's processes begin anew.
    warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address=resources.address, **quiet)
  if threading.current_thread() is threading.main_thread():
    # Ray's would end this process at once, and with it what is being trained.
    signal.signal(signal.SIGTERM, handler)
  try:
    yield
  finally:
    ray.shutdown()


def _check_address(address: str) -> None:
  """Raises in seconds if there is no cluster; Ray would take minutes."""
  host, colon, port = address.rpartition(':')
  if not colon or '://' in address:  # `auto`, and what only Ray understands.
    return
  try:
    socket.create_connection((host, int(port)), timeout=10).close()
  except (OSError, ValueError) as error:
    raise ConnectionError(
      f'there is no Ray cluster at --address={address} ({error}): start one '
      'with `ray start --head`, or pass HOST:PORT of its head'
    ) from error


def _check_resources(ray: Any, resources: Resources) -> None:
  wanted = {'CPU': resources.cpus, 'GPU': resources.gpus, **resources.custom}
  nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
  if any(
    all(node.get(name, 0) >= amount for name, amount in wanted.items())
    for node in nodes
  ):
    return

  def describe(amounts: Mapping[str, float], names: Mapping[str, float]) -> str:
    return ', '.join(f'{amounts.get(name, 0):g} {name}' for name in names)

  needed = {name: amount for name, amount in wanted.items() if amount}
  raise ValueError(
    f'a point takes {describe(needed, needed)}, but no machine of the cluster '
    f'has that: {"; ".join(describe(node, needed) for node in nodes)}. Change '
    '--cpus_per_point, --gpus_per_point or --resources_per_point'
  )


def _call(
  function: Callable[..., Any],
  arguments: Mapping[str, Any],
  *,
  on_cpu: bool,
  cache: str | None,
) -> Outcome:
  """Calls a function in a worker, and returns the outcome.

  Args:
    function: The function.
    arguments: Its keyword arguments.
    on_cpu: Whether the job has no accelerator.
    cache: The folder where the driver keeps compiled programs; None for none.
  """
  if on_cpu and 'JAX_PLATFORMS' not in os.environ:
    jax.config.update('jax_platforms', 'cpu')
  _use_cache(cache)
  start = time.perf_counter()
  value, error, trace = None, '', ''
  try:
    value = function(**arguments)
  except Exception as problem:
    error = f'{type(problem).__name__}: {" ".join(str(problem).split())}'
    trace = traceback.format_exc()
  return Outcome(
    value,
    error,
    trace,
    time.perf_counter() - start,
    platform.node(),
    jax.devices()[0].device_kind,
  )


def _use_cache(folder: str | None) -> None:
  """Keeps compiled programs where the driver does, if this machine can."""
  if folder and 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return  # The machine has a place of its own.
  if folder and '://' not in folder:
    try:
      pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError:  # The home folder of the driver's user, say.
      folder = None
  _CONFIG.update('jax_compilation_cache_dir', folder)


def _outcome(ray: Any, reference: Any, max_retries: int) -> Outcome:
  """Returns the outcome of a task, even if its process did not survive."""
  try:
    return ray.get(reference)
  except ray.exceptions.RayError as problem:
    trace = _COLOURS.sub('', str(problem)).strip()
    lines = trace.splitlines() or ['']
    # Where Python raised in the worker, before our code ran, the reason is
    # last: a package that is missing there, say.
    if isinstance(problem, ray.exceptions.RayTaskError):
      return Outcome(error=lines[-1], traceback=trace)
    return Outcome(
      error=f'{type(problem).__name__}: {lines[0]} (started again up to '
      f'{max_retries} times)',
      traceback=trace,
    )
