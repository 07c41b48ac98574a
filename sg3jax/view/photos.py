"""Projects a photograph that was sent to the viewer into its first model."""

import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image

from sg3jax import model as model_lib
from sg3jax.inversion import losses, projector, settings, targets

# Pixels of a photograph at most: it is decoded as a whole.
_MAX_PIXELS = 50_000_000

# A few hundred steps show what to expect; `sg3jax project` takes more. The
# input is held, so that the image moves as those of seeds do.
_SETTINGS = settings.Settings(
  transform='fixed',
  steps=300,
  refine_steps=0,
  candidates=64,
  optimize_noise=False,
  steps_per_check=10,
)


class CancelledError(Exception):
  """The projection was to end before it was finished."""


def project(
  content: bytes,
  model: model_lib.Model,
  label: Float[np.ndarray, ' classes'] | None,
  log: Callable[[int, int, float], bool],
  options: settings.Settings | None = None,
) -> tuple[Float[np.ndarray, '1 l d'], list[str]]:
  """Finds the styles of a photograph.

  Args:
    content: The contents of an image file.
    model: The model.
    label: The label whose styles to start from, for a conditional model.
    log: Called with the number of steps taken, that of all steps and the PSNR
      in dB; the projection ends if it returns False.
    options: Settings of the projection; those of the viewer by default.

  Returns:
    The styles, and sentences about what was changed in the photograph.

  Raises:
    ValueError: If the photograph cannot be read, or is too large.
    CancelledError: If `log` returned False.
  """
  chosen = options or _SETTINGS
  photos = _read(content, model)
  project_one = projector.Projector(
    model, losses.choose('pyramid', None)[1], chosen, label=label
  )

  def look(check: projector.Check) -> None:
    if not log(check.step, chosen.steps, float(check.psnr[0])):
      raise CancelledError

  found = project_one(photos.images, log=look)
  return np.asarray(found.styles.w, np.float32), list(photos.notes)


def _read(content: bytes, model: model_lib.Model) -> targets.Targets:
  """Returns the photograph in the shape of the model's images.

  Raises:
    ValueError: If it cannot be read, or is too large.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'photograph'
    path.write_bytes(content)
    try:
      with Image.open(path) as image:
        width, height = image.size
    except Exception as error:  # Decoders raise almost anything.
      raise ValueError(
        'the photograph must be an image file, but cannot be read: save it as '
        'PNG or JPEG'
      ) from error
    if width * height > _MAX_PIXELS:
      raise ValueError(
        f'the photograph must have at most {_MAX_PIXELS // 10**6} million '
        f'pixels, got {width}x{height}: make it smaller'
      )
    try:
      return targets.read(path, model.resolution, model.img_channels)
    except ValueError as error:
      raise ValueError(
        str(error).replace(str(path), 'the photograph')
      ) from error
