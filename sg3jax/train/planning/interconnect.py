"""Estimates how long devices exchange data, from a model of their network.

The model is a lower bound of an exchange, with bandwidths from data sheets. It
assumes that nothing is computed meanwhile, so that for a step it errs to the
other side: compilers overlap much of it.
"""

import math
from collections.abc import Mapping

from sg3jax.train.planning import topologies

# Seconds from one device to its neighbour, and between slices or hosts.
_HOP = 1e-6
_NETWORK_HOP = 20e-6


def seconds(
  sent: Mapping[str, float], exchanges: float, topology: topologies.Topology
) -> float:
  """Returns the seconds of a step's collective operations.

  Inside of a slice or host, an all-reduce sends and receives the data almost
  twice over all links of a device; an axis of the torus that is not closed to a
  ring has half the bandwidth. Between slices or hosts, each device then
  exchanges its part of the sum.

  Args:
    sent: Bytes of results by kind, see `program.Program.sent`.
    exchanges: Number of operations.
    topology: The devices.
  """
  within, between = topology.group_size, topology.groups
  if topology.size == 1:
    return 0.0
  # The result of a reduce-scatter is one device's part of the data.
  factors = {'all-reduce': 2, 'reduce-scatter': topology.size}
  moved = sum(size * factors.get(kind, 1) for kind, size in sent.items())
  bandwidth = topology.machine.link * _open_share(topology)
  total = moved * (within - 1) / within / bandwidth
  delay = _HOP * (sum(topology.shape) if topology.is_tpu else 2)
  if between > 1:
    share = moved / within
    total += share * (between - 1) / between / topology.machine.network
    delay += _NETWORK_HOP * math.log2(between)
  return total + exchanges * delay


def _open_share(topology: topologies.Topology) -> float:
  """Returns the share of the links' bandwidth that the torus can use."""
  machine = topology.machine
  if not topology.is_tpu:
    return 1.0
  shares = [
    0.0 if n == 1 else 1.0 if n >= machine.wrap else 0.5 for n in topology.shape
  ]
  return max(sum(shares), 0.5) / len(shares)
