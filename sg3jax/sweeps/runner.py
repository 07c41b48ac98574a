"""Runs functions on the machines of a Ray cluster, or on this machine.

Every job is one Ray task. Ray restarts a job whose process or machine dies. If
a job raises an error, it is reported and the other jobs continue.
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

# Seconds between checks for a request to stop.
_POLL = 0.5

# Bytes of Ray's object store, which holds a few numbers per job. By default Ray
# reserves a third of the memory.
_OBJECT_STORE = 100 * 2**20

# Jobs that a process without an accelerator runs before it is replaced.
_CALLS = 16

_COLOURS = re.compile(r'\x1b\[[0-9;]*m')


@dataclasses.dataclass(frozen=True)
class Job:
  """A function call to run on a worker.

  Attributes:
    name: Name of the job.
    function: The function, from a module that workers can import. Its result
      must be picklable.
    arguments: Keyword arguments of the function.
  """

  name: str
  function: Callable[..., Any]
  arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The outcome of a job.

  Attributes:
    value: The value that the function returned.
    error: The error in one line; empty if the function returned.
    traceback: The traceback of the error.
    seconds: Duration of the last attempt in seconds.
    host: Name of the machine.
    device: Kind of the machine's first device.
  """

  value: Any = None
  error: str = ''
  traceback: str = ''
  seconds: float | None = None
  host: str | None = None
  device: str | None = None


@dataclasses.dataclass(frozen=True)
class Resources:
  """The machines on which jobs run, and the resources of each job.

  Attributes:
    address: Address of a Ray cluster, 'auto' for the cluster of this machine,
      or 'local' to start one for this process.
    cpus: Number of CPUs per job, which Ray counts but does not enforce.
    gpus: Number of GPUs per job; a job sees no other GPUs.
    custom: Other resources per job that the cluster's machines declare, such as
      `{'TPU': 4}`.
    max_retries: Maximum number of restarts of a job whose process died.
  """

  address: str = 'local'
  cpus: float = 1.0
  gpus: float = 0.0
  custom: Mapping[str, float] = dataclasses.field(default_factory=dict)
  max_retries: int = 3

  @property
  def on_cpu(self) -> bool:
    """Whether jobs run without an accelerator."""
    return not self.gpus and not self.custom


def run(
  jobs: Sequence[Job],
  resources: Resources,
  report: Callable[[Job, Outcome], None],
  *,
  stop: preemption.Stop,
  patient: bool,
) -> None:
  """Runs jobs until all have ended, or until `stop` requests an early end.

  Args:
    jobs: The jobs. As many run concurrently as the resources allow.
    resources: The machines, and the resources of a job.
    report: Called with each job and its outcome, in the order in which they
      end.
    stop: The request to end early. Its `obeyed` is set when it is followed.
    patient: How to end early: if True, running jobs are interrupted as by
      Ctrl-C and awaited; if False, they are killed.

  Raises:
    ImportError: If Ray is not installed.
    ValueError: If no machine has the resources of a job.
    ConnectionError: If there is no cluster at the address.
  """
  ray = import_ray()
  with _connected(ray, resources):
    _check_resources(ray, resources)
    pending = _start(ray, jobs, resources, patient)
    while pending:
      ready, _ = ray.wait(list(pending), timeout=_POLL)
      for reference in ready:
        job = pending.pop(reference)
        outcome = _outcome(ray, reference, resources.max_retries)
        # After a stop, errors stem from the cancellation.
        if not (stop.obeyed and outcome.error):
          report(job, outcome)
      if stop.signal and pending and not stop.obeyed:
        stop.obeyed = True
        if not patient:
          # Disconnecting ends the jobs. Ray 2.60 crashes on
          # `ray.cancel(force=True)` for a job that is about to return.
          return
        for reference in pending:
          ray.cancel(reference)


def _start(
  ray: Any, jobs: Sequence[Job], resources: Resources, patient: bool
) -> dict[Any, Job]:
  """Submits jobs to Ray; returns them by the references of their outcomes."""
  # Each training has its own process, which frees all memory at its end. Short
  # jobs share a process and its compiled programs, up to _CALLS of them.
  alone = patient or not resources.on_cpu
  remote = ray.remote(max_calls=1 if alone else _CALLS)(_call)
  cache = _CONFIG.jax_compilation_cache_dir
  options = {
    'num_cpus': resources.cpus,
    'num_gpus': resources.gpus,
    'resources': dict(resources.custom),
    'max_retries': resources.max_retries,
  }
  return {
    remote.options(name=job.name, **options).remote(
      job.function,
      dict(job.arguments),
      on_cpu=resources.on_cpu,
      cache=cache,
    ): job
    for job in jobs
  }


def import_ray() -> Any:
  """Imports and returns Ray, which only this module uses.

  Raises:
    ImportError: If Ray is not installed.
  """
  # Disable Ray's usage reports.
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
    # By default Ray retries a job that runs out of memory forever.
    os.environ.setdefault('RAY_task_oom_retries', str(resources.max_retries))
    quiet |= {
      'include_dashboard': False,
      'object_store_memory': _OBJECT_STORE,
    }
  else:
    _check_address(resources.address)
  with warnings.catch_warnings():
    # JAX warns of forks in a process with threads, but Ray execs new programs.
    warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address=resources.address, **quiet)
  if threading.current_thread() is threading.main_thread():
    # Restore our handler: Ray's would end this process and its trainings.
    signal.signal(signal.SIGTERM, handler)
  try:
    yield
  finally:
    ray.shutdown()


def _check_address(address: str) -> None:
  """Raises ConnectionError in seconds if there is no cluster.

  Ray itself would take minutes.
  """
  host, colon, port = address.rpartition(':')
  if not colon or '://' in address:  # `auto`, or a form that only Ray parses.
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
    arguments: Keyword arguments of the function.
    on_cpu: Whether the job runs without an accelerator.
    cache: The driver's folder of compiled programs; None if it has none.
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
  """Uses the driver's folder of compiled programs, if this machine can."""
  if folder and 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return  # The machine has its own folder.
  if folder and '://' not in folder:
    try:
      pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError:  # It may be in the driver's home folder, say.
      folder = None
  _CONFIG.update('jax_compilation_cache_dir', folder)


def _outcome(ray: Any, reference: Any, max_retries: int) -> Outcome:
  """Returns the outcome of a task, even if its process died."""
  try:
    return ray.get(reference)
  except ray.exceptions.RayError as problem:
    trace = _COLOURS.sub('', str(problem)).strip()
    lines = trace.splitlines() or ['']
    # If the worker raised before `_call` ran, for example because a package is
    # missing there, the reason is in the last line.
    if isinstance(problem, ray.exceptions.RayTaskError):
      return Outcome(error=lines[-1], traceback=trace)
    return Outcome(
      error=f'{type(problem).__name__}: {lines[0]} (started again up to '
      f'{max_retries} times)',
      traceback=trace,
    )
