"""Renders the frames of videos, a batch of images at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from sg3jax import model as model_lib
from sg3jax.eval.plots import grids
from sg3jax.nets import layers, wide_spec
from sg3jax.render import pictures, styles
from sg3jax.types import AnyArray

# Maps styles [n, l, d], inverse transforms ([3, 3], [n, 3, 3] or None) and the
# seed of random noise to images.
Synthesize = Callable[..., Float[AnyArray, 'n h w c']]


def make_synthesis(
  model: model_lib.Model,
  *,
  extent: float | int = 1.0,
  noise_mode: str = 'const',
  transforms: bool = False,
) -> tuple[Synthesize, tuple[int, int, int]]:
  """Returns the synthesis of a model, and the shape of its images.

  Args:
    model: The model.
    extent: Width of the images in widths of the canvas: see `WideSpec`.
    noise_mode: See `Model.synthesis`.
    transforms: Whether it will be called with transforms.

  Returns:
    `synthesize(ws, transform, noise_seed)`, which compiles once for each batch
    size, and (rows, columns, channels).

  Raises:
    ValueError: If the generator does not accept transforms, or cannot have the
      extent, or the noise mode is unknown.
  """
  layers.check_noise_mode(noise_mode)
  generator = model.generator
  if extent != 1:
    generator = wide_spec.widen(generator, float(extent))
  if transforms and not generator.spec.takes_transforms:
    raise ValueError(
      'a transform was given, but this generator starts from a learned '
      'constant (StyleGAN2), which nothing moves: leave the transform out, or '
      'use an alias-free generator'
    )
  if extent == 1:

    def synthesize(ws, transform=None, noise_seed=0):
      return model.synthesis(ws, transform, noise_mode, noise_seed)

    return synthesize, generator.spec.image_shape
  apply = jax.jit(
    lambda variables, ws, transform: generator.apply(
      variables, ws, transform, noise_mode=noise_mode, method='synthesis'
    )
  )

  def synthesize_wide(ws, transform=None, noise_seed=0):
    del noise_seed  # Such generators have no noise inputs.
    return apply(model.variables, ws, transform)

  return synthesize_wide, generator.spec.image_shape


def render_stills(
  synthesize: Synthesize,
  source: Callable[[int, int], Float[np.ndarray, 'n l d']],
  count: int,
  transform: Float[AnyArray, '3 3'] | None = None,
  *,
  batch_size: int = 8,
  noise_seeds: Sequence[int] | None = None,
) -> Iterator[Float[np.ndarray, 'h w c']]:
  """Renders images one by one, in batches of one size.

  Args:
    synthesize: See `make_synthesis`.
    source: Maps (first, stop) to the styles of these images.
    count: Number of images.
    transform: Inverse transform of all images.
    batch_size: Number of images per batch.
    noise_seeds: Seeds of the images; the first one of each batch is that of its
      random noise. By default, they are the indices of the images.

  Yields:
    Images, float32, nominally in [-1, 1].
  """
  batch_size = min(batch_size, count)
  for first in range(0, count, batch_size):
    stop = min(first + batch_size, count)
    ws = source(first, stop)
    # Pad the last batch, so that all batches use one program.
    ws = np.concatenate([ws, np.repeat(ws[:1], batch_size - len(ws), axis=0)])
    noise_seed = noise_seeds[first] if noise_seeds else first
    images = synthesize(ws, transform, noise_seed)
    yield from np.asarray(images)[: stop - first]


def render(
  synthesize: Synthesize,
  path: styles.StylePath,
  times: Float[np.ndarray, ' f'],
  transforms: Float[np.ndarray, 'f 3 3'] | None = None,
  *,
  grid: tuple[int, int] = (1, 1),
  batch_size: int = 8,
  background: str = 'checkerboard',
) -> Iterator[UInt8[np.ndarray, 'height width 3']]:
  """Renders the frames of a path, in RGB.

  While a batch is read, the device computes the next one. Memory does not
  depend on the number of frames.

  Args:
    synthesize: See `make_synthesis`.
    path: The styles of all cells over time.
    times: The time of each frame, in keyframes: `StylePath.frame_times`.
    transforms: The inverse transform of each frame, for all of its cells.
    grid: The grid's (columns, rows); the path has as many cells.
    batch_size: Number of images per batch, over the borders of frames.
    background: Behind transparent images: see `pictures.BACKGROUNDS`.

  Yields:
    The frames, in order.
  """
  cells, images = grid[0] * grid[1], []
  batches = _batches(synthesize, path, times, transforms, cells, batch_size)
  for batch in batches:
    images.extend(pictures.to_rgb(image, background) for image in batch)
    while len(images) >= cells:
      yield grids.tile(np.stack(images[:cells]), grid)
      del images[:cells]


def _batches(
  synthesize: Synthesize,
  path: styles.StylePath,
  times: np.ndarray,
  transforms: np.ndarray | None,
  cells: int,
  batch_size: int,
) -> Iterator[UInt8[np.ndarray, 'n h w c']]:
  """Yields the images of all cells of all frames, without padding."""
  total = len(times) * cells
  batch_size = min(batch_size, total)

  def dispatch(first: int) -> AnyArray:
    # Pad the last batch, so that all batches use one program.
    index = np.minimum(np.arange(first, first + batch_size), total - 1)
    frame, cell = np.divmod(index, cells)
    ws = path.evaluate(times[frame[0] : frame[-1] + 1])[frame - frame[0], cell]
    return synthesize(ws, None if transforms is None else transforms[frame])

  ahead = dispatch(0) if total else None
  for first in range(0, total, batch_size):
    current = ahead
    if first + batch_size < total:
      ahead = dispatch(first + batch_size)  # Returns before it is computed.
    yield grids.to_uint8(np.asarray(current))[: total - first]


def side_by_side(
  videos: Iterable[Iterator[UInt8[np.ndarray, 'h w 3']]],
) -> Iterator[UInt8[np.ndarray, 'h width 3']]:
  """Yields the frames of several videos of equal height next to each other."""
  for frames in zip(*videos, strict=True):
    yield np.concatenate(frames, axis=1)
