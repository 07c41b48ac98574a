"""Two processes of one run, of which one alone meets an error."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import pytest

# Process 0 meets the errors, and both say how each block ended.
_HOST = """
  import pathlib
  import sys

  import jax

  sys.path.append(sys.argv[4])
  jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
  import noise
  import tiny

  from sg3jax.train import evaluation, loop, processes, sharding
  from sg3jax.train.run_folder import writer
  from sg3jax.types import Snapshot

  first = jax.process_index() == 0

  def full(*_):
    if first:
      raise OSError('No space left on device')

  def broken(snapshot):
    raise ValueError('broken everywhere')

  def report(block):
    try:
      print(f'{block.__name__}: {block()}', flush=True)
    except Exception as error:
      print(f'{block.__name__}: {type(error).__name__}', flush=True)

  def evaluate(evaluator):
    evaluators = evaluation.Evaluators([evaluator], print, lambda: False)
    return evaluators(Snapshot(pathlib.Path(), 0, False, None, {}))

  def alone():
    with processes.fail_together('write'):
      full()

  def evaluated_alone():
    evaluate(full)

  def evaluated_by_none():
    return evaluate(broken)

  def trained():
    writer.RunWriter.write_tick = full
    config = tiny.tiny_config(total_kimg=0.016)
    mesh = sharding.make_mesh()
    loop.train(config, noise.Noise(), sys.argv[3], mesh=mesh)

  with jax.set_mesh(sharding.make_mesh()):  # As a run has it.
    for block in (alone, evaluated_alone, evaluated_by_none):
      report(block)
  report(trained)
"""


@pytest.mark.slow
def test_an_error_on_one_process_ends_the_run_on_both(tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  hosts = [
    subprocess.Popen(
      [
        sys.executable,
        '-c',
        textwrap.dedent(_HOST),
        address,
        str(i),
        str(tmp_path),
        str(pathlib.Path(__file__).parent),
      ],
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  said = [host.communicate(timeout=400) for host in hosts]
  names = ('alone', 'evaluated_alone', 'evaluated_by_none', 'trained')
  outcomes = [
    [line for line in out.splitlines() if line.startswith(names)]
    for out, _ in said
  ]
  for found, error in zip(outcomes, ('OSError', 'RuntimeError'), strict=True):
    assert found == [
      f'alone: {error}',
      f'evaluated_alone: {error}',
      'evaluated_by_none: {}',
      f'trained: {error}',
    ], said
