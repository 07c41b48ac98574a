"""Times compiled functions on a device."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


def milliseconds(
  call: Callable[..., Any],
  arguments: Sequence[tuple[Any, ...]],
  *,
  seconds: float = 0.05,
  repeats: int = 5,
) -> tuple[float, float]:
  """Returns the median time of a call, and the spread of the repeats.

  Calls are queued on the device, so that the time excludes their dispatch.

  Args:
    call: A compiled function.
    arguments: Sets of arguments, which are used in turn, so that they do not
      all stay in a cache.
    seconds: Approximate duration of a repeat in seconds.
    repeats: Number of repeats.

  Returns:
    The median and the largest difference between two repeats in milliseconds.
  """

  def run(calls: int) -> float:
    start = time.perf_counter()
    results = None
    for i in range(calls):
      results = call(*arguments[i % len(arguments)])
    jax.block_until_ready(results)
    return (time.perf_counter() - start) / calls

  for _ in arguments:
    run(1)
  # Time again, since the first few calls of a program may be slow.
  calls = max(1, min(1000, int(seconds / max(run(2), run(4)))))
  times = [1e3 * run(calls) for _ in range(repeats)]
  return statistics.median(times), max(times) - min(times)
