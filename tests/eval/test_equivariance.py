"""The equivariance metrics: recorded values, and what they must distinguish."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest

from sg3jax.eval import transforms as transforms_lib
from sg3jax.eval.metrics import equivariance
from sg3jax.nets import generator as generator_lib

_SIZE = (32, 32)


def _sample_ws(variables, key, n):
  """Samples the frequencies and phases of five waves for each of 3 channels."""
  del variables
  return jax.random.uniform(key, (n, 3, 5, 3), minval=-1.0)


def _synthesize(variables, ws, transforms, size=_SIZE):
  """Adds up waves of at most 4 cycles: a perfectly equivariant generator.

  `variables['stuck']` is the amplitude of a texture that never moves.
  """
  height, width = size
  y, x = jnp.meshgrid(
    (jnp.arange(height) + 0.5) / height - 0.5,
    (jnp.arange(width) + 0.5) / width - 0.5,
    indexing='ij',
  )
  points = jnp.stack([x, y, jnp.ones_like(x)])
  positions = jnp.einsum('nij,jhw->nihw', transforms[:, :2], points)
  phases = jnp.einsum('nckf,nfhw->nhwck', 4 * ws[..., :2], positions)
  phases += ws[:, None, None, ..., 2]
  waves = jnp.sin(2 * jnp.pi * phases).sum(-1) / 5
  texture = jnp.sin(jnp.arange(height * width) * 1.7).reshape(size)
  return waves + variables['stuck'] * texture[:, :, None]


def _evaluator(synthesize=_synthesize, **options):
  options = {'batch_size': 16, 'num_samples': 32} | options
  return equivariance.EquivarianceEvaluator(
    jax.jit(synthesize), _sample_ws, **options
  )


@pytest.fixture(scope='module')
def values():
  """Figures of a perfect and of a texture-sticking generator."""
  evaluate = _evaluator()
  return evaluate({'stuck': 0.0}), evaluate({'stuck': 0.2})


def test_perfect_generator_is_limited_by_the_resamplers_alone(values):
  perfect, _ = values
  assert list(perfect) == ['eqt50k_int', 'eqt50k_frac', 'eqr50k']
  assert perfect['eqt50k_int'] > 110  # Rounding of float32.
  assert perfect['eqt50k_frac'] > 45  # The Lanczos filter.
  assert perfect['eqr50k'] > 60


def test_stuck_texture_is_found(values):
  # A texture of amplitude 0.2 against itself displaced: errors of 0.2 rms.
  _, stuck = values
  expected = 20 * math.log10(2 / 0.2)
  for name, value in stuck.items():
    assert value == pytest.approx(expected, abs=2), name


def test_values_depend_on_neither_batches_nor_devices_nor_company(values):
  expected, _ = values
  variables = {'stuck': jnp.float32(0.0)}
  for num_devices in (2, 4):
    mesh = jax.make_mesh(
      (num_devices,),
      ('data',),
      devices=jax.devices()[:num_devices],
      axis_types=(jax.sharding.AxisType.Auto,),
    )
    evaluate = _evaluator(mesh=mesh, metrics=['eqr', 'eqt_frac'])
    for name, value in evaluate(variables).items():
      assert value == pytest.approx(expected[name], abs=1e-3), name
  # Batches of 12 do not divide 32 samples: the last is used in part.
  for name, value in _evaluator(batch_size=12)({'stuck': 0.0}).items():
    if name == 'eqt50k_int':  # All rounding, which differs between programs.
      assert value > 110
    else:
      assert value == pytest.approx(expected[name], abs=1e-3), name


def test_uses_exactly_the_samples_asked_for():
  def spoil_last(variables, ws, transforms):
    images = _synthesize(variables, ws, transforms)
    return images.at[6:].set(jnp.nan)

  for num_samples, is_clean in ((6, True), (7, False)):
    evaluate = _evaluator(
      spoil_last, batch_size=8, num_samples=num_samples, metrics=['eqt']
    )
    value = evaluate({'stuck': 0.1})['eqt50k_int']
    assert math.isfinite(value) == is_clean


def test_seed_matters():
  first, other = (
    _evaluator(seed=seed, metrics=['eqt_frac']) for seed in (0, 1)
  )
  variables = {'stuck': 0.1}
  assert first(variables) == first(variables)
  assert first(variables) != other(variables)


def test_groups_share_a_transform_and_ranges_hold():
  seen = []

  def record(variables, ws, transforms):
    jax.debug.callback(lambda x: seen.append(np.array(x)), transforms)
    return _synthesize(variables, ws, transforms, size=(32, 64))

  evaluate = _evaluator(record, batch_size=32)
  evaluate({'stuck': 0.0})
  jax.effects_barrier()
  # In the order of the calls: the originals, then each metric's images.
  seen = [x for x in seen if not (x == np.eye(3)).all()]
  whole, fractional = sorted(
    (x for x in seen if (x[:, :2, :2] == np.eye(2)).all()),
    key=lambda x: (x[:, 0, 2] * 64 % 1 != 0).any(),
  )
  (turned,) = (x for x in seen if (x[:, :2, :2] != np.eye(2)).any())
  for transforms in (whole, fractional, turned):
    groups = transforms.reshape(8, 4, 3, 3)
    assert (groups == groups[:, :1]).all()
    assert len(np.unique(groups[:, 0], axis=0)) == 8
  for transforms in (whole, fractional):
    assert np.abs(transforms[:, :2, 2]).max() <= 0.125
  pixels = whole[:, :2, 2] * [64, 32]
  np.testing.assert_array_equal(pixels, np.rint(pixels))
  assert (np.abs(turned[:, 0, 1]) > 0.5).any()


def test_rectangular_images_move_by_their_own_sides():
  size = (32, 48)

  def synthesize(variables, ws, transforms):
    return _synthesize(variables, ws, transforms, size=size)

  evaluate = _evaluator(synthesize, metrics=['eqt', 'eqt_frac'])
  perfect = evaluate({'stuck': 0.0})
  assert perfect['eqt50k_int'] > 110
  assert perfect['eqt50k_frac'] > 45


def test_psnr():
  # MSE = (2 + 6) / (100 + 700) = 0.01.
  value = transforms_lib.psnr(np.array([2.0, 6.0]), np.array([100.0, 700.0]))
  assert value == pytest.approx(20 * math.log10(2 / 0.1))
  assert transforms_lib.psnr(np.zeros(2), np.ones(2)) == math.inf


def test_the_interval_is_that_of_repetitions():
  # Groups of four share a transform, by which most of the errors vary.
  rng = np.random.default_rng(0)
  factors = np.exp(0.5 * rng.normal(size=(400, 50, 1)))
  errors = factors * rng.uniform(0.9, 1.1, size=(400, 50, 4))
  counts = rng.integers(80, 120, size=(400, 50, 1)) * np.ones((1, 1, 4))
  values, widths = [], []
  for e, n in zip(errors * counts, counts, strict=True):
    values.append(transforms_lib.psnr(e.ravel(), n.ravel()))
    widths.append(transforms_lib.psnr_ci95(e.ravel(), n.ravel(), 4))
  assert np.mean(widths) == pytest.approx(1.96 * np.std(values), rel=0.1)
  # As if there were four times as many groups.
  alone = transforms_lib.psnr_ci95(errors[0].ravel(), counts[0].ravel() + 0, 1)
  assert alone < 0.6 * widths[0]


def test_the_interval_of_too_little_or_of_nothing():
  ones = np.ones(4)
  assert transforms_lib.psnr_ci95(ones, ones, 4) == math.inf
  assert transforms_lib.psnr_ci95(0 * ones, ones, 2) == 0
  # The last group is smaller.
  assert transforms_lib.psnr_ci95(np.ones(6), np.ones(6), 4) == 0


def test_a_further_transform_leaves_the_keys_of_others(monkeypatch):
  groups = jnp.arange(5)
  before = equivariance._split_keys(jax.random.key(1), groups)
  more = transforms_lib.TRANSFORMS | {'eqx': None}
  monkeypatch.setattr(equivariance, 'TRANSFORMS', more)
  after = equivariance._split_keys(jax.random.key(1), groups)
  assert (after[: len(before)] == before).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'metrics': ['eqx']},
      r"among \['eqt', 'eqt_frac', 'eqr', .*\], got \['eqx'\]",
    ),
    ({'metrics': []}, r'got \[\]'),
    ({'batch_size': 6}, 'must be a multiple of 4, got 6'),
    ({'num_samples': 0}, 'num_samples'),
  ],
)
def test_errors_name_the_remedy(options, message):
  with pytest.raises(ValueError, match=message):
    _evaluator(**options)


@pytest.mark.slow
@pytest.mark.parametrize('config', ['t', 'r'])
def test_recorded_values(golden, config):
  arrays = golden('equivariance_metrics.npz')
  prefix = f'{config}/state/'
  variables = jax.tree.map(
    jnp.asarray, official_names.generator_variables(arrays, prefix)
  )
  generator = generator_lib.Generator(
    official_names.generator_spec(arrays, resolution=64, prefix=prefix),
    z_dim=64,
    w_dim=64,
  )

  @jax.jit
  def synthesize(z, transform):
    return generator.apply(variables, z, transform=transform)

  parameters = {
    'eqt': arrays[f'{config}/int_translations'] * np.float32(64),
    'eqt_frac': arrays[f'{config}/frac_translations'] * np.float32(64),
    'eqr': arrays[f'{config}/angles'].astype(np.float32),
  }
  zs = arrays[f'{config}/z']
  originals = [synthesize(z, jnp.eye(3)) for z in zs]
  values = []
  for name in transforms_lib.OFFICIAL:
    metric = transforms_lib.TRANSFORMS[name]
    compare = jax.jit(metric.compare)
    errors, counts = [], []
    for z, original, parameter in zip(
      zs, originals, jnp.asarray(parameters[name]), strict=True
    ):
      inverse = metric.inverse(parameter, (64, 64))
      e, n = compare(original, synthesize(z, inverse), parameter)
      errors.append(e)
      counts.append(n)
    values.append(
      transforms_lib.psnr(np.concatenate(errors), np.concatenate(counts))
    )
  recorded = arrays[f'{config}/eqt_int_eqt_frac_eqr_db']
  np.testing.assert_allclose(values, recorded, rtol=0, atol=0.05)
