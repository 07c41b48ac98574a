"""Reads, writes and samples styles, the `w.npz` files of all commands.

A file has the key `w`, [n, num_ws, w_dim]. Files of other tools may contain
[num_ws, w_dim], [n, 1, w_dim] or [n, w_dim], whose styles are repeated for all
layers. The optional key `transform`, [n, 3, 3], holds inverse transforms of the
generator's input, and the keys `noise/...`, [n, h, w], its noise inputs.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.interop import model_files
from sg3jax.types import AnyArray

KEY = 'w'
_TRANSFORM = 'transform'
_NOISE = 'noise/'

# Number of latents mapped at a time.
_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Styles:
  """Styles of images, and what else their file says about the images.

  Attributes:
    w: Styles [n, num_ws, w_dim], float32.
    transform: Inverse transforms [n, 3, 3], or None for the identity.
    noise: Noise inputs [n, h, w] by path in the collection 'noise'; empty for
      those that the model stores.
  """

  w: Float[np.ndarray, 'n l d']
  transform: Float[np.ndarray, 'n 3 3'] | None = None
  noise: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.w)


@dataclasses.dataclass(frozen=True)
class Statistics:
  """The distribution of a model's styles.

  Attributes:
    mean: Mean style [w_dim].
    scale: Root mean square, over all features, of their standard deviations.
  """

  mean: Float[np.ndarray, ' d']
  scale: float


def read(path: str | pathlib.Path, num_ws: int, w_dim: int) -> Styles:
  """Reads styles from a `.npz` file.

  Args:
    path: The file.
    num_ws: Number of styles per image of the model that they are for.
    w_dim: Number of features of its styles.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is not such a file, or does not fit the model.
  """
  path = files.local_path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} does not exist: pass a .npz file with the key {KEY}'
    )
  try:
    with np.load(path, allow_pickle=False) as archive:
      names = getattr(archive, 'files', [])
      wanted = [n for n in names if n in (KEY, _TRANSFORM) or _is_noise(n)]
      arrays = {name: archive[name] for name in wanted}
  except (ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
    raise ValueError(
      f'{path} must be a .npz file with the key {KEY}, but cannot be read '
      f'({str(error)[:100]}): write it again'
    ) from error
  if KEY not in arrays:
    raise ValueError(
      f'{path} must have the key {KEY}, got '
      f'{", ".join(sorted(names)[:5]) or "none"}: rename the array of styles'
    )
  w = _expanded(arrays[KEY], num_ws, w_dim, path)
  transform = arrays.get(_TRANSFORM)
  if transform is not None:
    _check_rows(transform, (len(w), 3, 3), _TRANSFORM, path)
    transform = transform.astype(np.float32)
  noise = {n.removeprefix(_NOISE): a for n, a in arrays.items() if _is_noise(n)}
  for name, array in noise.items():
    _check_rows(array, (len(w), *array.shape[1:]), _NOISE + name, path)
  return Styles(w, transform, noise)


def write(path: str | pathlib.Path, styles: Styles) -> None:
  """Writes styles to a new `.npz` file.

  Raises:
    ValueError: If the suffix is different.
    FileExistsError: If the file exists.
  """
  arrays = {KEY: np.asarray(styles.w, np.float32)}
  if styles.transform is not None:
    arrays[_TRANSFORM] = np.asarray(styles.transform, np.float32)
  arrays |= {_NOISE + name: np.asarray(x) for name, x in styles.noise.items()}
  model_files.save_arrays(path, arrays)


def sample(
  model: model_lib.Model,
  count: int,
  *,
  seed: int = 0,
  label: Float[AnyArray, ' classes'] | None = None,
) -> Iterator[Float[np.ndarray, 'n d']]:
  """Yields the styles of random latents, in batches.

  Args:
    model: The model.
    count: Number of styles, rounded up to a multiple of 1000.
    seed: Random seed of the latents.
    label: Label of all latents of a conditional model; by default, labels are
      one-hot vectors of random classes.

  Yields:
    Styles [1000, w_dim], float32, equal for all layers.
  """
  rng = np.random.RandomState(seed)
  for _ in range(-(-count // _BATCH)):
    z = rng.randn(_BATCH, model.z_dim).astype(np.float32)
    c = None
    if model.label_dim:
      classes = rng.randint(0, model.label_dim, _BATCH)
      c = np.eye(model.label_dim, dtype=np.float32)[classes]
      if label is not None:
        c = np.tile(np.asarray(label, np.float32), (_BATCH, 1))
    yield np.asarray(model.mapping(z, c))[:, 0]


def statistics(
  model: model_lib.Model,
  count: int = 10_000,
  *,
  seed: int = 0,
  label: Float[AnyArray, ' classes'] | None = None,
) -> Statistics:
  """Returns the mean and scale of a model's styles, from random latents.

  Args:
    model: The model.
    count: See `sample`.
    seed: See `sample`.
    label: See `sample`.
  """
  total = squares = 0
  number = 0
  for w in sample(model, count, seed=seed, label=label):
    w = w.astype(np.float64)
    total, squares = total + w.sum(0), squares + np.square(w).sum(0)
    number += len(w)
  mean = np.asarray(total / number)
  variance = np.maximum(squares / number - mean**2, 0)
  return Statistics(mean.astype(np.float32), float(np.sqrt(np.mean(variance))))


def _is_noise(name: str) -> bool:
  return name.startswith(_NOISE)


def _expanded(
  w: np.ndarray, num_ws: int, w_dim: int, path: pathlib.Path
) -> Float[np.ndarray, 'n l d']:
  """Returns styles as [n, num_ws, w_dim].

  Raises:
    ValueError: If they do not fit, or are not finite numbers.
  """
  shape = w.shape
  if w.ndim == 2:
    w = w[None] if shape == (num_ws, w_dim) else w[:, None]
  fits = w.ndim == 3 and w.shape[1] in (1, num_ws) and w.shape[2] == w_dim
  if not fits or not len(w):
    raise ValueError(
      f'{KEY} in {path} must have the shape [n, {num_ws}, {w_dim}] for this '
      f'model, got {list(shape)}: use the styles of a model of this design'
    )
  if w.dtype.kind not in 'fiu' or not np.all(np.isfinite(w)):
    raise ValueError(
      f'{KEY} in {path} must contain finite numbers, got others: write it again'
    )
  return np.repeat(w, num_ws // w.shape[1], axis=1).astype(np.float32)


def _check_rows(
  array: np.ndarray, shape: tuple[int, ...], name: str, path: pathlib.Path
) -> None:
  if array.shape != shape or array.dtype.kind not in 'fiu':
    raise ValueError(
      f'{name} in {path} must be numbers of the shape {list(shape)}, got '
      f'{list(array.shape)}: write the file again'
    )
