"""Messages between the page and the server.

The page sends JSON texts, `{"type": ..., ...}`, which are checked here, and
photographs as binary messages. The server sends JSON texts, and pictures as
binary messages: the length of a header as 4 bytes, little-endian; the header, a
JSON object; then the files that the header lists, one after the other.
"""

import dataclasses
import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sg3jax.view import stream, views

# With more, the page would be too far ahead of what it has seen.
_MAX_NUMBER = 2**53


@dataclasses.dataclass(frozen=True)
class Shown:
  """The page has shown the frame of a request.

  Attributes:
    number: Number of the request.
  """

  number: int


@dataclasses.dataclass(frozen=True)
class Save:
  """The page asks for a view to be saved.

  Attributes:
    view: The view.
  """

  view: views.View


@dataclasses.dataclass(frozen=True)
class Cancel:
  """The page asks for the projection to end."""


Message = stream.Request | Shown | Save | Cancel

# The fields of each type of message, besides `type`.
_FIELDS = {
  'view': {'number', 'view', 'moving'},
  'shown': {'number'},
  'save': {'view'},
  'cancel': set(),
}


def parse(text: str) -> Message:
  """Parses a message of the page.

  Raises:
    ValueError: If it is malformed; the message says what is wrong.
  """
  try:
    fields = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError('a message must be JSON') from error
  kind = fields.get('type') if isinstance(fields, Mapping) else None
  if not isinstance(kind, str) or kind not in _FIELDS:
    raise ValueError(
      f'a message must be an object with the type {", ".join(_FIELDS)}'
    )
  if set(fields) - {'type'} != _FIELDS[kind]:
    raise ValueError(
      f'a message of type {kind} must have the fields '
      f'{", ".join(sorted(_FIELDS[kind])) or "none"}'
    )
  if kind == 'cancel':
    return Cancel()
  if kind == 'save':
    return Save(views.parse(fields['view']))
  number = fields['number']
  if type(number) is not int or not 0 <= number < _MAX_NUMBER:
    raise ValueError(f'number must be an integer from 0, got {number!r:.50}')
  if kind == 'shown':
    return Shown(number)
  if not isinstance(fields['moving'], bool):
    raise ValueError('moving must be true or false')
  return stream.Request(number, views.parse(fields['view']), fields['moving'])


def pack(header: Mapping[str, Any], contents: Sequence[bytes]) -> bytes:
  """Returns a binary message: a header and files."""
  encoded = json.dumps(header).encode()
  return b''.join([struct.pack('<I', len(encoded)), encoded, *contents])


def encode(
  pixels: UInt8[np.ndarray, 'h w 3'], quality: stream.Quality
) -> tuple[bytes, str]:
  """Returns a picture as a file, and its media type."""
  image = Image.fromarray(pixels)
  if quality.side is not None:
    image.thumbnail((quality.side, quality.side), Image.Resampling.BOX)
  buffer = io.BytesIO()
  if quality.jpeg is None:
    # Smaller files take more time than they save on most networks.
    image.save(buffer, format='PNG', compress_level=1)
    return buffer.getvalue(), 'image/png'
  image.save(buffer, format='JPEG', quality=quality.jpeg, subsampling=0)
  return buffer.getvalue(), 'image/jpeg'
