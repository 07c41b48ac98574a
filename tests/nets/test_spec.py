"""The layer arithmetic against recorded tables and the paper's numbers."""

import numpy as np
import pytest

from sg3jax.nets import spec as spec_lib

_DESIGNS = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}
_RENAMED = {
  'critically_sampled': 'is_critical',
  'torgb': 'is_torgb',
}


@pytest.mark.parametrize('design', 'tr')
@pytest.mark.parametrize('resolution', [128, 256, 512, 1024])
@pytest.mark.parametrize('channel_base', [16384, 32768])
def test_layers_equal_recorded_tables(golden, design, resolution, channel_base):
  table = golden('layer_specs.json')[
    f'{design}-{resolution}-cbase{channel_base}'
  ]
  spec = _DESIGNS[design](resolution, channel_base=channel_base)
  assert table['input'] == {
    'size': spec.input_size,
    'sampling_rate': spec.sampling_rates[0],
    'bandwidth': spec.first_cutoff,
    'channels': spec.channels[0],
  }
  assert len(table['layers']) == len(spec.layers) == 15
  for layer, recorded in zip(spec.layers, table['layers'], strict=True):
    left, right, top, bottom = recorded.pop('padding_x0_x1_y0_y1')
    assert layer.padding == ((top, bottom), (left, right))
    recorded['padding_x0_x1_y0_y1'] = [left, right, top, bottom]
    for name, value in recorded.items():
      if name == 'padding_x0_x1_y0_y1':
        continue
      ours = getattr(layer, _RENAMED.get(name, name))
      if name == 'radial_down_filter':  # ToRGB has no filter to be radial.
        value = value and not layer.is_torgb
      if isinstance(value, float):
        np.testing.assert_allclose(ours, value, rtol=1e-12, err_msg=name)
      else:
        assert ours == value, (layer.index, name)


@pytest.mark.parametrize('design', 'tr')
def test_filters_equal_recorded_ones(golden, design):
  spec = _DESIGNS[design](256, channel_base=16384)
  for layer in spec.layers[:-1]:
    for direction in ('up', 'down'):
      np.testing.assert_allclose(
        getattr(layer, f'{direction}_filter')(),
        golden('filters.npz')[f'{design}256/layer{layer.index}/{direction}'],
        atol=1e-6,
      )
  assert spec.layers[-1].up_filter() is None
  assert spec.layers[-1].down_filter() is None


@pytest.mark.parametrize('resolution', [48, 80, 96, 160, 224, 320])
def test_other_resolutions_have_integer_factors(resolution):
  spec = spec_lib.stylegan3_t(resolution)
  assert spec.sampling_rates[-1] == resolution
  for layer in spec.layers:
    assert layer.up_factor * layer.in_sampling_rate == layer.tmp_sampling_rate
    assert (
      layer.down_factor * layer.out_sampling_rate == layer.tmp_sampling_rate
    )
    # The filters must cover the signal: below its Nyquist rate, a margin left.
    assert layer.out_cutoff <= layer.out_sampling_rate / 2
    assert layer.out_half_width > 0


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'resolution': 8}, 'resolution must be at least 16'),
    ({'resolution': 255}, 'resolution must be .* got 255: .* 224 or 256'),
    ({'img_channels': 2}, 'img_channels must be 1'),
    ({'num_layers': 2}, 'num_layers must exceed num_critical'),
    ({'first_cutoff': 200.0}, 'first_cutoff must be at most .* got 200.0'),
    ({'first_stopband': 1.0}, 'stopbands must be at least their cutoffs'),
    ({'conv_kernel': 2}, 'conv_kernel must be odd'),
    ({'filter_size': 0}, 'filter_size must be positive'),
  ],
)
def test_impossible_designs_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    spec_lib.SynthesisSpec(**{'resolution': 256, **fields})


def test_rates_that_hold_a_stopband_exactly_are_not_doubled():
  """Every second stopband of 14 layers from 2 to 128 cycles is a power of 2."""
  spec = spec_lib.SynthesisSpec(
    resolution=256, first_stopband=2.0, last_stopband_rel=1.0
  )
  # 2 f_t = 4 * 2^(i / 2), up to the critical layers.
  exact = [4 * 2 ** -(-i // 2) for i in range(13)]
  np.testing.assert_array_equal(spec.sampling_rates[:13], exact)
