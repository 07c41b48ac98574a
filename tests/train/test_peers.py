"""What a process does when another one, or its own loop, does not answer."""

import threading
import time

import pytest

from sg3jax.train import peers

INTERVAL, PATIENCE = 0.02, 0.3


class Store:
  """The key-value store of the coordination service, in this process."""

  def __init__(self):
    self.values = {}
    self.is_down = False

  def key_value_set(self, key, value, allow_overwrite=False):
    self._answer()
    assert allow_overwrite or key not in self.values
    self.values[key] = value

  def key_value_dir_get(self, prefix):
    self._answer()
    return [(k, v) for k, v in self.values.items() if k.startswith(prefix)]

  def _answer(self):
    if self.is_down:
      raise RuntimeError('UNAVAILABLE: failed to connect')


class Peer:
  """A watch with short intervals, whose end is recorded."""

  def __init__(self, store, index, number, **options):
    self.ended = threading.Event()
    self.status = None
    self.watch = peers.Watch(
      store,
      index=index,
      number=number,
      interval=INTERVAL,
      patience=PATIENCE,
      end=self._end,
      **options,
    )
    self.watch.start()

  def _end(self, status):
    self.status = status
    self.ended.set()


def test_a_process_that_falls_silent_is_named(capfd):
  store = Store()
  first, second = (Peer(store, i, 2) for i in range(2))
  second.watch.step = 7
  time.sleep(3 * INTERVAL)
  assert not first.ended.is_set()
  second.watch._stopped.set()  # As if it was killed: it says nothing.
  assert first.ended.wait(10)
  assert first.status == 75
  message = capfd.readouterr().err
  assert 'process 1 (' in message
  assert 'its last step was 7' in message
  assert 'start the same command again' in message


def test_a_process_that_never_answered_is_named(capfd):
  first = Peer(Store(), 0, 2)
  assert first.ended.wait(10)
  assert 'process 1 (unknown host)' in capfd.readouterr().err


def test_processes_that_are_done_are_not_missed():
  store = Store()
  first, second = (Peer(store, i, 2) for i in range(2))
  time.sleep(3 * INTERVAL)
  second.watch.stop()
  assert not first.ended.wait(3 * PATIENCE)
  first.watch.stop()


def test_a_coordinator_that_does_not_answer_is_named(capfd):
  store = Store()
  second = Peer(store, 1, 2)
  store.is_down = True
  assert second.ended.wait(10)
  assert 'process 0, which coordinates' in capfd.readouterr().err


def test_a_failed_computation_waits_for_the_name_of_who_failed():
  store = Store()
  first = Peer(store, 0, 2)
  start = time.monotonic()
  first.watch.wait()
  assert time.monotonic() - start >= PATIENCE
  assert first.ended.is_set()


@pytest.mark.parametrize('steps', [True, False])
def test_a_hang_shows_where_each_thread_is(capfd, steps):
  alone = Peer(None, 0, 1, hang_seconds=PATIENCE)
  for step in range(30):
    alone.watch.step = step if steps else 0
    time.sleep(INTERVAL)
  alone.watch.stop()
  message = capfd.readouterr().err
  assert ('test_a_hang_shows_where' in message) == (not steps)
  assert not alone.ended.is_set()
