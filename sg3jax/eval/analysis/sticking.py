"""Measures of texture sticking (paper Fig. 1).

Detail sticks if it stays at its place on the screen while the content of the
image changes. It then survives in the mean of images of nearby latents, and
forms streaks in a slit scan: the pixels of one column over time.
"""

import numpy as np
from jaxtyping import Float, Num

from sg3jax.eval.analysis import spectra
from sg3jax.types import AnyArray

# Detail has more than this many cycles per pixel, in any direction: half of
# what the pixels can represent along an axis.
DETAIL = 0.25


def detail_energy(image: Num[AnyArray, 'h h c']) -> float:
  """Returns the energy of an image at frequencies above `DETAIL`.

  Args:
    image: A square image. It is weighted with a Kaiser window, because its
      borders do not match.

  Returns:
    The mean square of the detail, in the unit of the image squared.
  """
  x = np.asarray(image, np.float64)
  size = len(x)
  x = (x - x.mean((0, 1))) * spectra.window_2d(size)[:, :, None]
  power = np.square(np.abs(np.fft.fft2(x, axes=(0, 1)))) / size**2
  frequency = np.fft.fftfreq(size)
  radius = np.hypot(frequency[:, None], frequency)
  return float(power[radius > DETAIL].sum() / x.shape[2])


def detail_ratio(
  mean_image: Num[AnyArray, 'h h c'], central: Num[AnyArray, 'h h c']
) -> float:
  """Returns how much detail of an image survives in a mean of similar ones.

  Args:
    mean_image: The mean of images of latents near that of the central one.
    central: The central image.

  Returns:
    The ratio of their energies of detail: 0 if averaging blurs all detail, as
    detail that moves does, and 1 if nothing moves. NaN if the central image has
    no detail.
  """
  energy = detail_energy(central)
  return detail_energy(mean_image) / energy if energy else float('nan')


def scan_slit(
  frames: Num[AnyArray, 'f h w c'], column: int | None = None
) -> Num[AnyArray, 'h f c']:
  """Returns one column of pixels over time; time runs to the right.

  Args:
    frames: Frames of a clip.
    column: The column; by default the one in the middle.
  """
  column = frames.shape[2] // 2 if column is None else column
  return frames[:, :, column].swapaxes(0, 1)


def streakiness(scan: Num[AnyArray, 'h f c']) -> float:
  """Returns how much a slit scan consists of streaks along the time.

  The value is (V - T) / (V + T), where V is the energy of differences between
  neighbouring pixels of the slit, and T that of differences between successive
  frames.

  Args:
    scan: The result of `scan_slit`.

  Returns:
    1 if the pixels never change; 0 if the content moves along the slit by one
    pixel per frame, or if differences over time and space are equally strong;
    and -1 if the slit always has one colour, which changes. NaN if nothing
    differs. The value depends on the speed: compare clips of equal numbers of
    frames.
  """
  x = np.asarray(scan, np.float64)
  over_time = np.square(np.diff(x, axis=1)).mean()
  along_slit = np.square(np.diff(x, axis=0)).mean()
  total = along_slit + over_time
  return float((along_slit - over_time) / total) if total else float('nan')


def nearby_styles(
  ws: Float[AnyArray, '1 l d'],
  others: Float[AnyArray, 'n l d'],
  mean: Float[AnyArray, ' d'],
  radius: float,
) -> Float[np.ndarray, 'n l d']:
  """Returns styles near a central one.

  The distances have the distribution of styles around their mean, scaled:
  w + radius * (w_k - mean).

  Args:
    ws: The central styles.
    others: Styles of random latents.
    mean: The mean style.
    radius: The scale of the distances; 0 gives the central styles.
  """
  return np.asarray(ws + radius * (others - mean), np.float32)


def interpolate_latents(
  start: Float[AnyArray, ' z'], end: Float[AnyArray, ' z'], num_frames: int
) -> Float[np.ndarray, 'f z']:
  """Returns latents between two, at equal steps of a rotation.

  cos(t) * start + sin(t) * end, with t from 0 to a quarter turn, is distributed
  as the two independent latents are, so that all frames are typical images.

  Args:
    start: The latent of the first frame.
    end: The latent of the last frame.
    num_frames: Number of frames, at least 2.
  """
  t = np.linspace(0, np.pi / 2, num_frames)[:, None]
  return (np.cos(t) * start + np.sin(t) * end).astype(np.float32)
