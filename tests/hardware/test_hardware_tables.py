"""Tables are made of measured hardware, and the default follows them."""

import hardware_tables
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from sg3jax.ops.filtered_lrelu import (
  dispatch,
  filtered_lrelu,
  make_plan,
  measured,
)

F = np.ones(12) / 12


@pytest.mark.parametrize(
  'path', hardware_tables.contents(), ids=lambda p: p.name
)
def test_files_are_what_the_results_give(path):
  assert path.read_text() == hardware_tables.contents()[path], (
    'run scripts/hardware_tables.py'
  )


def _sessions(checks, times, platform='gpu'):
  """Returns sessions with rows (kind, ok) and (kind, layer, kernel, banded)."""
  case = {'design': 't', 'direction': 'forward', 'dtype': 'bfloat16'}
  bench = [
    case | {'kind': k, 'layer': layer, 'implementation': name, 'ms': ms}
    for k, layer, *both in times
    for name, ms in zip(('kernel', 'banded'), both, strict=True)
  ]
  return [
    {'stages': {'machine': {'rows': [{'platform': platform}, {'GB/s': 1}]}}},
    {
      'stages': {
        'check': {'rows': [{'kind': k, 'ok': ok} for k, ok in checks]},
        'bench': {'rows': bench},
      }
    },
  ]


def test_the_least_ratio_of_what_is_right_counts():
  sessions = _sessions(
    [('2>2', True), ('4>2', True), ('4>2', False), ('2,2>2', True)],
    [
      ('2>2', 'L0', 1.0, 3.0),
      ('2>2', 'L8', 2.0, 3.0),
      ('4>2', 'L3', 1.0, 9.0),  # Wrong in one case.
      ('2,2>2', 'L0', 4.0, 3.0),
      ('4,2>4', 'L3', 1.0, 9.0),  # Never checked.
    ],
  )
  table = hardware_tables.measured([sessions])
  assert table == {'pallas_gpu': {'2>2': 1.5, '2,2>2': 0.75}}


def test_the_last_time_of_a_case_counts():
  old = _sessions([('2>2', True)], [('2>2', 'L0', 9.0, 3.0)])
  new = _sessions([], [('2>2', 'L0', 1.0, 3.0)])
  table = hardware_tables.measured([old + new])
  assert table == {'pallas_gpu': {'2>2': 3.0}}


def test_every_device_has_to_be_faster():
  fast = _sessions([('2>2', True)], [('2>2', 'L0', 1.0, 3.0)])
  slow = _sessions([('2>2', True)], [('2>2', 'L0', 3.0, 1.5)])
  table = hardware_tables.measured([fast, slow])
  assert table == {'pallas_gpu': {'2>2': 0.5}}


def test_results_of_other_platforms_are_not_for_gpus():
  tpu = _sessions([('2>2', True)], [('2>2', 'L0', 1.0, 3.0)], 'tpu')
  cpu = _sessions([('2>2', True)], [('2>2', 'L0', 1.0, 3.0)], 'cpu')
  table = hardware_tables.measured([tpu, cpu])
  assert table == {'pallas_gpu': {}, 'pallas_tpu': {'2>2': 3.0}}


def test_kinds():
  plan = make_plan((36, 36), 'bfloat16', F, F, up=2, down=2, padding=10)
  assert measured.kind_of(plan.forward) == '2>2'
  assert measured.kind_of(plan.backward) == '2,2>2'
  plan = make_plan((36, 36), 'bfloat16', F, F, up=4, down=2, padding=10)
  assert measured.kind_of(plan.backward) == '4,2>4'
  rank_2 = np.outer(F, F) + np.outer(*2 * [F * np.arange(12)])
  plan = make_plan((36, 36), 'bfloat16', F, rank_2, up=2, down=2, padding=10)
  assert measured.kind_of(plan.forward) == '2>2 of 1>2 terms'


@pytest.mark.parametrize(
  ('ratio', 'chosen'), [(2.0, 'pallas'), (0.5, 'banded'), (None, 'banded')]
)
def test_the_default_on_gpus_follows_the_table(monkeypatch, ratio, chosen):
  table = {} if ratio is None else {'2>2': ratio}
  monkeypatch.setattr(measured, '_table', lambda name: {'pallas_gpu': table})
  assert dispatch.default_implementation('gpu') == chosen
  calls = []
  for name in ('pallas', 'banded'):
    run = getattr(dispatch, f'_run_{name}')

    def spy(*args, name=name, run=run, **options):
      calls.append(name)
      return run(*args, **options)

    monkeypatch.setattr(dispatch, f'_run_{name}', spy)
  mesh = AbstractMesh(
    (1,),
    ('data',),
    (AxisType.Auto,),
    abstract_device=AbstractDevice('NVIDIA H100 80GB HBM3', 132, 'gpu'),
  )
  x = jax.ShapeDtypeStruct((1, 36, 36, 8), jnp.bfloat16)
  with jax.sharding.use_abstract_mesh(mesh):
    jax.jit(lambda x: filtered_lrelu(x, F, F, up=2, down=2, padding=10)).trace(
      x
    )
  assert calls[0] == chosen
