"""Serves the viewer: its page, its frames, and the files of runs.

Everything that a request can name is looked up in a fixed table, or checked
against a pattern and then against the files of one folder. Requests that are
too large, too many or malformed are refused.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import importlib.resources
import ipaddress
import logging
import pathlib
import socket
import threading
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence

import uvicorn
from starlette import applications, concurrency, requests, responses, routing
from starlette import websockets as starlette_websockets

from sg3jax.view import client as client_lib
from sg3jax.view import runs as runs_lib

_PAGE = {
  'index.html': 'text/html',
  'viewer.css': 'text/css',
  'controls.js': 'text/javascript',
  'training.js': 'text/javascript',
  'viewer.js': 'text/javascript',
}

_MEDIA = {'.png': 'image/png', '.webp': 'image/webp'}

# The page loads nothing from elsewhere, and no other page may contain it.
_HEADERS = {
  'Content-Security-Policy': (
    "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
  ),
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-store',
}

# Names of this machine for itself. Others, which a hostile page's own domain
# could resolve to this machine, are refused.
_LOCAL_NAMES = {'localhost', '127.0.0.1', '::1'}

# Codes with which connections are closed: RFC 6455, section 7.4.1.
_POLICY, _OVERLOADED = 1008, 1013

# What Starlette raises for a message to a page that has just left.
_GONE = (RuntimeError, starlette_websockets.WebSocketDisconnect)


_Handler = Callable[[requests.Request], Awaitable[responses.Response]]


@dataclasses.dataclass(frozen=True)
class Limits:
  """What the server takes from its clients.

  Attributes:
    clients: Pages that can be connected at a time.
    text: Characters of a message.
    photo: Bytes of a photograph.
    per_second: Messages per second of each page.
    timeout: Seconds that a page has to take and show a frame.
  """

  clients: int = 16
  text: int = 16 * 1024
  photo: int = 16 * 2**20
  per_second: float = 200.0
  timeout: float = 20.0


class Viewer:
  """The application: what it shows, and who is connected.

  Attributes:
    shop: The models with what clients share; None to show only runs.
    runs: Folders of training runs.
    token: What requests must contain; empty if everybody may connect.
    limits: What is taken from clients.
  """

  def __init__(
    self,
    shop: client_lib.Shop | None,
    runs: Sequence[pathlib.Path] = (),
    *,
    token: str = '',
    limits: Limits | None = None,
  ):
    self.shop, self.runs = shop, tuple(runs)
    self.token, self.limits = token, limits or Limits()
    self._connected = 0

  def application(self) -> applications.Starlette:
    """Returns the ASGI application."""
    return applications.Starlette(
      routes=[
        # These files are the same for everybody, and have no secrets.
        routing.Route('/page/{name}', self._page),
        *(
          routing.Route(path, self._guarded(handler))
          for path, handler in (
            ('/', self._index),
            ('/about', self._about),
            ('/saved/{name}', self._saved),
            ('/runs/{index:int}', self._run),
            ('/runs/{index:int}/{name}', self._picture),
          )
        ),
        routing.WebSocketRoute('/socket', self._socket),
      ]
    )

  def _refusal(self, request: requests.HTTPConnection) -> str:
    """Returns why a request is refused; empty if it is not."""
    if self.token:
      given = request.query_params.get('token', '')
      if not hmac.compare_digest(given.encode(), self.token.encode()):
        return 'the address must end with ?token=..., as it was printed'
      return ''
    if _host(request.headers.get('host', '')) not in _LOCAL_NAMES:
      return 'the host must be localhost or 127.0.0.1'
    return ''

  def _guarded(self, handler: _Handler) -> _Handler:
    """Returns a handler that answers only requests that are not refused."""

    async def guarded(request: requests.Request) -> responses.Response:
      if reason := self._refusal(request):
        return _text(f'403: {reason}', 403)
      return await handler(request)

    return guarded

  async def _index(self, request: requests.Request) -> responses.Response:
    return _page('index.html')

  async def _page(self, request: requests.Request) -> responses.Response:
    name = request.path_params['name']
    return _page(name) if name in _PAGE else _missing()

  async def _about(self, request: requests.Request) -> responses.Response:
    return responses.JSONResponse(
      {
        'models': self.shop.engine.describe() if self.shop else [],
        'runs': [run.name for run in self.runs],
        'max_photo': self.limits.photo,
      },
      headers=_HEADERS,
    )

  async def _saved(self, request: requests.Request) -> responses.Response:
    name = request.path_params['name']
    if self.shop is None or name not in self.shop.saved:
      return _missing()
    return _file(self.shop.outdir / name)

  async def _run(self, request: requests.Request) -> responses.Response:
    index = request.path_params['index']
    if index >= len(self.runs):
      return _missing()
    state = await concurrency.run_in_threadpool(runs_lib.read, self.runs[index])
    return responses.JSONResponse(state, headers=_HEADERS)

  async def _picture(self, request: requests.Request) -> responses.Response:
    index, name = request.path_params['index'], request.path_params['name']
    if index >= len(self.runs):
      return _missing()
    path = runs_lib.find_picture(self.runs[index], name)
    return _file(path) if path else _missing()

  async def _socket(self, socket: starlette_websockets.WebSocket) -> None:
    refusal = self._refusal(socket) or _foreign(socket)
    if refusal or self.shop is None:
      await socket.close(_POLICY)  # Before it is accepted: the status is 403.
      return
    await socket.accept()
    if self._connected >= self.limits.clients:
      await socket.close(_OVERLOADED, 'too many pages are open')
      return
    self._connected += 1
    try:
      await self._serve(socket, self.shop)
    finally:
      self._connected -= 1

  async def _serve(
    self, socket: starlette_websockets.WebSocket, shop: client_lib.Shop
  ) -> None:
    """Serves one page until it leaves, or is too slow, or misbehaves."""
    limits = self.limits

    async def send(message: bytes | str) -> None:
      try:
        async with asyncio.timeout(limits.timeout):
          if isinstance(message, bytes):
            await socket.send_bytes(message)
          else:
            await socket.send_text(message)
      except _GONE as error:
        raise ConnectionError('the page has left') from error

    client = client_lib.Client(
      shop, send, per_second=limits.per_second, timeout=limits.timeout
    )
    try:
      async with asyncio.TaskGroup() as group:
        frames = group.create_task(client.run())
        await self._receive(socket, client)
        frames.cancel()
    except* (TimeoutError, ConnectionError, *_GONE) as errors:
      logging.getLogger(__name__).debug('a page was closed: %s', errors)
    except* client_lib.RefusedError as errors:
      with contextlib.suppress(*_GONE):
        await socket.close(_POLICY, str(errors.exceptions[0]))
    finally:
      client.close()
      with contextlib.suppress(*_GONE):
        await socket.close()

  async def _receive(
    self, socket: starlette_websockets.WebSocket, client: client_lib.Client
  ) -> None:
    """Hands messages to the client until the page leaves."""
    while True:
      message = await socket.receive()
      if message['type'] == 'websocket.disconnect':
        return
      text, content = message.get('text'), message.get('bytes')
      if text is not None and len(text) > self.limits.text:
        raise client_lib.RefusedError('the message is too long')
      if content is not None and len(content) > self.limits.photo:
        raise client_lib.RefusedError('the photograph is too large')
      await client.receive(text if text is not None else content or b'')


def is_loopback(host: str) -> bool:
  """Returns whether only this machine can reach an address to bind to."""
  if host == 'localhost':
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def bind(host: str, port: int) -> socket.socket:
  """Returns a socket that listens at an address.

  Args:
    host: Name or address of the network interface.
    port: The port; 0 for a free one.

  Raises:
    OSError: If the address is in use, or is not one of this machine.
  """
  try:
    family, _, _, _, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
  except OSError as error:
    raise OSError(
      f'the viewer cannot listen at {host}:{port} ({error.strerror}): choose '
      'another --port, or --port=0 for a free one, or another --host'
    ) from error
  return listener


def serve(viewer: Viewer, listener: socket.socket) -> None:
  """Serves until the process is interrupted."""
  make_server(viewer).run(sockets=[listener])


def make_server(viewer: Viewer) -> uvicorn.Server:
  """Returns the server; the first models are compiled as soon as it runs."""
  config = uvicorn.Config(
    viewer.application(),
    log_level='warning',
    access_log=False,
    server_header=False,
    lifespan='off',
    ws='websockets-sansio',
    ws_max_size=viewer.limits.photo + 1,
    ws_ping_interval=20.0,
    ws_ping_timeout=20.0,
    # A page that waits for a frame must not keep the server from ending.
    timeout_graceful_shutdown=1,
    limit_concurrency=10 * viewer.limits.clients,
    h11_max_incomplete_event_size=64 * 1024,
  )
  if viewer.shop is not None:
    threading.Thread(
      target=viewer.shop.engine.warm, name='warm', daemon=True
    ).start()
  return uvicorn.Server(config)


def _host(header: str) -> str:
  """Returns the name in a Host header, or an empty text."""
  try:
    return urllib.parse.urlsplit(f'//{header}').hostname or ''
  except ValueError:  # An unmatched bracket, for example.
    return ''


def _foreign(socket: starlette_websockets.WebSocket) -> str:
  """Returns why a socket of another site's page is refused."""
  origin = socket.headers.get('origin')
  if origin is None:  # Not a browser, which always sends it.
    return ''
  own = socket.headers.get('host', '')
  if origin.partition('://')[2] != own:
    return 'the page must be that of the viewer'
  return ''


def _page(name: str) -> responses.Response:
  source = importlib.resources.files('sg3jax.view') / 'page' / name
  return responses.Response(
    source.read_bytes(), media_type=_PAGE[name], headers=_HEADERS
  )


def _file(path: pathlib.Path) -> responses.Response:
  try:
    content = path.read_bytes()
  except OSError:  # The run has just replaced it, or it was deleted.
    return _missing()
  return responses.Response(
    content, media_type=_MEDIA[path.suffix], headers=_HEADERS
  )


def _missing() -> responses.Response:
  return _text('404: there is no such page', 404)


def _text(content: str, status: int) -> responses.Response:
  return responses.PlainTextResponse(content, status, headers=_HEADERS)
