"""Draws what stands for the photographs of a reader."""

import pathlib

import numpy as np
from PIL import Image


def draw(
  rng: np.random.RandomState, size: tuple[int, int], mode: str = 'RGB'
) -> Image.Image:
  """Returns a smooth random picture of a size, columns and rows."""
  coarse = Image.fromarray(rng.randint(0, 256, (5, 5, 3), np.uint8))
  return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


def write(path: str, photo: Image.Image) -> None:
  """Writes a picture, and makes its folder."""
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  photo.save(path)
