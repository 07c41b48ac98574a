"""Sends one client the newest of the views that it asks for.

There is at most one frame on its way: the next one is rendered when the client
has shown the last one. Views that arrive in the meantime replace each other, so
that a slow connection or a large model lags by one frame, not by a queue.
"""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

from sg3jax.view import views

# Seconds between frames that look continuous, with some margin to 1/10.
_TARGET = 1 / 12

# Weight of the newest frame in the averages of times.
_NEWEST = 0.3


@dataclasses.dataclass(frozen=True)
class Request:
  """A view that a client asks for.

  Attributes:
    number: Number of the request, ascending.
    view: The view.
    moving: Whether the view is about to change again.
  """

  number: int
  view: views.View
  moving: bool = False


@dataclasses.dataclass(frozen=True)
class Quality:
  """What pictures are sent as.

  Attributes:
    side: Pixels per side at most; None for all.
    jpeg: Quality of JPEG, 1 to 95; None for lossless PNG.
  """

  side: int | None = None
  jpeg: int | None = None


# From the best to the smallest files.
LEVELS = (
  Quality(),
  Quality(1024, 90),
  Quality(512, 85),
  Quality(256, 80),
  Quality(128, 75),
)


class Pace:
  """Chooses what to leave out while a view moves, so that it moves smoothly.

  A frame takes the time to render it, and that to encode, send and decode it.
  Only the second gets shorter with smaller pictures, so they are chosen by it.
  """

  def __init__(self):
    self._level = 0
    self._transport = 0.0
    self._with_extras = 0.0

  def quality(self, *, moving: bool) -> Quality:
    """Returns the quality of the next frame: the best one if it is at rest."""
    return LEVELS[self._level] if moving else LEVELS[0]

  def has_extras(self, *, moving: bool) -> bool:
    """Returns whether the next frame has more than the images."""
    return not moving or self._with_extras <= _TARGET

  def observe(
    self, render: float, transport: float, *, moving: bool, extras: bool
  ) -> None:
    """Takes the times of a frame into account.

    Args:
      render: Seconds to render it.
      transport: Seconds from then until the client had shown it.
      moving: Whether it was of a moving view.
      extras: Whether it had more than the images.
    """
    if extras:
      # A compilation, which takes seconds, does not say how long others take.
      render = min(render, 3 * _TARGET)
      self._with_extras += _NEWEST * (render - self._with_extras)
    else:
      # Try again some time: the extras may be others, and cheaper.
      self._with_extras *= 1 - _NEWEST / 10
    if not moving:
      return
    self._transport += _NEWEST * (transport - self._transport)
    level = self._level
    if self._transport > _TARGET / 2:
      self._level = min(level + 1, len(LEVELS) - 1)
    elif self._transport < _TARGET / 8:
      self._level = max(level - 1, 0)
    if self._level != level:
      # Judge the new level by its own frames.
      self._transport = _TARGET / 4


class Stream:
  """Renders and sends the newest request, again and again."""

  def __init__(
    self,
    render: Callable[[Request, Quality, bool], Awaitable[bytes]],
    send: Callable[[bytes], Awaitable[None]],
    *,
    idle: Callable[[Request, Callable[[], bool]], Awaitable[None]],
    timeout: float = 20.0,
  ):
    """Makes a stream without requests.

    Args:
      render: Maps a request, the quality of its pictures and whether to render
        more than the images to a message.
      send: Sends a message.
      idle: Called with the request after each frame, and with a function that
        returns whether there is a newer one; it should return soon if so.
      timeout: Seconds for a message to be sent, and for it to be shown.
    """
    self._render, self._send, self._idle = render, send, idle
    self._timeout = timeout
    self._wanted: Request | None = None
    self._changed, self._shown = asyncio.Event(), asyncio.Event()
    self._sent = -1
    self.pace = Pace()

  def offer(self, request: Request) -> None:
    """Replaces the request to render next."""
    self._wanted = request
    self._changed.set()

  def acknowledge(self, number: int) -> None:
    """Notes that the client has shown the frame of a request."""
    if number >= self._sent:
      self._shown.set()

  async def run(self) -> None:
    """Serves requests until it is cancelled.

    Raises:
      TimeoutError: If the client does not take or show a frame in time.
    """
    while True:
      await self._changed.wait()
      self._changed.clear()
      request = self._wanted
      assert request is not None
      await self._serve(request)
      await self._idle(request, self._changed.is_set)

  async def _serve(self, request: Request) -> None:
    moving = request.moving
    extras = self.pace.has_extras(moving=moving)
    begin = time.monotonic()
    message = await self._render(
      request, self.pace.quality(moving=moving), extras
    )
    rendered = time.monotonic()
    self._shown.clear()
    self._sent = request.number
    async with asyncio.timeout(self._timeout):
      await self._send(message)
      await self._shown.wait()
    self.pace.observe(
      rendered - begin,
      time.monotonic() - rendered,
      moving=moving,
      extras=extras,
    )
