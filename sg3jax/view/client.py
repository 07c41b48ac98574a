"""One open page: what it asks for, and what it is sent."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sg3jax.view import engine as engine_lib
from sg3jax.view import messages, photos, saving, stream, views

# Columns and rows of the small images around the position in the grid of seeds,
# relative to it; the nearest ones first.
_AROUND = sorted(
  itertools.product(range(-3, 4), range(-3, 4)),
  key=lambda place: place[0] ** 2 + place[1] ** 2,
)

# Photographs that a page keeps; the oldest is forgotten.
_MAX_PHOTOS = 20

_Send = Callable[[bytes | str], Awaitable[None]]


class RefusedError(Exception):
  """The client does what no page of ours does; it is to be disconnected."""


@dataclasses.dataclass(frozen=True)
class Shop:
  """What the clients of a server share.

  Attributes:
    engine: The models.
    outdir: Folder for what is saved.
    directions: Where the directions were read from; empty if there are none.
    renderer: The thread that uses the engine.
    projecting: Held by the client whose photograph is being projected.
    saved: Names of the pictures that were saved.
  """

  engine: engine_lib.Engine
  outdir: pathlib.Path
  directions: str = ''
  renderer: concurrent.futures.ThreadPoolExecutor = dataclasses.field(
    default_factory=lambda: concurrent.futures.ThreadPoolExecutor(1, 'render')
  )
  projecting: threading.Semaphore = dataclasses.field(
    default_factory=threading.Semaphore
  )
  saved: set[str] = dataclasses.field(default_factory=set)


class Rate:
  """Limits how often something happens: a bucket that fills with time."""

  def __init__(self, per_second: float):
    self._per_second = per_second
    self._left, self._time = 2 * per_second, time.monotonic()

  def take(self) -> bool:
    """Returns whether it may happen once more."""
    now = time.monotonic()
    self._left += (now - self._time) * self._per_second
    self._left = min(self._left, 2 * self._per_second)
    self._time = now
    if self._left < 1:
      return False
    self._left -= 1
    return True


class Client:
  """Serves one page: its state is separate from that of the others."""

  def __init__(
    self, shop: Shop, send: _Send, *, per_second: float, timeout: float
  ):
    """Makes a client that has asked for nothing.

    Args:
      shop: What the clients share.
      send: Sends a message to the page; raises ConnectionError if it has left.
      per_second: Messages per second that the page may send, on average.
      timeout: See `stream.Stream`.
    """
    self._shop, self._send = shop, send
    self._rate = Rate(per_second)
    self._photos: dict[int, Any] = {}
    self._view = views.View()
    self._sent: set[Any] = set()
    self._stop_projection = threading.Event()
    self._is_projecting = False
    self._tasks: set[asyncio.Task] = set()
    self._stream = stream.Stream(
      self._render, send, idle=self._send_tiles, timeout=timeout
    )

  async def run(self) -> None:
    """Sends frames until it is cancelled.

    Raises:
      TimeoutError: If the page does not answer.
    """
    await self._stream.run()

  def close(self) -> None:
    """Ends what is done for the page."""
    self._stop_projection.set()
    for task in self._tasks:
      task.cancel()

  async def receive(self, message: str | bytes) -> None:
    """Handles a message of the page; answers a malformed one with an error.

    Raises:
      RefusedError: If there are too many messages.
    """
    if not self._rate.take():
      raise RefusedError('too many messages')
    try:
      if isinstance(message, bytes):
        self._start(self._project(message, self._view))
        return
      parsed = messages.parse(message)
      match parsed:
        case stream.Request():
          self._shop.engine.check(parsed.view)
          self._view = parsed.view
          self._stream.offer(parsed)
        case messages.Shown():
          self._stream.acknowledge(parsed.number)
        case messages.Save():
          self._start(self._save(parsed.view))
        case messages.Cancel():
          self._stop_projection.set()
    except ValueError as error:
      await self._say('error', text=str(error))

  def _start(self, work) -> None:
    """Does something beside the frames."""

    async def guarded() -> None:
      # The page may have left in the meantime.
      with contextlib.suppress(ConnectionError, TimeoutError):
        await work

    task = asyncio.get_running_loop().create_task(guarded())
    self._tasks.add(task)
    task.add_done_callback(self._tasks.discard)

  async def _say(self, kind: str, **fields: Any) -> None:
    await self._send(json.dumps({'type': kind, **fields}))

  async def _in_renderer(self, function: Callable[[], Any]) -> Any:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(self._shop.renderer, function)

  async def _render(
    self, request: stream.Request, quality: stream.Quality, extras: bool
  ) -> bytes:
    begin = time.monotonic()
    return await self._in_renderer(
      functools.partial(self._frame, request, quality, extras, begin)
    )

  def _frame(
    self,
    request: stream.Request,
    quality: stream.Quality,
    extras: bool,
    asked: float,
  ) -> bytes:
    """Renders and packs a frame, in the thread of the engine."""
    begin = time.monotonic()
    header: dict[str, Any] = {
      'type': 'frame',
      'number': request.number,
      'moving': request.moving,
      'extras': extras,
      'waited': begin - asked,
    }
    try:
      frame = self._shop.engine.render(
        request.view, self._photos, moving=request.moving, extras=extras
      )
    except ValueError as error:
      return messages.pack({**header, 'panes': [], 'notes': [str(error)]}, [])
    contents, panes = [], []
    for pane in frame.panes:
      content, kind = messages.encode(pane.pixels, quality)
      contents.append(content)
      height, width, _ = pane.pixels.shape
      panes.append(
        {
          'kind': pane.kind,
          'subject': pane.subject,
          'title': pane.title,
          'width': width,
          'height': height,
          'media': kind,
          'bytes': len(content),
        }
      )
    header |= {'panes': panes, 'notes': frame.notes}
    if not request.moving:
      header['commands'] = self._commands(request.view)
    header['seconds'] = time.monotonic() - begin
    return messages.pack(header, contents)

  def _commands(self, view: views.View) -> list[str]:
    """Returns the commands that make the images; empty for no seed's."""
    if not view.is_of_seed:
      return []
    shop = self._shop
    return [
      saving.command(one, view, shop.outdir, directions=shop.directions)
      for one in shop.engine.subjects
    ]

  async def _send_tiles(
    self, request: stream.Request, is_stale: Callable[[], bool]
  ) -> None:
    """Sends small images around the position, the nearest ones first.

    If there is a newer request, it stops after one.
    """
    view = request.view
    key = [view.psi, view.towards, view.label, view.edits]
    column, row = round(view.column), round(view.row)
    for x, y in _AROUND:
      place = ((column + x) % views.COLUMNS, (row + y) % views.ROWS)
      mark = (json.dumps(key), *place)
      if mark in self._sent:
        continue
      content = await self._in_renderer(
        functools.partial(self._tile, view, *place)
      )
      header = {'type': 'tile', 'key': key, 'place': place}
      await self._send(messages.pack(header, [content]))
      self._sent.add(mark)
      if is_stale():
        return

  def _tile(self, view: views.View, column: int, row: int) -> bytes:
    pixels = self._shop.engine.tile(view, column, row)
    return messages.encode(pixels, stream.Quality(engine_lib.TILE, 80))[0]

  async def _save(self, view: views.View) -> None:
    shop = self._shop
    try:
      saved = await self._in_renderer(
        functools.partial(
          saving.save,
          shop.engine,
          view,
          shop.outdir,
          photos=self._photos,
          directions=shop.directions,
        )
      )
    except (ValueError, OSError) as error:
      await self._say('error', text=f'nothing was saved: {error}')
      return
    shop.saved.update(one.path.name for one in saved)
    await self._say(
      'saved',
      files=[
        {'name': x.path.name, 'path': str(x.path), 'command': x.command}
        for x in saved
      ],
    )

  async def _project(self, content: bytes, view: views.View) -> None:
    """Projects a photograph in a thread, and reports how far it is."""
    await self._say('projecting', step=0, steps=0, psnr=None)
    if self._is_projecting or not self._shop.projecting.acquire(blocking=False):
      await self._say(
        'error',
        text='another photograph is being projected: try again when it is done',
      )
      return
    self._is_projecting = True
    self._stop_projection.clear()
    loop = asyncio.get_running_loop()

    def log(step: int, steps: int, psnr: float) -> bool:
      asyncio.run_coroutine_threadsafe(
        self._say('projecting', step=step, steps=steps, psnr=round(psnr, 2)),
        loop,
      )
      return not self._stop_projection.is_set()

    one = self._shop.engine.subjects[0]

    def work():
      # A thread cannot be cancelled: the lock is released when it has ended.
      try:
        return photos.project(content, one.model, one.label(view), log)
      finally:
        self._shop.projecting.release()

    try:
      ws, notes = await asyncio.to_thread(work)
    except photos.CancelledError:
      await self._say('cancelled')
    except (ValueError, OSError, FloatingPointError) as error:
      await self._say('error', text=str(error))
    else:
      number = max(self._photos, default=0) + 1
      while len(self._photos) >= _MAX_PHOTOS:
        del self._photos[min(self._photos)]
      self._photos[number] = ws
      await self._say('projected', photo=number, notes=notes)
    finally:
      self._is_projecting = False
