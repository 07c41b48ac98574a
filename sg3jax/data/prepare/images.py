"""Prepares one image, as each process does."""

import dataclasses
import hashlib

from sg3jax.data.prepare import conversion, raw_sources, transforms
from sg3jax.data.prepare import options as options_lib


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The result for one image of the source.

  Attributes:
    index: Its position in the source.
    png: The prepared image as a PNG file; None if there is none.
    error: Why there is none; empty otherwise.
    notes: Keys of `conversion.NOTES`.
    sha256: Hash of `png`; empty without it.
  """

  index: int
  png: bytes | None = None
  error: str = ''
  notes: tuple[str, ...] = ()
  sha256: str = ''


@dataclasses.dataclass(frozen=True)
class Preparer:
  """Prepares images of a source; it can be pickled.

  Attributes:
    source: The images.
    options: The changes to make.
    has_label: Whether each image has the label that it needs; None if none is
      needed.
    shape: Side and channels that images must have; None for the first image.
  """

  source: raw_sources.RawSource
  options: options_lib.Options
  has_label: tuple[bool, ...] | None = None
  shape: tuple[int, int] | None = None

  def __call__(self, index: int) -> Outcome:
    """Returns the outcome for an image.

    Raises:
      OSError: If the disk or the network fails to deliver it, which says
        nothing about the image.
    """
    if self.has_label is not None and not self.has_label[index]:
      return Outcome(index, error='it has no label, but others have')
    name = self.source.names[index]
    try:
      contents = self.source.read(index)
    except MemoryError:
      raise
    except Exception as error:  # Archives raise almost anything.
      if isinstance(error, OSError) and error.errno is not None:
        raise OSError(
          f'{name} cannot be read ({error.strerror}): it may be intact; check '
          'its permissions, the disk and the network'
        ) from error
      return Outcome(
        index, error=f'it cannot be read ({conversion.reason(error)})'
      )
    try:
      image, notes = conversion.load(contents, self.options)
      image, more = transforms.apply(image, self.options, name)
    except (conversion.UnusableError, transforms.UnfitError) as error:
      return Outcome(index, error=str(error))
    shape = (image.width, len(image.getbands()))
    if self.shape is not None and shape != self.shape:
      return Outcome(index, error=_differs(shape, self.shape))
    png = conversion.encode(image)
    notes += more
    return Outcome(index, png, '', notes, hashlib.sha256(png).hexdigest())


def _differs(shape: tuple[int, int], expected: tuple[int, int]) -> str:
  side, channels = shape
  if channels != expected[1]:
    names = {1: 'grey', 3: 'RGB', 4: 'RGBA'}
    return (
      f'it must be {names[expected[1]]} like the first image, got '
      f'{names[channels]}: set channels'
    )
  return (
    f'it must have {expected[0]}x{expected[0]} pixels like the first image, '
    f'got {side}x{side}: set resolution'
  )
