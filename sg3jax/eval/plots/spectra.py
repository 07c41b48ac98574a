"""Plots of average power spectra (paper Fig. 13) and of energy by layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from sg3jax.eval.analysis import spectra
from sg3jax.eval.plots import figures

# The paper's ranges, in dB.
_HEATMAP = np.arange(-40, 21, 5)
_SLICE = (-50, 30)

_REALS = '0.15'  # The colour of real images.
_SIZE = (3.25, 2.8)


def plot_heatmap(decibels: Float[np.ndarray, 'm m']) -> Any:
  """Returns a figure of a spectrum over the plane, in cycles per image.

  Args:
    decibels: The result of `spectra.heatmap`.
  """
  figure = figures.make_figure(*_SIZE)
  axis = figure.subplots()
  limit = (len(decibels) - 1) / 2 / spectra.INTERP
  frequencies = np.linspace(-limit, limit, len(decibels))
  filled = axis.contourf(
    frequencies,
    frequencies,
    np.clip(decibels, _HEATMAP[0], _HEATMAP[-1]),
    levels=_HEATMAP,
    cmap='Blues',
  )
  axis.set_aspect('equal')
  axis.set_xlabel('cycles per image', fontsize=9)
  axis.tick_params(labelsize=8)
  bar = figure.colorbar(filled, ax=axis)
  bar.set_label('power (dB)', fontsize=9)
  bar.ax.tick_params(labelsize=8)
  return figure


def plot_slices(
  slices: Mapping[str, spectra.Slices], angle: int, *, reals: str | None
) -> Any:
  """Returns a figure of the spectra of several sets along one direction.

  Args:
    slices: The slices by the names of the sets.
    angle: 0 or 45 degrees.
    reals: The name of the set of real images, plotted in black; None if there
      is none.

  Raises:
    ValueError: If the angle is another one.
  """
  if angle not in (0, 45):
    raise ValueError(f'the angle of a slice must be 0 or 45, got {angle}')
  figure = figures.make_figure(*_SIZE)
  axis = figure.subplots()
  colours = iter(figures.COLOURS * len(slices))
  for name, cut in slices.items():
    x, y = (
      (cut.frequencies_0, cut.decibels_0)
      if angle == 0
      else (cut.frequencies_45, cut.decibels_45)
    )
    is_real = name == reals
    axis.plot(
      x,
      y,
      color=_REALS if is_real else next(colours),
      linestyle='--' if is_real else '-',
      linewidth=1.3,
      label=name,
    )
  axis.set_ylim(*_SLICE)
  axis.set_title(f'{angle}° slice', fontsize=10, loc='left')
  axis.set_xlabel('cycles per image', fontsize=9)
  axis.set_ylabel('power (dB)', fontsize=9)
  figures.style_axis(axis)
  axis.legend(fontsize=8, frameon=False)
  return figure


def plot_leakage(
  fractions: Mapping[str, Mapping[str, float]], title: str
) -> Any:
  """Returns a figure of fractions of energy by layer, on a logarithmic axis.

  Args:
    fractions: Values by layer, by the names of models. NaN and 0 are left out.
    title: The title.
  """
  figure = figures.make_figure(*_SIZE)
  axis = figure.subplots()
  ticks: list[str] = []
  for (name, values), colour in zip(
    fractions.items(), figures.COLOURS * len(fractions), strict=False
  ):
    ticks = max(ticks, list(values), key=len)
    heights = np.array([value or np.nan for value in values.values()])
    axis.plot(
      np.arange(len(heights)),
      10 * np.log10(heights),
      color=colour,
      marker='o',
      markersize=4,
      linewidth=1.3,
      label=name,
    )
  axis.set_xticks(range(len(ticks)), ticks)
  axis.set_title(title, fontsize=10, loc='left')
  axis.set_xlabel('layer', fontsize=9)
  axis.set_ylabel('fraction of the energy (dB)', fontsize=9)
  figures.style_axis(axis)
  axis.legend(fontsize=8, frameon=False)
  return figure
