"""Features of layers and their spectra."""

import golden_models
import numpy as np
import pytest
from PIL import Image

from sg3jax.render import activations, styles


@pytest.fixture(scope='module')
def model():
  return golden_models.tiny()


def test_the_last_features_are_the_image(model):
  ws = styles.of_seeds(model, [0, 1])
  names = ['input', 'L0', 'L2']
  found = list(activations.compute(model, ws, names))
  assert len(found) == 2
  spec = model.generator.spec
  image = np.asarray(model.synthesis(ws))
  for i, features in enumerate(found):
    assert list(features) == names
    size, channels = spec.layers[0].out_size, spec.layers[0].out_channels
    assert features['L0'].shape == (size, size, channels)
    # ToRGB: sums of float32 in another order.
    scaled = features['L2'] * model.generator.output_scale
    np.testing.assert_allclose(
      scaled, image[i], atol=1e-4 * np.ptp(image[i]), rtol=0
    )


@pytest.mark.parametrize('name', ['L3', 'l1', ''])
def test_unknown_layers(model, name):
  with pytest.raises(ValueError, match='must be one of input, L0, L1, '):
    activations.check_names(model, [name])


@pytest.mark.slow
def test_layers_of_stylegan2():
  with pytest.raises(ValueError, match='alias-free generator, got StyleGAN2'):
    activations.check_names(golden_models.load('2'), ['L1'])


def test_a_wave_is_a_pair_of_points_in_the_spectrum():
  size, frequency = 32, 6
  x = np.arange(size) / size
  wave = np.sin(2 * np.pi * frequency * x)[None, :, None]
  features = np.broadcast_to(wave + 5, (size, size, 2)).astype(np.float32)
  spectrum = activations.spectrum_db(features)
  centre = size // 2
  # The mean, which is larger than the wave, is subtracted.
  rows, columns = np.nonzero(spectrum == spectrum.max())
  assert set(rows) == {centre}
  assert set(columns) <= {centre - frequency, centre + frequency}
  # Far from it there is only what the window lets through, by design below
  # -60 dB, and rounding.
  far = spectrum[:, centre]
  assert far.max() < spectrum.max() - 50
  power = 10 ** (spectrum / 10)
  assert power.mean() == pytest.approx(1)


def test_constant_features_have_no_spectrum():
  spectrum = activations.spectrum_db(np.ones((8, 8, 3), np.float32))
  assert np.all(np.isfinite(spectrum))
  assert spectrum.max() < -50


def test_files(tmp_path):
  rng = np.random.RandomState(0)
  features = rng.standard_normal((12, 12, 5)).astype(np.float32)
  features[..., 3] *= 10
  written = activations.save(features, tmp_path / 'new', 'seed0000-L3')
  assert written == activations.paths(tmp_path / 'new', 'seed0000-L3')
  with np.load(written[0]) as arrays:
    np.testing.assert_array_equal(arrays['activation'], features)
    assert arrays['spectrum_db'].shape == (12, 12)
  picture = np.asarray(Image.open(written[1]))
  assert picture.shape == (48, 48)
  # The channel with the largest variance comes first.
  x = features[..., 3]
  expected = np.clip((x - x.mean()) / (2 * x.std()), -1, 1) * 127.5 + 128
  assert np.abs(picture[:12, :12] - expected).max() <= 1.01
  assert np.asarray(Image.open(written[2])).shape == (12, 12, 3)
