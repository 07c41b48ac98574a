"""A viewer that serves in a thread, and models that need no compilation."""

import contextlib
import json
import struct
import threading
import time
import urllib.error
import urllib.request

import numpy as np
from websockets.sync import client as websocket_client

from sg3jax.view import client, engine, server, views


class PlainEngine(engine.Engine):
  """Shows the position as a colour, at once.

  It stands in for an engine with models, whose tests are elsewhere: what is
  tested with it is the server.
  """

  def __init__(self, seconds: float = 0.0):
    super().__init__(())
    self.seconds = seconds
    self.rendered = []

  def warm(self):
    pass

  def describe(self):
    return []

  def check(self, view: views.View):
    if view.label:
      raise ValueError('label must be 0')

  def render(self, view, photos=None, *, moving=False, extras=True):
    time.sleep(self.seconds)
    self.rendered.append(view)
    pixels = np.full((8, 8, 3), round(view.column), np.uint8)
    return engine.Frame((engine.Pane('image', 0, 'Image', pixels),))

  def tile(self, view, column, row):
    return np.zeros((4, 4, 3), np.uint8)


@contextlib.contextmanager
def serving(viewer):
  """Serves a viewer; yields its address, such as `localhost:8000`."""
  listener = server.bind('localhost', 0)
  one = server.make_server(viewer)
  thread = threading.Thread(target=one.run, kwargs={'sockets': [listener]})
  thread.start()
  try:
    while not one.started:
      time.sleep(0.01)
    yield f'localhost:{listener.getsockname()[1]}'
  finally:
    one.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def shop(outdir, one=None):
  """Returns what clients share, of a plain engine by default."""
  return client.Shop(one or PlainEngine(), outdir)


def get(address, path, **headers):
  """Returns the status, the headers and the body of an answer."""
  request = urllib.request.Request(f'http://{address}{path}', headers=headers)
  try:
    with urllib.request.urlopen(request, timeout=20) as answer:
      return answer.status, answer.headers, answer.read()
  except urllib.error.HTTPError as error:
    return error.code, error.headers, error.read()


def connect(address, query='', **options):
  """Opens a socket as a page does."""
  return websocket_client.connect(
    f'ws://{address}/socket{query}',
    open_timeout=20,
    max_size=None,
    max_queue=None,
    **options,
  )


def ask(socket, number=1, moving=False, **view):
  """Asks for a view, and returns the header of its frame and its pictures."""
  socket.send(
    json.dumps(
      {'type': 'view', 'number': number, 'moving': moving, 'view': view}
    )
  )
  while True:
    header, contents = unpack(socket.recv(20))
    if header['type'] in ('frame', 'error'):
      break
  if header['type'] == 'frame':
    socket.send(json.dumps({'type': 'shown', 'number': number}))
  return header, contents


def unpack(message):
  """Returns the header of a message, and the rest."""
  if isinstance(message, str):
    return json.loads(message), b''
  (length,) = struct.unpack('<I', message[:4])
  return json.loads(message[4 : 4 + length]), message[4 + length :]
