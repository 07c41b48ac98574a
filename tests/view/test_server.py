"""The server of the viewer, and what it refuses."""

import concurrent.futures
import contextlib
import io
import json
import socket as sockets
import sys
import time

import numpy as np
import pytest
import serving
import websockets
from conftest import GOLDENS
from PIL import Image

from sg3jax.cli import view as command
from sg3jax.view import client, server

sys.path.append(str(GOLDENS.parent / 'cli'))

import in_process

_LIMITS = server.Limits(photo=2**16, timeout=1.0)

_VIEW = '{"type": "view", "number": 1, "moving": false, "view": {}}'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run folder with a secret beside it, and a link to that."""
  root = tmp_path_factory.mktemp('root')
  run = root / 'run'
  run.mkdir()
  (root / 'secret.png').write_text('secret')
  (root / 'reals.png').write_text('secret')
  (run / 'secret.png').write_text('secret')
  (run / 'training_options.json').write_text('{"secret": 1}')
  (run / 'fakes000003.png').symlink_to(root / 'secret.png')
  for name in ('fakes000012.png', 'fakes_init.png'):
    Image.new('RGB', (4, 4)).save(run / name)
  tick = {
    'Progress/kimg': {'mean': 1.5},
    'Loss/G/loss': {'mean': 0.5, 'std': 0.1},
    'Timing/total_sec': {'mean': 60},
  }
  (run / 'stats.jsonl').write_text(json.dumps(tick) + '\n{"Progress')
  (run / 'log.txt').write_text('first\n' * 50_000 + 'last\n')
  return run


@pytest.fixture(scope='module')
def viewer(run, tmp_path_factory):
  outdir = tmp_path_factory.mktemp('views')
  (outdir / 'view-0009.png').write_text('not ours')
  return server.Viewer(serving.shop(outdir), [run], limits=_LIMITS)


@pytest.fixture(scope='module')
def address(viewer):
  with serving.serving(viewer) as address:
    yield address


@pytest.fixture
def alive(address):
  """Checks that the server still serves after a test."""
  yield
  deadline = time.monotonic() + 10
  while True:  # What was cut off is noticed within the timeout.
    try:
      with serving.connect(address) as socket:
        assert serving.ask(socket, column=7)[0]['type'] == 'frame'
      return
    except websockets.ConnectionClosed:
      assert time.monotonic() < deadline


def test_the_page_needs_nothing_from_elsewhere(address):
  status, headers, page = serving.get(address, '/')
  assert status == 200
  assert "default-src 'self'" in headers['Content-Security-Policy']
  files = ['viewer.js', 'controls.js', 'training.js', 'viewer.css']
  contents = [serving.get(address, f'/page/{name}') for name in files]
  assert [status for status, _, _ in contents] == [200] * 4
  for content in (page, *(content for _, _, content in contents)):
    # The namespace of SVG is a name, not an address that is opened.
    text = content.decode().replace('http://www.w3.org/2000/svg', '')
    assert 'http://' not in text
    assert 'https://' not in text


def test_a_frame(address):
  with serving.connect(address) as socket:
    header, content = serving.ask(socket, number=5, column=200 / 3)
  assert header['number'] == 5
  (pane,) = header['panes']
  assert (pane['width'], pane['height'], pane['bytes']) == (8, 8, len(content))
  pixels = np.asarray(Image.open(io.BytesIO(content)))
  assert (pixels == 67).all()


def test_several_pages_have_separate_views(address):
  with serving.connect(address) as one, serving.connect(address) as two:
    for column in (3, 4):
      for socket, offset in ((one, 0), (two, 50)):
        _, content = serving.ask(socket, column, column=column + offset)
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        assert (pixels == column + offset).all()


@pytest.mark.parametrize(
  'path',
  [
    '/page/../server.py',
    '/page/%2e%2e/server.py',
    '/page/..%2fserver.py',
    '/page//etc/passwd',
    '/saved/../secret.png',
    '/saved/view-0009.png',
    '/saved/%2fetc%2fpasswd',
    '/runs/0/../reals.png',
    '/runs/0/..%2freals.png',
    '/runs/0/secret.png',
    '/runs/0/training_options.json',
    '/runs/0/fakes000003.png',
    '/runs/0/fakes000012.png%00.txt',
    '/runs/0/checkpoints',
    '/runs/1',
    '/runs/-1',
    '/runs/1/fakes000012.png',
    '/nothing',
  ],
)
def test_nothing_outside_its_folders_is_read(address, alive, path):
  # urllib would send the path as it is, and so does this.
  with sockets.create_connection(address.split(':'), timeout=20) as raw:
    head = [f'GET {path} HTTP/1.1', f'Host: {address}', 'Connection: close']
    raw.sendall('\r\n'.join([*head, '', '']).encode())
    answer = b''.join(iter(lambda: raw.recv(65536), b''))
  assert answer.split()[1] == b'404'
  assert b'secret' not in answer


def test_the_files_of_a_run(address, run):
  status, headers, content = serving.get(address, '/runs/0/fakes000012.png')
  assert (status, headers['Content-Type']) == (200, 'image/png')
  assert content == (run / 'fakes000012.png').read_bytes()
  state = json.loads(serving.get(address, '/runs/0')[2])
  assert state['name'] == 'run'
  assert state['kimg'] == 1.5
  assert [grid['kimg'] for grid in state['grids']] == [0, 3, 12]
  assert state['log'][-1] == 'last'
  assert len(state['log']) == 200
  (panel,) = state['panels']
  assert panel['lines'] == [{'label': 'generator', 'points': [[1.5, 0.5]]}]
  assert not state['clip']


@pytest.mark.parametrize(
  ('message', 'answer'),
  [
    ('', 'must be JSON'),
    ('[' * 5000, 'must be JSON'),
    ('3', 'must be an object'),
    ('{"type": ["view"]}', 'must be an object'),
    ('{"type": "shell", "command": "id"}', 'must be an object'),
    ('{"type": "save", "view": {}, "path": "/a"}', 'must have the fields view'),
    ('{"type": "save", "view": {"path": 1}}', "no field 'path'"),
    ('{"type": "shown", "number": -1}', 'number must be'),
    ('{"type": "shown", "number": true}', 'number must be'),
    ('{"type": "view", "number": 1, "moving": 1, "view": {}}', 'moving must'),
    (
      '{"type": "view", "number": 1, "moving": true, "view": {"x": 1e99}}',
      'x ',
    ),
    (
      '{"type": "view", "number": 1, "moving": true, "view": {"label": 1}}',
      'label must be 0',
    ),
  ],
)
def test_malformed_messages_are_answered(address, alive, message, answer):
  with serving.connect(address) as socket:
    socket.send(message)
    header, _ = serving.unpack(socket.recv(20))
    assert header['type'] == 'error'
    assert answer in header['text']
    # The page may go on.
    assert serving.ask(socket)[0]['type'] == 'frame'


def _until_closed(socket, messages):
  """Sends messages until the server closes; returns how it does so."""
  with contextlib.suppress(websockets.ConnectionClosed):
    for message in messages:
      socket.send(message)
    while True:
      socket.recv(20)
  return socket.protocol.close_rcvd


def _wait_for_nobody(viewer):
  deadline = time.monotonic() + 10
  while viewer._connected:
    assert time.monotonic() < deadline
    time.sleep(0.05)


@pytest.mark.parametrize('message', ['x' * 20_000, b'x' * 2**17])
def test_oversized_messages_end_the_connection(address, alive, message):
  with serving.connect(address) as socket:
    closed = _until_closed(socket, [message])
  assert closed.code in (1008, 1009)


def test_too_many_messages_end_the_connection(address, alive):
  messages = (f'{{"type": "shown", "number": {i}}}' for i in range(5000))
  with serving.connect(address) as socket:
    closed = _until_closed(socket, messages)
  assert (closed.code, closed.reason) == (1008, 'too many messages')


def test_of_fifty_connections_sixteen_are_served(address, alive):
  def use(number):
    with serving.connect(address) as socket:
      try:
        header, _ = serving.ask(socket, column=number)
      except websockets.ConnectionClosed as closed:
        return closed.rcvd.code
      time.sleep(1.0)
      return header['type']

  with concurrent.futures.ThreadPoolExecutor(50) as pool:
    results = list(pool.map(use, range(50)))
  assert results.count('frame') >= 16
  assert results.count(1013) == 50 - results.count('frame')
  assert results.count(1013) > 0


def test_a_dead_page_is_dropped(viewer, address, alive):
  with serving.connect(address) as socket:
    # It takes its frame, but never says that it has shown it.
    _until_closed(socket, [_VIEW])
  _wait_for_nobody(viewer)


def test_a_connection_that_breaks_off(viewer, address, alive):
  with serving.connect(address) as socket:
    socket.send(_VIEW)
    socket.socket.shutdown(sockets.SHUT_RDWR)
    _wait_for_nobody(viewer)


def test_pages_of_other_sites_are_refused(address):
  for headers in (
    {'Origin': 'http://evil.example'},
    {'Origin': 'null'},
    {'Origin': f'http://{address}.evil.example'},
  ):
    with pytest.raises(websockets.InvalidStatus, match='403'):
      serving.connect(address, additional_headers=headers)
  good = {'Origin': f'http://{address}'}
  with serving.connect(address, additional_headers=good) as socket:
    assert serving.ask(socket)[0]['type'] == 'frame'
  for host in ('evil.example', '[', 'localhost.evil.example:80'):
    assert serving.get(address, '/', Host=host)[0] == 403
    assert serving.get(address, '/about', Host=host)[0] == 403


def test_other_machines_need_the_token(tmp_path):
  viewer = server.Viewer(serving.shop(tmp_path), token='right')
  with serving.serving(viewer) as address:
    for query in ('', '?token=', '?token=wrong', '?token=right2'):
      for path in ('/', '/about', '/saved/a', '/runs/0', '/runs/0/reals.png'):
        assert serving.get(address, path + query)[0] == 403
      with pytest.raises(websockets.InvalidStatus, match='403'):
        serving.connect(address, query)
    assert serving.get(address, '/?token=right', Host='a.example')[0] == 200
    with serving.connect(address, '?token=right') as socket:
      assert serving.ask(socket)[0]['type'] == 'frame'


def test_loopback_addresses():
  for host in ('localhost', '127.0.0.1', '127.9.9.9', '::1'):
    assert server.is_loopback(host)
  for host in ('0.0.0.0', '::', '192.168.0.1', 'example.org', ''):
    assert not server.is_loopback(host)


def test_a_port_in_use_is_named(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with server.bind('localhost', 0) as listener:
    listener.listen()
    port = listener.getsockname()[1]
    message = in_process.error(command, tmp_path, f'--port={port}')
  assert f'localhost:{port}' in message
  assert 'choose another --port' in message


def test_a_model_that_does_not_exist_is_named(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  message = in_process.error(command, tmp_path / 'none', '--port=0')
  assert 'none' in message


def test_the_rate_allows_bursts():
  rate = client.Rate(10)
  assert sum(rate.take() for _ in range(100)) == 20
  time.sleep(0.15)
  assert rate.take()
