"""Makes training_trace_{t,r}32.npz from the recordings of the same names.

  python tests/goldens/redraw_training_trace.py FOLDER_OF_THE_RECORDINGS

The recordings keep arrays by reference, so that what they call the parameters
before training (init/) and after its first iteration are those after the last.
But both networks were drawn from seed 5 by PyTorch's CPU generator, which NumPy
has too, and the order of the draws shows in the arrays: the initial parameters
are drawn again here. They lie within the reach of three Adam steps of the final
ones, and the gradients recorded for the first iteration are those found there.
"""

import pathlib
import sys

import numpy as np

_SEED = 5
_CONSTANT = ('filter', 'freqs', 'phases', 'transform')


class TorchGenerator:
  """The random numbers of PyTorch on a CPU: MT19937 and Box-Muller."""

  def __init__(self, seed):
    self._random = np.random.RandomState(seed)
    self._second = None

  def rand(self, shape):
    """Returns uniform numbers of [0, 1), 24 bits each."""
    bits = self._bits(int(np.prod(shape))) & 0xFFFFFF
    return (bits.astype(np.float32) * np.float32(2**-24)).reshape(shape)

  def randn(self, shape):
    """Returns normal numbers: blocks of 16, the last one drawn again."""
    size = int(np.prod(shape))
    if size < 16:
      x = np.array([self._normal() for _ in range(size)], np.float32)
      return x.reshape(shape)
    x = self.rand((size,))
    for i in range(0, size - 15, 16):
      x[i : i + 16] = self._block(x[i : i + 16])
    if size % 16:
      x[-16:] = self._block(self.rand((16,)))
    return x.reshape(shape)

  def _bits(self, size):
    return self._random.randint(0, 2**32, size=size, dtype=np.uint32)

  def _block(self, u):
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - u[:8]))
    angle = np.float32(2 * np.pi) * u[8:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])

  def _normal(self):
    """Returns one number in double precision; they are drawn in pairs."""
    if self._second is not None:
      value, self._second = self._second, None
      return value
    a, b, c, d = map(int, self._bits(4))
    angle, u = (
      ((high << 32 | low) & 2**53 - 1) * 2.0**-53
      for high, low in ((a, b), (c, d))
    )
    radius, angle = np.sqrt(-2 * np.log1p(-u)), 2 * np.pi * angle
    self._second = radius * np.sin(angle)
    return radius * np.cos(angle)


def initial_parameters(recorded):
  """Returns the arrays under init/ as they were drawn."""
  random = TorchGenerator(_SEED)
  names = [k for k in recorded if k.startswith('init/')]
  shape = {k: recorded[k].shape for k in names}
  values = {k: recorded[k] for k in names if k.endswith(_CONSTANT)}

  prefix = 'init/G/synthesis.input.'
  channels = len(recorded[prefix + 'freqs'])
  random.randn((channels, 2))  # Frequencies.
  random.rand((channels,))  # Phases.
  values[prefix + 'weight'] = random.randn((channels, channels))
  affine = prefix + 'affine.weight'
  random.randn(shape[affine])  # Drawn, then multiplied by zero.
  values[affine] = np.zeros(shape[affine], np.float32)
  values[prefix + 'affine.bias'] = np.array([1, 0, 0, 0], np.float32)
  for name in names:
    if name.endswith('.magnitude_ema'):
      prefix = name.removesuffix('magnitude_ema')
      for key in ('affine.weight', 'weight'):
        values[prefix + key] = random.randn(shape[prefix + key])
      values[prefix + 'affine.bias'] = np.ones(shape[prefix + 'affine.bias'])
      values[prefix + 'bias'] = np.zeros(shape[prefix + 'bias'])
  for name in names:
    if '/mapping.fc' in name:  # Of a hundredth of the learning rate.
      is_weight = name.endswith('weight')
      values[name] = (
        random.randn(shape[name]) * np.float32(100)
        if is_weight
        else np.zeros(shape[name])
      )

  def perturb(network):
    # The recorder moved what starts as a constant.
    for name in (k for k in names if k.startswith(network)):
      if name == affine:
        values[name] += np.float32(0.3) * random.randn(shape[name])
      elif name.endswith('bias'):
        values[name] = values[name] + np.float32(0.1) * random.randn(
          shape[name]
        )

  perturb('init/G/')
  for name in names:
    if name.endswith('.magnitude_ema'):
      values[name] = np.float32(0.5) + np.float32(2) * random.rand(())
  average = 'init/G/mapping.w_avg'
  values[average] = np.float32(0.2) * random.randn(shape[average])

  for name in names:
    if name.startswith('init/D/') and name not in values:
      is_weight = name.endswith('weight')
      values[name] = (
        random.randn(shape[name]) if is_weight else np.zeros(shape[name])
      )
  perturb('init/D/')
  return {name: np.asarray(values[name], np.float32) for name in names}


def main(folder):
  """Writes both files beside this one."""
  for name in ('training_trace_t32.npz', 'training_trace_r32.npz'):
    with np.load(pathlib.Path(folder) / name) as recorded:
      arrays = {k: recorded[k] for k in recorded if not k.startswith('after1/')}
    initial = initial_parameters(arrays)
    for key, value in initial.items():
      # Three steps of Adam: at most 1.5 learning rates each.
      assert np.abs(value - arrays[key]).max() < 4.5 * 0.0025, key
    np.savez_compressed(
      pathlib.Path(__file__).parent / name, **(arrays | initial)
    )


if __name__ == '__main__':
  main(sys.argv[1])
