"""Cuts the pictures of a result page from the files of a run."""

import io
import pathlib

from PIL import Image

from sg3jax.eval import run_files
from sg3jax.pages import rendering

# A cell is never wider than this on the page, which keeps pages small.
_MAX_CELL = 128
# Below this width, cells are stored without loss and shown with visible pixels.
_MAX_PIXELATED = 64
# A larger clip stays a file beside the page.
_MAX_CLIP_BYTES = 8_000_000


def chosen_snapshots(
  run: pathlib.Path, most: int
) -> list[tuple[int, pathlib.Path]]:
  """Returns grids of generated images over time, each with its kimg.

  Args:
    run: The run folder.
    most: Number of grids from which only some are returned: the first, the
      last, and others at equal distances.
  """
  found = run_files.snapshots(run)
  count = min(most, len(found))
  steps = [i * (len(found) - 1) // max(count - 1, 1) for i in range(count)]
  return [found[i] for i in steps]


def cut_grid(
  path: pathlib.Path, resolution: int, columns: int, rows: int
) -> str:
  """Returns the first cells of a grid as an inlined picture.

  Args:
    path: The file of the grid.
    resolution: Side of a cell in pixels. Large cells are reduced.
    columns: Maximum number of columns.
    rows: Maximum number of rows.

  Raises:
    OSError: If the file cannot be read.
  """
  with Image.open(path) as grid:
    columns = min(columns, grid.width // resolution)
    rows = min(rows, grid.height // resolution)
    cells = grid.crop((0, 0, columns * resolution, rows * resolution))
  side = min(resolution, _MAX_CELL)
  if side < resolution:
    size = (columns * side, rows * side)
    cells = cells.resize(size, Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  cells.save(buffer, 'webp', lossless=is_pixelated(resolution), quality=90)
  return rendering.inlined(buffer.getvalue(), 'webp')


def is_pixelated(resolution: int) -> bool:
  """Returns whether enlarged images should show their pixels."""
  return resolution <= _MAX_PIXELATED


def inline_file(path: pathlib.Path) -> str | None:
  """Returns a picture's address for a page in its folder; None if it is absent.

  Large files are not inlined, but named.

  Raises:
    OSError: If the file cannot be read.
  """
  if not path.exists():
    return None
  if path.stat().st_size > _MAX_CLIP_BYTES:
    return path.name
  return rendering.inlined(path.read_bytes(), path.suffix.removeprefix('.'))
