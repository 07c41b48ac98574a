"""The random part of the augmentations: probabilities and distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from sg3jax.train.step import augment

_COUNT = 10_000


@functools.cache
def _sample(p):
  """Samples 10,000 times everything but the noise's pixels."""
  ops = tuple(name for name in augment.OPS if name != 'noise')
  samples = augment.sample(jax.random.key(3), p, (_COUNT, 4, 4, 3), ops)
  return {name: np.asarray(values) for name, values in samples.items()}


@pytest.mark.parametrize(
  'name', [name for name in augment.OPS if name != 'noise']
)
def test_operators_are_chosen_with_their_probability(name):
  op, p = augment.OPS[name], 0.3
  chosen = _sample(p)[name] != op.neutral
  assert chosen.shape == (_COUNT, op.features)
  if op.gates == 1:  # One decision for all of an image's values.
    assert np.all(chosen == chosen[:, :1])
  # Of the flips one in two does nothing, of the quarter turns one in four; the
  # two turns together leave an image alone as often as one operator does.
  expected = {
    'xflip': p / 2,
    'rotate90': p * 3 / 4,
    'lumaflip': p / 2,
    'rotate': 1 - np.sqrt(1 - p),
  }.get(name, p)
  # Four standard deviations of the binomial distribution.
  tolerance = 4 * np.sqrt(expected * (1 - expected) / _COUNT)
  np.testing.assert_allclose(chosen.mean(0), expected, atol=tolerance)


def _log2_normal(std):
  return scipy.stats.lognorm(std * np.log(2))


_DISTRIBUTIONS = {
  'xint': scipy.stats.uniform(-0.125, 0.25),
  'scale': _log2_normal(0.2),
  'rotate': scipy.stats.uniform(-np.pi, 2 * np.pi),
  'aniso': _log2_normal(0.2),
  'xfrac': scipy.stats.norm(0, 0.125),
  'brightness': scipy.stats.norm(0, 0.2),
  'contrast': _log2_normal(0.5),
  'hue': scipy.stats.uniform(-np.pi, 2 * np.pi),
  'saturation': _log2_normal(1.0),
  'imgfilter': _log2_normal(1.0),
  'cutout': scipy.stats.uniform(),
}


@pytest.mark.parametrize('name', _DISTRIBUTIONS)
def test_values_have_their_distribution(name):
  for column in _sample(1.0)[name].T:
    # Of 16 right columns one in 600 would fail by chance; the seed is fixed.
    assert scipy.stats.kstest(column, _DISTRIBUTIONS[name].cdf).pvalue > 1e-4


@pytest.mark.parametrize(
  ('name', 'count'), [('xflip', 2), ('rotate90', 4), ('lumaflip', 2)]
)
def test_whole_numbers_are_equally_likely(name, count):
  values, counts = np.unique(_sample(1.0)[name], return_counts=True)
  assert list(values) == list(range(count))
  tolerance = 4 * np.sqrt((count - 1) / count**2 / _COUNT)
  np.testing.assert_allclose(counts / _COUNT, 1 / count, atol=tolerance)


def test_noise_has_its_distribution():
  u = (np.arange(_COUNT) + 0.5) / _COUNT
  sigma = augment.OPS['noise'].value(jnp.asarray(u, jnp.float32))
  # As evenly spread as these numbers, but two and two the same.
  cdf = scipy.stats.halfnorm(scale=0.1).cdf
  assert scipy.stats.kstest(sigma, cdf).statistic < 2 / _COUNT
  p = 0.3
  noise = augment.sample(jax.random.key(0), p, (_COUNT, 4, 4, 1), ('noise',))[
    'noise'
  ]
  noise = np.asarray(noise).reshape(_COUNT, 16)
  chosen = np.any(noise != 0, axis=1)
  assert abs(chosen.mean() - p) < 4 * np.sqrt(p * (1 - p) / _COUNT)
  power = np.square(noise).mean(1)
  # E[sigma²] = 0.01; five standard errors of the sample itself.
  assert abs(power.mean() - p * 0.01) < 5 * power.std() / np.sqrt(_COUNT)


def test_samples_are_independent():
  columns = np.concatenate(list(_sample(1.0).values()), axis=1)
  correlations = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
  # Five standard deviations, 1 / sqrt(count), over 200 pairs.
  assert np.max(np.abs(correlations)) < 5 / np.sqrt(_COUNT)


def test_a_sample_does_not_depend_on_the_other_operators():
  key, shape = jax.random.key(1), (6, 4, 4, 3)
  alone = augment.sample(key, 0.5, shape, ('hue', 'noise'))
  assert list(alone) == ['hue', 'noise']
  among = augment.sample(key, 0.5, shape, augment.PIPELINES['bgcfnc'])
  for name, values in alone.items():
    np.testing.assert_array_equal(values, among[name], name)


def test_the_ends_of_the_unit_interval_give_finite_values():
  ends = jnp.array([[0.0, 1 - 2.0**-23]]) + 2.0**-24
  for name, op in augment.OPS.items():
    assert np.all(np.isfinite(op.value(ends))), name


def test_an_unknown_pipeline_is_refused():
  with pytest.raises(ValueError, match=r"pipeline 'bgx': use one of blit, .*"):
    augment.get_ops('bgx')
  for group in augment.PIPELINES:
    assert set(augment.get_ops(group)) <= set(augment.OPS)
