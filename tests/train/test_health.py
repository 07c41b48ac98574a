"""Losses that are no numbers, evaluators that fail, figures that rank."""

import math
import pathlib

import pytest

from sg3jax.train import evaluation, health, profiling, statistics
from sg3jax.types import Snapshot

_GOOD = statistics.summarize({'Loss/G/loss': 0.7, 'Timing/total_sec': math.nan})
_SICK = statistics.summarize({'Loss/G/loss': math.nan, 'Loss/D/loss': 1.0})


def test_losses_that_stay_not_finite_end_the_run():
  said = []
  watch = health.LossWatch(3, said.append)
  healthy = [
    watch.update(stats, kimg, 'runs/a/checkpoints/7')
    for kimg, stats in enumerate([_GOOD, _SICK, _SICK, _GOOD, _SICK, _SICK])
  ]
  assert healthy == [True, False, False, True, False, False]
  assert len(said) == 4
  assert 'Loss/G/loss = nan' in said[0]
  assert 'Loss/D/loss' not in said[0]
  with pytest.raises(FloatingPointError) as error:
    watch.update(statistics.summarize({'Loss/D/loss': math.inf}), 6, 'a/7')
  assert str(error.value).startswith(
    'the run has diverged: Loss/D/loss = inf, not finite since 4 kimg, for 3 '
    'tick(s) in a row. The last good checkpoint is a/7. Try a lower train.g_lr'
  )
  for remedy in ('model.precision=fp32', 'train.r1_gamma', 'another workdir'):
    assert remedy in str(error.value)


@pytest.mark.parametrize('empty', [{}, statistics.summarize({'Timing/x': 1})])
def test_statistics_without_losses_change_nothing(empty):
  watch = health.LossWatch(2, print)
  assert watch.update(empty, 0, 'a/7')
  assert not watch.update(_SICK, 1, 'a/7')
  assert not watch.update(empty, 1, 'a/7')
  assert not watch.healthy
  # They interrupt no row of sick ticks either.
  with pytest.raises(FloatingPointError, match='since 1 kimg, for 2 tick'):
    watch.update(_SICK, 2, 'a/7')


def _snapshot(kimg):
  return Snapshot(pathlib.Path(), kimg, False, None, {})


def test_a_failing_evaluator_costs_its_figures_alone():
  def broken(snapshot):
    if snapshot.kimg == 2:
      raise MemoryError('out of memory')
    raise FileNotFoundError('the images are gone\nfor ever')

  said = []
  evaluators = evaluation.Evaluators(
    [broken, lambda snapshot: {'swd': snapshot.kimg}],
    said.append,
    lambda: False,
  )
  assert [evaluators(_snapshot(kimg)) for kimg in (0, 1, 2)] == [
    {'swd': 0}, {'swd': 1}, {'swd': 2}
  ]  # fmt: skip
  tracebacks = [text for text in said if text.startswith('Traceback')]
  assert len(tracebacks) == 2  # One for each kind of failure.
  assert "raise FileNotFoundError('the images" in tracebacks[0]
  warnings = [text for text in said if text.startswith('Warning: ')]
  assert warnings[1] == (
    'Warning: an evaluation at 1 kimg has failed; the run continues '
    '(FileNotFoundError: the images are gone)'
  )
  assert len(warnings) == 3


def test_a_user_who_interrupts_an_evaluator_is_heard():
  def interrupted(snapshot):
    raise KeyboardInterrupt

  evaluators = evaluation.Evaluators([interrupted], print, lambda: False)
  with pytest.raises(KeyboardInterrupt):
    evaluators(_snapshot(0))


def test_a_run_that_has_to_stop_evaluates_no_further():
  asked = []

  def last(snapshot):
    asked.append(True)
    return {'swd': 1.0}

  said = []
  evaluators = evaluation.Evaluators(
    [last, last], said.append, lambda: bool(asked)
  )
  assert evaluators(_snapshot(0)) == {'swd': 1.0}
  assert len(asked) == 1
  assert said[-1].startswith('Evaluation is skipped')


@pytest.mark.parametrize(
  'text', ['5', '5:', ':5', '0:3', '4:3', 'a:b', '1:2:3']
)
def test_steps_to_profile_that_are_not_understood(text):
  with pytest.raises(ValueError, match=f'^--profile={text} is not understood'):
    profiling.parse_steps(text)


def test_steps_to_profile():
  assert profiling.parse_steps('20:22') == range(20, 23)
