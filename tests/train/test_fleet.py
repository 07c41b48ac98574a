"""The table of what each process waits for, and the choice of profiles."""

import jax
import pytest

from sg3jax.train import fleet, profiling


def paces(*waits):
  """Returns processes with steps of 1 s, by their (data, devices) seconds."""
  return [
    fleet.Pace(i, f'host-{i}', 1.0, data, devices)
    for i, (data, devices) in enumerate(waits)
  ]


def test_a_host_that_waits_for_data_is_named():
  table = fleet.report(paces((0.0, 0.9), (0.7, 0.1), (0.01, 0.9)))
  *rows, warning = table.splitlines()
  assert 'process 1 (host-1) is slow' in warning
  assert 'increase data.workers' in warning
  assert len(rows) == 2 + 3
  cells = [cell.strip() for cell in rows[3].split('|')[1:-1]]
  assert cells == ['1', 'host-1', '1,000', '700', '100']


def test_a_busy_host_is_named():
  table = fleet.report(paces((0.0, 0.9), (0.1, 0.1)))
  assert 'process 1 (host-1) is slow' in table
  assert 'busy with other things' in table


@pytest.mark.parametrize(
  'waits',
  [
    [(0.0, 0.9), (0.0, 0.8)],  # A tenth of a step is nothing.
    [(0.5, 0.2), (0.5, 0.2)],  # All are slow alike: none is to blame.
    [(0.7, 0.1)],
  ],
)
def test_nobody_is_blamed(waits):
  assert fleet.find_slow(paces(*waits)) is None


def test_of_many_hosts_the_busiest_are_shown():
  many = paces(*((0.0, 0.9 - i / 1000) for i in range(100)))
  table = fleet.report(many)
  assert 'host-99' in table
  assert 'host-3 ' not in table
  assert '(84 processes that wait longer)' in table


def test_waits_are_counted_by_tick(monkeypatch):
  times = iter([0.0, 1.0, 3.0, 3.0, 3.5, 10.0])
  watch = fleet.Fleet(now=lambda: next(times))
  with watch.waiting('data'):
    pass  # 2 seconds.
  with watch.waiting('devices'):
    pass  # Half a second.
  gathered = []
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    fleet.multihost_utils,
    'process_allgather',
    lambda tree: gathered.append(tree) or jax.tree.map(lambda x: [x, x], tree),
  )
  table = watch.end_tick(steps=10)
  assert gathered[0][0].tolist() == pytest.approx([1.0, 0.2, 0.05])
  assert table.count('\n') == 3


def test_a_single_process_has_no_table():
  assert fleet.Fleet().end_tick(steps=1) == ''


def test_profiles_of_chosen_processes(monkeypatch):
  steps = range(20, 25)
  chosen = profiling.parse_processes(['0', '3'])
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  for index, expected in enumerate([steps, range(0), range(0), steps]):
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    assert profiling.steps_of_this_process(steps, chosen) == expected
    assert profiling.steps_of_this_process(steps, None) == steps
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match=r'must be below 2.*got 3'):
    profiling.steps_of_this_process(steps, chosen)


@pytest.mark.parametrize('numbers', [[], ['x'], ['-1'], ['']])
def test_processes_must_be_numbers(numbers):
  with pytest.raises(ValueError, match='must be numbers of processes'):
    profiling.parse_processes(numbers)
