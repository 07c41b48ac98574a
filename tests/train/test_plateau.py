"""Runs that end when their metric has not improved for a while."""

import json

import pytest
import run_tiny
import tiny

from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import loop, preemption, sharding
from sg3jax.train import plateau as plateau_lib

_SWD = checkpoint_lib.Best('swd', higher_is_better=False)
_EQT = checkpoint_lib.Best('eqt', higher_is_better=True)


def _write(workdir, kimg, value, name='swd'):
  line = json.dumps({'results': {name: value}, 'kimg': kimg})
  with (workdir / f'metric-{name}.jsonl').open('a') as file:
    file.write(f'{line}\n')


def test_the_time_counts_from_the_first_of_the_best_values(tmp_path):
  plateau = plateau_lib.Plateau(tmp_path, _SWD, 0.4)
  assert not plateau.reached()  # There is no value.
  for kimg, value, is_over in (
    (0.0, 9.0, False),
    (0.2, 5.0, False),
    (0.4, None, False),  # It was not finite.
    (0.5, 7.0, False),
    (0.6, 5.0, True),  # An equal value is no improvement.
    (0.8, 4.0, False),
  ):
    _write(tmp_path, kimg, value)
    assert bool(plateau.reached()) == is_over
    _write(tmp_path, kimg, 1.0, 'other')
    _write(tmp_path, kimg, 0.0)  # Of `evaluate`, later.
  _write(tmp_path, 1.2, 6.0)
  assert plateau.reached() == (
    'swd has not improved on 4 at 0.8 kimg for 0.4 kimg (train.plateau_kimg)'
  )


def test_the_direction_is_that_of_the_metric(tmp_path):
  for kimg, value in ((1.0, 10.0), (2.0, 20.0), (3.0, 30.0)):
    _write(tmp_path, kimg, value, 'eqt')
    _write(tmp_path, kimg, value)
  (tmp_path / 'metric-cut.jsonl').write_text('{"results": {"eqt": 0.')
  assert not plateau_lib.Plateau(tmp_path, _EQT, 1).reached()
  assert plateau_lib.Plateau(tmp_path, _SWD, 2).reached()
  assert not plateau_lib.Plateau(tmp_path, _SWD, 2.001).reached()
  assert not plateau_lib.Plateau(tmp_path, _SWD, None).reached()


def test_there_must_be_a_metric(tmp_path):
  with pytest.raises(ValueError, match=r'log\.keep_best must name the value'):
    plateau_lib.Plateau(tmp_path, None, 100)


def _evaluate(snapshot):
  """The best value is that of the first tick."""
  value = 1.0 if snapshot.kimg == 0.016 else 2.0
  _write(snapshot.workdir, snapshot.kimg, value)
  return {'swd': value}


class _StopAfter(preemption.Stop):
  """A request to stop after a step."""

  def __init__(self, step):
    super().__init__()
    self._step = step

  def reached(self, step):
    if step == self._step:
      self.signal = 'SIGTERM'
    return self.signal is not None


@pytest.mark.slow
@pytest.mark.usefixtures('shared_programs')
def test_an_interrupted_run_ends_where_it_would_have_ended(tmp_path):
  config = tiny.tiny_config(total_kimg=0.08)
  config.log.ticks_per_snapshot = 1
  config.log.keep_best = 'swd'
  config.train.plateau_kimg = 0.032

  def train(stop=None):
    state = loop.train(
      config,
      run_tiny.make_source(),
      tmp_path,
      mesh=sharding.make_mesh(1),
      evaluators=[_evaluate],
      best=_SWD,
      stop=stop,
    )
    return int(state.nimg), (tmp_path / 'log.txt').read_text()

  nimg, log = train(_StopAfter(5))
  assert nimg == 40
  assert 'Plateau' not in log
  nimg, log = train()
  assert nimg == 48
  assert 'Plateau:        swd has not improved on 1 at 0.016 kimg' in log
  assert log.rstrip().endswith('Done: 0.048 kimg')
  assert '% of the time so far' in log
  assert train()[0] == 48  # It is over.

  stats = (tmp_path / 'stats.jsonl').read_text().splitlines()
  seconds = [json.loads(s)['Timing/evaluation_sec']['mean'] for s in stats]
  assert len(seconds) == 3
  assert 0 < seconds[0] < seconds[1]
  assert seconds[2] >= seconds[1]  # The last session goes on from there.
