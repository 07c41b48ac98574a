"""Recorded state names and layouts to our parameter trees, for tests."""

from collections.abc import Mapping

import numpy as np

from sg3jax.nets import spec as spec_lib

# Names, within a layer, of what is not a parameter and where we keep it; None
# for what we design anew instead of storing it.
_NOT_PARAMS = {
  'magnitude_ema': ('moving_averages', 'magnitude'),
  'w_avg': ('moving_averages', 'w_avg'),
  'freqs': ('buffers', 'freqs'),
  'phases': ('buffers', 'phases'),
  'noise_const': ('noise', 'noise_const'),
  'transform': None,
  'up_filter': None,
  'down_filter': None,
  'resample_filter': None,
}


def to_ours(array: np.ndarray) -> np.ndarray:
  """Transposes: OIHW to HWIO, CHW to HWC, [out, in] to [in, out]."""
  return array.transpose({4: (2, 3, 1, 0), 3: (1, 2, 0)}.get(array.ndim))


def our_path(name: str) -> tuple[str, ...] | None:
  """Returns the path, collection first, of a generator array; or None."""
  *modules, leaf = name.split('.')
  # Layers carry their size and channels in their recorded names.
  modules = [module.split('_')[0] for module in modules]
  if leaf in _NOT_PARAMS:
    target = _NOT_PARAMS[leaf]
    if target is None:
      return None
    collection, leaf = target
    if leaf == 'w_avg':  # Kept by the generator, not by its mapping network.
      modules = []
    return (collection, *modules, leaf)
  return ('params', *modules, leaf)


def generator_variables(
  arrays: Mapping[str, np.ndarray], prefix: str = 'state/'
) -> dict:
  """Returns the variables of a generator from the arrays under `prefix`."""
  variables = {}
  for key, array in arrays.items():
    path = (
      our_path(key.removeprefix(prefix)) if key.startswith(prefix) else None
    )
    if path is None:
      continue
    node = variables
    for part in path[:-1]:
      node = node.setdefault(part, {})
    is_stored = path[0] in ('buffers', 'noise')
    node[path[-1]] = array if is_stored else to_ours(array)
  return variables


def generator_spec(
  arrays: Mapping[str, np.ndarray], resolution: int, prefix: str = 'state/'
) -> spec_lib.SynthesisSpec:
  """Returns the design whose channels are those of the arrays."""
  weights = [
    array
    for key, array in arrays.items()
    if key.startswith(prefix + 'synthesis.L')
    and key.endswith('.weight')
    and 'affine' not in key
  ]
  kernel = weights[0].shape[-1]
  return spec_lib.SynthesisSpec(
    resolution=resolution,
    img_channels=weights[-1].shape[0],
    # The two critical layers are the widest band: cutoff = resolution / 2.
    channel_base=weights[-2].shape[0] * resolution,
    channel_max=weights[0].shape[0],
    conv_kernel=kernel,
    radial_filters=kernel == 1,
  )


def discriminator_params(
  arrays: Mapping[str, np.ndarray], prefix: str = 'state/'
) -> dict:
  """Returns the 'params' of a discriminator from the arrays under `prefix`.

  Gradients (prefix 'grad/') have the names and layouts of the parameters.
  """
  params = {}
  for key, array in arrays.items():
    name = key.removeprefix(prefix)
    if not key.startswith(prefix) or name.endswith('resample_filter'):
      continue
    *modules, leaf = name.split('.')
    if modules[-1] == 'fc' and leaf == 'weight':
      # Recorded over channels first, then rows and columns; ours, channels
      # last. Its block is named after the side: b4.
      side = int(modules[0].removeprefix('b'))
      array = array.reshape(len(array), -1, side, side)
      array = array.transpose(0, 2, 3, 1).reshape(len(array), -1)
    node = params
    for module in modules:
      node = node.setdefault(module, {})
    node[leaf] = to_ours(array)
  return params
