"""Creates, styles and writes matplotlib figures.

matplotlib is slow to import, so only these functions import it, when called. A
standalone `Figure` does not affect pyplot's state or the display.
"""

import io
import math
from typing import Any

from sg3jax import files
from sg3jax.eval.plots import grids

# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')

_DPI = 110


def make_figure(width: float, height: float) -> Any:
  """Returns an empty figure with a size in inches."""
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), layout='constrained')


def make_panels(
  count: int,
  *,
  columns: int,
  size: tuple[float, float],
  margin: tuple[float, float] = (0.0, 0.0),
  **options: Any,
) -> tuple[Any, list[Any]]:
  """Returns a figure and its panels, side by side and row by row.

  Args:
    count: Number of panels.
    columns: Maximum number of panels in a row.
    size: Width and height of a panel, in inches.
    margin: Additional width and height around the panels, in inches.
    **options: Options of `Figure.subplots`.
  """
  columns = min(columns, count)
  rows = math.ceil(count / columns)
  figure = make_figure(
    size[0] * columns + margin[0], size[1] * rows + margin[1]
  )
  axes = figure.subplots(rows, columns, squeeze=False, **options).flat
  for axis in axes[count:]:
    axis.remove()
  return figure, list(axes[:count])


def style_axis(axis: Any) -> None:
  """Gives an axis the common style: a light grid and small labels."""
  axis.tick_params(which='both', labelsize=8)
  axis.grid(color='0.9', linewidth=0.7)
  axis.set_axisbelow(True)
  axis.spines[['top', 'right']].set_visible(False)
  axis.margins(x=0.02)


def save(figure: Any, path: grids.Path) -> None:
  """Writes a figure as a PNG file, completely or not at all.

  Args:
    figure: The figure.
    path: The file; an existing one is replaced. Folders are created.

  Raises:
    OSError: If the file cannot be written.
  """
  files.write_bytes(path, to_png(figure))


def to_png(figure: Any) -> bytes:
  """Returns the content of a PNG file of a figure."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=_DPI)
  return buffer.getvalue()
