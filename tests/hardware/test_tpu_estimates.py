"""The committed estimates for TPUs, and the choices that follow from them."""

import json
import logging

import jax
import jax.numpy as jnp
import layer_shapes
import pytest
import tpu_estimates as estimates

from sg3jax.ops.filtered_lrelu import filtered_lrelu, measured, platform


def test_the_table_and_the_choice_are_those_of_the_results():
  for path, text in estimates.contents().items():
    assert path.read_text() == text, (
      'run: python scripts/estimate_on_tpus.py --write_only'
    )


def test_results_are_complete():
  rows = estimates.read()['rows']
  assert rows
  keys = [
    tuple(row[k] for k in ('generation', 'design', 'layer', 'direction'))
    for row in rows
  ]
  assert len(set(keys)) == len(keys)
  for row in rows:
    assert row['kernel cycles'] > 0
    assert row['banded cycles'] > 0
    assert {'jax', 'libtpu', 'date'} <= row.keys()


def test_the_kinds_are_those_of_the_layers():
  """An estimate of a kind that no layer has would decide nothing."""
  kinds = {
    (layer, direction): measured.kind_of(chain)
    for layer, direction, _, chain in estimates.cases('t', 256)
  }
  for row in estimates.read()['rows']:
    if row['design'] == 't-256':
      assert kinds[row['layer'], row['direction']] == row['kind']


def test_the_least_ratio_of_a_kind_counts():
  row = {'generation': 'v5e', 'kind': '2>2', 'kernel cycles': 100}
  rows = [row | {'banded cycles': n} for n in (300, 150)]
  assert estimates.estimated(rows) == {'v5e': {'2>2': 1.5}}


@pytest.mark.parametrize(
  ('ratio', 'choice'),
  [(0.5, 'banded (pallas_tpu: 2>2 is 0.50 times'), (2.0, ': pallas_tpu')],
)
def test_a_kernel_that_is_estimated_to_be_slower_is_not_used(
  monkeypatch, caplog, ratio, choice
):
  table = {measured._ESTIMATED: {'v5e': {'2>2': ratio}}}
  monkeypatch.setattr(measured, '_table', lambda name: table[name])
  layer = layer_shapes.LAYERS[0]
  # Other shapes than other tests have, since a choice is announced once.
  x = jax.ShapeDtypeStruct((3 + int(ratio), 38, 38, 512), jnp.bfloat16)
  with platform.targeted('tpu', 'TPU v5 lite'), caplog.at_level(logging.INFO):
    jax.eval_shape(lambda x: filtered_lrelu(x, **layer.options()), x)
  assert choice in caplog.text


def test_there_are_estimates_of_no_other_generations():
  found = json.loads(estimates.ESTIMATED.read_text())
  assert found.keys() <= set(estimates.GENERATIONS)
  assert found
