"""Which checkpoint is the best one, whatever metric a run chooses by."""

import json
import math
import shutil

import fake_state
import pytest

from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train.checkpoint import ranking

_SWD = ranking.Best('swd', higher_is_better=False)
_EQT = ranking.Best('eqt', higher_is_better=True)
_NEW = ranking.Best('beauty', higher_is_better=True)  # Of no known kind.


def _save(workdir, measured, best, keep=1):
  """Saves states of those steps, in one session, with those values."""
  checkpoints = checkpoint_lib.Checkpoints(workdir, keep=keep, best=best)
  for step, values in measured.items():
    checkpoints.save(fake_state.make_state(step, width=4), {}, values)
  checkpoints.close()


def _names(workdir):
  return sorted(p.name for p in (workdir / checkpoint_lib.FOLDER).iterdir())


def _best(workdir):
  path = workdir / checkpoint_lib.FOLDER / checkpoint_lib.BEST
  return checkpoint_lib.load_networks(path)[2]


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Step 2 has the lowest swd, step 3 the highest eqt."""
  workdir = tmp_path_factory.mktemp('run')
  values = {1: (3.0, 10.0), 2: (1.0, 5.0), 3: (2.0, 30.0)}
  measured = {s: {'swd': a, 'eqt': b} for s, (a, b) in values.items()}
  _save(workdir, measured, _SWD, keep=3)
  return workdir


@pytest.fixture
def run(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'run')


@pytest.mark.parametrize(
  ('best', 'kept', 'step'),
  [
    (_SWD, ['2', '4'], 2),
    (_EQT, ['3', '4'], 3),
    (_NEW, ['4'], 4),
    (None, ['4'], None),
  ],
)
def test_a_resumed_run_may_choose_by_another_metric(run, best, kept, step):
  # These values would be the best in either direction, were they compared.
  values = {'swd': 2.5, 'eqt': 7.0, 'beauty': 1e9}
  _save(run, {4: values}, best)
  assert _names(run) == kept
  if step:
    assert _best(run) == step
  else:
    with pytest.raises(FileNotFoundError, match='has a value to be the best'):
      _best(run)


def test_a_run_that_chose_by_none_may_choose_by_its_values(tmp_path):
  _save(tmp_path, {1: {'swd': 1.0}, 2: {'swd': 2.0}}, None, keep=2)
  _save(tmp_path, {3: {'swd': 3.0}}, _SWD)
  assert _names(tmp_path) == ['1', '3']
  assert _best(tmp_path) == 1


def test_values_of_other_metrics_are_never_compared(tmp_path):
  _save(tmp_path, {1: {'fid': 0.1}, 2: {'swd': 300.0}}, _SWD, keep=2)
  assert _best(tmp_path) == 2


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_not_the_best(tmp_path, value):
  _save(tmp_path, {1: {'swd': 1.0}, 2: {'swd': value}}, _SWD, keep=2)
  assert _best(tmp_path) == 1


def _age(workdir, step, name, value):
  """Turns a checkpoint into one of before all values were stored."""
  folder = workdir / checkpoint_lib.FOLDER / str(step)
  shutil.rmtree(folder / 'measured')
  if name:
    (folder / 'metrics').mkdir()
    (folder / 'metrics' / 'metrics').write_text(json.dumps({name: value}))
  return folder


def test_older_checkpoints_count_with_their_one_value(run):
  _age(run, 1, 'swd', 3.0)
  _age(run, 2, 'swd', 1.0)
  _age(run, 3, None, None)
  assert _best(run) == 2
  _save(run, {4: {'swd': 1.5, 'eqt': 1.0}}, _SWD)
  assert _names(run) == ['2', '4']
  assert _best(run) == 2
  _save(run, {5: {'swd': 9.0, 'eqt': 2.0}}, _EQT)  # That they do not have.
  assert _names(run) == ['5']


def test_older_values_of_two_metrics_are_not_compared(run):
  _age(run, 1, 'eqt', 100.0)
  _age(run, 2, 'swd', 1.0)
  _age(run, 3, 'swd', 2.0)
  assert _best(run) == 2


def test_a_damaged_record_is_named_and_does_not_end_a_run(run):
  path = run / checkpoint_lib.FOLDER / '2' / 'measured' / 'metadata'
  for text in ('{"val', '[]', '{"values": 3, "best": null}', 'null'):
    path.write_text(text)
    with pytest.raises(ValueError, match=str(path)):
      _best(run)
  _save(run, {4: {'swd': 2.5}}, _SWD)
  assert _names(run) == ['3', '4']


@pytest.mark.parametrize(
  ('name', 'higher'),
  [('swd', False), ('fid50k_full', False), ('kid50k', False),
   ('ppl2_wend', False), ('eqt50k_int', True), ('eqr50k', True),
   ('is50k_mean', True), ('pr50k3', True)],
)  # fmt: skip
def test_older_values_have_the_direction_of_their_kind(name, higher):
  assert ranking.old_best(name) == ranking.Best(name, higher)


def test_an_older_value_of_no_known_kind_is_refused():
  with pytest.raises(ValueError, match=r"with swd.*got 'loss'"):
    ranking.old_best('loss')


def test_only_numbers_are_stored():
  measured = ranking.measure({'swd': 2.0, 'fid50k_full': math.nan}, _SWD)
  assert measured == ranking.Measured({'swd': 2.0}, _SWD)
  assert ranking.measure(None, None) == ranking.Measured()


def test_of_equal_values_the_newest_is_the_best():
  same = ranking.Measured({'swd': 1.0}, _SWD)
  assert ranking.best_step({1: same, 3: same, 2: same}) == 3
