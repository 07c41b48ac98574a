"""Signals: what they ask of a program, and what a second one does."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from sg3jax.train import preemption

# Says that it is ready, works on for a while, and then what it was told.
_WORK = """
  import hashlib, sys, time
  from sg3jax.train import preemption
  with preemption.stop_on_signals() as stop:
    print('ready', flush=True)
    while not stop.reached(0):
      time.sleep(0.01)
    print(stop.signal, flush=True)
    if sys.argv[1:]:  # As in a compilation: no bytecode runs for long.
      hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
  sys.exit(preemption.EXIT_CODE)
"""


def _start(script, *args):
  return subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(script), *args],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request(number):
  process = _start(_WORK)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(number)
  out, error = process.communicate(timeout=60)
  assert out == f'{number.name}\n'
  assert process.returncode == preemption.EXIT_CODE == 75
  (line,) = error.splitlines()
  assert line.startswith(f'{number.name}: the run finishes its step, saves')


def test_the_second_signal_ends_the_process_at_once():
  process = _start(_WORK, 'stuck')
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGTERM)
  assert process.stdout.readline() == 'SIGTERM\n'
  time.sleep(0.2)
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=10)
  assert process.returncode == 128 + signal.SIGINT


def test_handlers_are_given_back():
  before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
  with preemption.stop_on_signals() as stop:
    assert not stop.reached(1)
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not stop.reached(2):
      assert time.monotonic() < deadline
      time.sleep(0.01)
  after = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
  assert after == before
  assert signal.set_wakeup_fd(-1) == -1


# A step of one host needs the others': they must stop after the same one.
_HOST = """
  import sys, time
  import jax
  jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
  from sg3jax.train import preemption
  with preemption.stop_on_signals() as stop:
    print('ready', flush=True)
    step = 1
    while not stop.reached(step):
      step += 1
      time.sleep(0.1 + 0.1 * jax.process_index())
  print(step, stop.signal, flush=True)
"""


def test_several_hosts_stop_after_the_same_step():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  hosts = [_start(_HOST, address, str(i)) for i in range(2)]
  for host in hosts:
    assert host.stdout.readline() == 'ready\n'
  time.sleep(0.5)
  hosts[1].send_signal(signal.SIGTERM)
  said = [host.communicate(timeout=120) for host in hosts]
  assert said[0][0] == said[1][0], said
  assert said[0][0].endswith(' SIGTERM\n')
