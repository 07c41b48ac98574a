"""Measures a run's progress and its cost in time and memory.

A tick is the unit of progress: training on a few thousand images. After it the
run reports, and sometimes saves and evaluates ("maintenance").
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import psutil

from sg3jax import text

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Memory:
  """Memory of this process, in GiB (labelled `gb` for users' tools).

  Attributes:
    cpu: Resident memory of this process now, without data workers.
    peak_device: Peak memory of arrays and programs since the process started,
      on the local device where it was largest. JAX cannot reset the peak, so
      the value never falls during a run. It is 0 if the platform does not
      count it (CPU).
    reserved_device: Memory that the allocator holds on one device, used or
      not. It is close to the whole device if memory is preallocated (the
      default on GPUs), and 0 if the platform does not report it.
  """

  cpu: float
  peak_device: float
  reserved_device: float


def measure_memory() -> Memory:
  """Returns the memory in use, without waiting for the devices."""
  counts = [device.memory_stats() or {} for device in jax.local_devices()]

  def largest(key: str) -> float:
    return max(count.get(key, 0) for count in counts) / _GIB

  return Memory(
    cpu=psutil.Process().memory_info().rss / _GIB,
    peak_device=largest('peak_bytes_in_use'),
    reserved_device=largest('pool_bytes'),
  )


@dataclasses.dataclass(frozen=True)
class Tick:
  """The progress of one tick, for its log line and the statistics.

  Attributes:
    tick: Number of the tick, counted from 0.
    nimg: Number of real images shown to the discriminator since the run began.
    total_sec: Seconds of the run so far.
    sec_per_tick: Seconds of training in this tick.
    sec_per_kimg: Seconds of training per 1000 images.
    maintenance_sec: Seconds between the training of the previous tick and of
      this one, for saving and evaluating; for preparations in the first tick.
    left_sec: Estimated seconds until the run ends.
    memory: Memory at the end of the tick.
    augment: Probability p of the augmentations, 0 without augmentation.
    evaluation_sec: Seconds that grids and metrics have taken in the run so far;
      a part of what was reported as maintenance.
  """

  tick: int
  nimg: int
  total_sec: float
  sec_per_tick: float
  sec_per_kimg: float
  maintenance_sec: float
  left_sec: float
  memory: Memory
  augment: float
  evaluation_sec: float = 0.0

  @property
  def kimg(self) -> float:
    """Thousands of real images shown."""
    return self.nimg / 1000

  def line(self) -> str:
    """Returns the line for the log, names and values in aligned columns.

    Users' scripts parse this order; `left` ends the line. Values below 1 kimg
    have three decimals, to show the progress of a small run.
    """
    digits = 1 if self.kimg >= 1 or not self.nimg else 3
    columns = (
      f'tick {self.tick:<5d}',
      f'kimg {self.kimg:<8.{digits}f}',
      f'time {text.format_duration(self.total_sec):<12s}',
      f'sec/tick {self.sec_per_tick:<7.1f}',
      f'sec/kimg {self.sec_per_kimg:<7.2f}',
      f'maintenance {self.maintenance_sec:<6.1f}',
      f'cpumem {self.memory.cpu:<6.2f}',
      f'gpumem {self.memory.peak_device:<6.2f}',
      f'reserved {self.memory.reserved_device:<6.2f}',
      f'augment {self.augment:<6.3f}',
      f'left {text.format_duration(self.left_sec)}',
    )
    return ' '.join(columns)

  def values(self) -> dict[str, float]:
    """Returns the values by their names in `stats.jsonl`."""
    return {
      'Progress/tick': float(self.tick),
      'Progress/kimg': self.kimg,
      'Progress/augment': self.augment,
      'Timing/total_sec': self.total_sec,
      'Timing/sec_per_tick': self.sec_per_tick,
      'Timing/sec_per_kimg': self.sec_per_kimg,
      'Timing/maintenance_sec': self.maintenance_sec,
      'Timing/evaluation_sec': self.evaluation_sec,
      'Resources/cpu_mem_gb': self.memory.cpu,
      'Resources/peak_gpu_mem_gb': self.memory.peak_device,
      'Resources/peak_gpu_mem_reserved_gb': self.memory.reserved_device,
    }


class TickClock:
  """Measures ticks and estimates the time left.

      clock = TickClock(nimg=state.nimg, total_nimg=total_nimg)
      while nimg < total_nimg:
        clock.start_tick()
        ...                        # Training steps.
        tick = clock.end_tick(nimg)  # After the tick's statistics arrive.
        ...                        # Maintenance.

  Attributes:
    tick: Number of the next tick to end.
  """

  def __init__(
    self,
    *,
    nimg: int,
    total_nimg: int,
    tick: int = 0,
    elapsed_sec: float | int = 0.0,
    evaluation_sec: float | int = 0.0,
    now: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      nimg: Number of images shown before this session; 0 for a new run.
      total_nimg: Number of images at which the run ends.
      tick: Number of the first tick of this session.
      elapsed_sec: Seconds that earlier sessions of the run took.
      evaluation_sec: Those of them that evaluations took.
      now: Returns the time in seconds.
    """
    self.tick = tick
    self._total_nimg = total_nimg
    self._now = now
    self._nimg = nimg
    self._tick_start = self._last_end = now()
    self._run_start = self._last_end - elapsed_sec
    self._maintenance_sec = 0.0
    self._evaluation_sec = float(evaluation_sec)
    # Time and images from which the rate is measured; see `_left_sec`.
    self._rate_origin: tuple[float, int] | None = None

  def start_tick(self) -> None:
    """Begins a tick; the time since the previous one counts as maintenance."""
    self._tick_start = self._now()
    self._maintenance_sec = self._tick_start - self._last_end

  @contextlib.contextmanager
  def evaluation(self) -> Iterator[None]:
    """Counts the time within this context as that of an evaluation."""
    start = self._now()
    try:
      yield
    finally:
      self._evaluation_sec += self._now() - start

  def evaluation_share(self) -> float:
    """Returns the part of the run's time that evaluations took, 0 to 1."""
    total = self._now() - self._run_start
    return self._evaluation_sec / total if total > 0 else 0.0

  def end_tick(self, nimg: int, *, augment: float | int = 0.0) -> Tick:
    """Ends a tick.

    Call it when the results of the tick's last step have arrived, because
    jitted steps return before they are done.

    Args:
      nimg: Number of images shown so far.
      augment: Augmentation probability to report.

    Returns:
      The progress to report.
    """
    end = self._now()
    seconds = end - self._tick_start
    shown = max(nimg - self._nimg, 1)
    tick = Tick(
      tick=self.tick,
      nimg=nimg,
      total_sec=end - self._run_start,
      sec_per_tick=seconds,
      sec_per_kimg=seconds / shown * 1000,
      maintenance_sec=self._maintenance_sec,
      left_sec=self._left_sec(nimg, end, seconds / shown),
      memory=measure_memory(),
      augment=float(augment),
      evaluation_sec=self._evaluation_sec,
    )
    self.tick += 1
    self._nimg = nimg
    self._last_end = end
    return tick

  def _left_sec(self, nimg: int, end: float, sec_per_image: float) -> float:
    """Extrapolates the mean rate of this session, with maintenance.

    The first tick includes compilation. Only the first estimate uses it; later
    ones exclude it.
    """
    if self._rate_origin is None:
      self._rate_origin = (end, nimg)
    else:
      start, start_nimg = self._rate_origin
      sec_per_image = (end - start) / max(nimg - start_nimg, 1)
    return max(self._total_nimg - nimg, 0) * sec_per_image
