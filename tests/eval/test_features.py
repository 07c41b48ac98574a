"""Features of many images: sums, batches, devices, and what is kept on disk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_generators

from sg3jax.data import labels as labels_lib
from sg3jax.eval import (
  feature_extractor,
  feature_sets,
  image_generator,
  statistics_cache,
)
from sg3jax.eval.feature_sets import ALL, SOME, Wanted
from sg3jax.eval.metrics import base, formulas
from sg3jax.nets.features import random, spectrum
from sg3jax.train import sharding


class Photos:
  """Smooth random images, whose pixels follow from their indices."""

  name, resolution, channels, label_dim = 'photos', 16, 3, 0

  def __init__(self, count=40, seed=0):
    self.count, self.seed, self.reads = count, seed, 0

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    assert 0 <= index < self.count
    self.reads += 1
    rng = np.random.RandomState((self.seed, index))
    coarse = rng.randint(0, 256, (4, 4, 3), np.uint8)
    image = coarse.repeat(4, 0).repeat(4, 1)
    return {'image': image, 'label': np.zeros(0, np.float32)}

  def labels(self):
    return labels_lib.none(self.count)

  def fingerprint(self):
    return f'{self.count} photos'


class _Generator(image_generator.ImageGenerator):
  """Makes images of latents without a network, in batches over a mesh."""

  def __init__(self, devices=1, batch_size=8):
    self.generator = self
    self.z_dim, self.label_dim = 48, 0
    self.mesh = sharding.make_mesh(devices)
    self.batch_size, self.log = batch_size, lambda line: None
    self.made = 0

  def styles(self, variables, z, c):
    return np.asarray(z)

  def synthesize(self, variables, ws):
    x = np.asarray(self.synthesize_batch(variables, ws))
    return np.asarray(feature_extractor.round_to_uint8(jnp.asarray(x)))

  def synthesize_batch(self, variables, ws, transforms=None):
    self.made += len(ws)
    x = 0.4 * np.asarray(ws).reshape(-1, 4, 4, 3).repeat(4, 1).repeat(4, 2)
    spread = jax.sharding.NamedSharding(
      self.mesh, jax.sharding.PartitionSpec('data')
    )
    return jax.device_put(x, spread)


def context(images=None, **options):
  options = {'metrics': (), 'num_samples': 30, 'seed': 3} | options
  return base.Context(images or _Generator(), {}, **options)


class TestAccumulator:
  def test_sums_do_not_depend_on_batches(self, monkeypatch):
    monkeypatch.setattr(feature_sets, '_BLOCK', 16)
    rows = np.random.RandomState(0).randn(70, 5).astype(np.float32) + 100
    found = []
    for size in (1, 7, 64, 70):
      sums = feature_sets.Accumulator(['a', 'b'], keep=20)
      for i in range(0, 70, size):
        part = rows[i : i + size]
        sums.add({'a': part, 'b': 2 * part[:, :1]})
      found.append(sums.result())
    for one in found:
      np.testing.assert_array_equal(one.moments.mean, found[0].moments.mean)
      np.testing.assert_array_equal(one.moments.cov, found[0].moments.cov)
      np.testing.assert_array_equal(one.rows['a'], rows[:20])
      np.testing.assert_array_equal(one.rows['b'], 2 * rows[:20, :1])
      assert one.count == 70
    expected = formulas.moments(rows)
    # The shift keeps all digits: a plain sum of squares would lose four.
    np.testing.assert_allclose(found[0].moments.cov, expected.cov, atol=1e-13)
    np.testing.assert_allclose(found[0].moments.mean, expected.mean, rtol=1e-15)

  def test_one_image_has_no_covariance(self):
    sums = feature_sets.Accumulator(['a'], keep=0)
    sums.add({'a': np.ones((1, 3), np.float32)})
    with pytest.raises(ValueError, match='at least 2 for a covariance, got 1'):
      sums.result()

  def test_features_that_are_not_finite_are_refused(self):
    sums = feature_sets.Accumulator(['a'], keep=0)
    with pytest.raises(FloatingPointError, match='must be finite'):
      sums.add({'a': np.array([[1.0, np.nan]], np.float32)})


class TestContext:
  def test_features_are_those_of_the_images(self):
    source = Photos()
    one = context(source=source)
    reals, fakes = one.features(Wanted('random', real_rows=100))
    variables = random.init(jax.random.key(0))
    apply = jax.jit(functools.partial(random.apply, variables))
    for found, images in (
      (reals, one.reals(30)),
      (fakes, one.fakes(30)),
    ):
      assert found.count == 30
      expected = np.asarray(apply(images)['features'])
      # Another batch size may round differently.
      np.testing.assert_allclose(found.first, expected, atol=3e-6)
      np.testing.assert_allclose(
        found.moments.cov, formulas.moments(expected).cov, atol=1e-6
      )

  def test_metrics_share_one_pass_and_snapshots_share_reals(self):
    source, kept = Photos(), {}
    wanted = [Wanted('spectrum'), Wanted('random', real_rows=9)]
    for _ in range(2):
      images = _Generator()
      one = context(images, source=source, kept=kept, wanted=wanted)
      for w in wanted:
        one.features(w)
      assert images.made == 32  # 30 images in batches of 8.
    # 30 images in one padded batch of 32 or four of 8, and one for the shape.
    assert source.reads == 33

  def test_rows_of_reals_are_kept_as_far_as_needed(self):
    source = Photos()
    one = context(source=source)
    moments, _ = one.features(Wanted('spectrum'))
    assert not moments.rows
    rows, _ = one.features(Wanted('spectrum', real_rows=7))
    assert len(rows.first) == 7
    np.testing.assert_array_equal(rows.moments.cov, moments.moments.cov)

  def test_all_reals_or_some_of_them_and_their_mirror_images(self):
    source = Photos(20)
    flipped = context(source=source, mirror=True, num_samples=100)
    every, _ = flipped.features(Wanted('random', reals=ALL, real_rows=99))
    both, _ = flipped.features(Wanted('random', reals=SOME, real_rows=99))
    assert (every.count, both.count) == (20, 40)
    apply = jax.jit(
      functools.partial(random.apply, random.init(jax.random.key(0)))
    )
    images = np.stack([source[i]['image'] for i in range(20)])
    images = np.concatenate([images, images[:, :, ::-1]])
    expected = formulas.moments(np.asarray(apply(images)['features']))
    np.testing.assert_allclose(both.moments.mean, expected.mean, atol=3e-6)
    few, _ = context(source=source, num_samples=8).features(Wanted('random'))
    assert few.count == 8

  def test_images_of_files_replace_generated_ones(self):
    source, against = Photos(12), Photos(9, seed=1)
    one = base.Context(
      None,
      {},
      metrics=(),
      num_samples=50,
      seed=0,
      source=source,
      against=against,
      mesh=sharding.make_mesh(1),
    )
    assert one.num_fakes == len(one.fakes(9)) == 9
    reals, fakes = one.features(Wanted('random'))
    assert (reals.count, fakes.count) == (12, 9)
    with pytest.raises(ValueError, match='no generator, only images'):
      _ = one.images

  @pytest.mark.parametrize(
    ('devices', 'batch'),
    [
      (4, 16),
      pytest.param(2, 8, marks=pytest.mark.slow),
      pytest.param(4, 8, marks=pytest.mark.slow),
    ],
  )
  def test_devices_and_batches_change_nothing(self, devices, batch):
    def features(images):
      one = context(images, source=Photos())
      return one.features(Wanted('random', real_rows=99))

    for first, second in zip(
      features(_Generator()), features(_Generator(devices, batch)), strict=True
    ):
      np.testing.assert_allclose(second.first, first.first, atol=3e-6)
      a, b = first.moments, second.moments
      np.testing.assert_allclose(b.mean, a.mean, rtol=1e-6, atol=1e-8)
      scale = np.abs(a.cov).max()
      np.testing.assert_allclose(b.cov, a.cov, rtol=0, atol=1e-6 * scale)


class TestCache:
  def _features(self, folder, source, **options):
    one = context(source=source, cache=folder, **options)
    return one.features(Wanted('spectrum', real_rows=5))[0]

  def test_reals_are_computed_once(self, tmp_path):
    first = self._features(tmp_path / 'new', Photos())
    source = Photos()
    again = self._features(tmp_path / 'new', source)
    assert source.reads < 33  # Only those whose pixels are compared.
    np.testing.assert_array_equal(again.moments.cov, first.moments.cov)
    np.testing.assert_array_equal(again.first, first.first)
    assert again.count == 30

  def test_other_images_seeds_or_needs_have_files_of_their_own(self, tmp_path):
    self._features(tmp_path, Photos())
    # The same names, but other pixels.
    changed = self._features(tmp_path, Photos(seed=1))
    fresh = self._features(None, Photos(seed=1))
    np.testing.assert_array_equal(changed.moments.mean, fresh.moments.mean)
    self._features(tmp_path, Photos(), seed=4)
    self._features(tmp_path, Photos(), num_samples=20)
    assert len(list(tmp_path.iterdir())) == 4

  @pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'text'])
  def test_damaged_files_are_computed_again(self, tmp_path, damage, caplog):
    first = self._features(tmp_path, Photos())
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(
      {
        'cut': data[: len(data) // 2],
        'flip': data,
        'empty': b'',
        'text': b'not an archive',
      }[damage]
    )
    again = self._features(tmp_path, Photos())
    np.testing.assert_array_equal(again.moments.cov, first.moments.cov)
    assert 'is computed again' in caplog.text
    caplog.clear()
    self._features(tmp_path, Photos())  # It was replaced.
    assert not caplog.text

  def test_a_folder_that_cannot_be_written_is_no_error(self, tmp_path, caplog):
    (tmp_path / 'file').write_text('')
    self._features(tmp_path / 'file', Photos())
    assert 'are not kept' in caplog.text

  def test_sources_without_a_hash_are_not_kept(self, tmp_path):
    class Nameless(Photos):
      fingerprint = property()  # hasattr is False.

    assert statistics_cache.identify(Nameless()) is None
    self._features(tmp_path, Nameless())
    assert not list(tmp_path.iterdir())


class TestNetworks:
  def test_random_weights_are_the_same_everywhere(self):
    weights = random.init(jax.random.key(0))
    expected = np.random.RandomState(0).standard_normal((3, 3, 3, 16))
    expected -= expected.mean((0, 1, 2))
    gain = 2 / np.sqrt(27)
    np.testing.assert_allclose(
      weights['params']['stage0'], gain * expected, rtol=1e-6
    )
    assert feature_extractor.hash_of(weights).startswith('19db3d52311127cd')
    other = random.init(jax.random.key(1))
    assert (other['params']['stage4'] != weights['params']['stage4']).all()

  @pytest.mark.parametrize('apply', [random.apply, spectrum.apply])
  def test_grey_images_are_like_colours_and_alpha_is_ignored(self, apply):
    variables = random.init(jax.random.key(0))
    grey = np.random.RandomState(0).randint(0, 256, (2, 16, 16, 1), np.uint8)
    rgb = grey.repeat(3, 3)
    rgba = np.concatenate([rgb, grey[:, ::-1]], 3)
    expected = apply(variables, rgb)
    for images in (grey, rgba):
      found = apply(variables, images)
      for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)

  def test_white_noise_has_a_flat_spectrum_of_its_variance(self):
    noise = np.random.RandomState(0).randint(0, 256, (400, 16, 16, 3), np.uint8)
    power = np.asarray(spectrum.apply({}, noise)['power']).mean(0)
    variance = (256**2 - 1) / 12
    # 1,200 fields: a band varies by about 3 %; the subtracted mean lowers the
    # lowest bands, which the window mixes with the mean.
    np.testing.assert_allclose(power[8:], variance, rtol=0.06)

  def test_a_wave_is_in_the_band_of_its_frequency(self):
    x = np.arange(64)
    wave = 100 * np.sin(2 * np.pi * x * 16 / 64) + 128
    images = np.broadcast_to(wave[:, None, None], (1, 64, 64, 3))
    power = np.asarray(spectrum.apply({}, images.astype(np.uint8))['power'])[0]
    # Bands are centred at multiples of 1/64 cycles per pixel.
    assert power.argmax() == 15


@pytest.fixture(scope='module')
def tiny():
  """A generator of 16 pixels, with random weights."""
  return small_generators.make_stylegan2()


@pytest.mark.slow
def test_values_of_a_generator_do_not_depend_on_devices(tiny):
  generator, variables = tiny
  values = []
  for devices, batch in ((1, 4), (1, 12), (2, 8), (4, 16)):
    mesh = sharding.make_mesh(devices)
    with jax.set_mesh(mesh):
      images = image_generator.ImageGenerator(generator, mesh, batch_size=batch)
      one = base.Context(
        images, variables, metrics=(), num_samples=30, seed=0, source=Photos()
      )
      names = ('rfd', 'rkd', 'spectral')
      values.append(
        [base.registry()[name].measure(one).values[name] for name in names]
      )
  for found in values[1:]:
    np.testing.assert_allclose(found, values[0], rtol=1e-4)
