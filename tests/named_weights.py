"""Weights that follow from the names of tensors by the goldens' recipe."""

import zlib

import numpy as np

from sg3jax.trees import unflatten


def sample(text: str, shape) -> np.ndarray:
  """Returns standard normal numbers, seeded by a text."""
  rng = np.random.RandomState(zlib.crc32(text.encode()))
  return rng.standard_normal(shape)


def inception(name: str, shape, salt='sg3:') -> np.ndarray:
  """Returns a tensor of Inception in PyTorch's layout."""
  if name.endswith('num_batches_tracked'):
    return np.zeros(shape, np.int64)
  v = sample(salt + name, shape)
  if name.endswith('.conv.weight'):
    v *= np.sqrt(2 / np.prod(shape[1:]))
  elif name.endswith(('.bn.weight', '.bn.running_var')):
    v = np.exp(0.2 * v)
  elif name == 'fc.weight':
    v *= np.sqrt(1 / 2048)
  else:
    v *= 0.1
  return v.astype(np.float32)


def lpips(net: str, name: str, shape) -> np.ndarray:
  """Returns a tensor of LPIPS in PyTorch's layout; net is 'vgg' or 'alex'."""
  v = sample(f'lpips/{net}/{name}', shape)
  if name.startswith('lin'):
    v = abs(0.2 * v)
  elif name.endswith('.weight'):
    v *= np.sqrt(2 / np.prod(shape[1:]))
  else:
    v *= 0.1
  return v.astype(np.float32)


def lpips_tensors(net: str, shapes) -> dict[str, np.ndarray]:
  """Returns all tensors of LPIPS by name; `shapes` are ours by path."""
  tensors = {}
  for path, shape in shapes.items():
    name = path.removeprefix('params/').replace('/', '.')
    if name.startswith('lin'):
      name = name.replace('.weight', '.model.1.weight')
      shape = (1, *shape, 1, 1)
    elif len(shape) == 4:
      shape = (shape[3], shape[2], *shape[:2])
    tensors[name] = lpips(net, name, shape)
  return tensors


def variables(tensors) -> dict:
  """Returns the variables of a network for its tensors by name."""
  arrays = {}
  for name, array in tensors.items():
    if name.endswith('num_batches_tracked'):
      continue
    name = name.replace('.model.1.', '.')
    if name.startswith('lin'):
      array = array.reshape(-1)
    if array.ndim == 4:
      array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
      array = array.T
    arrays['params/' + name.replace('.', '/')] = array
  return unflatten(arrays)
