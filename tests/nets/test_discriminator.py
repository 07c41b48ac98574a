"""The discriminator against recorded values, second order included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sg3jax.nets import discriminator as lib

NAMES = ['discriminator32.npz', 'discriminator32_cond.npz']


def _golden_discriminator(arrays):
  c = arrays.get('c')
  weight = arrays['state/b32.conv0.weight']
  D = lib.Discriminator(
    resolution=32,
    img_channels=3,
    label_dim=0 if c is None else c.shape[1],
    channel_base=weight.shape[0] * 32,
    channel_max=arrays['state/b4.conv.weight'].shape[0],
  )
  params = official_names.discriminator_params(arrays)
  img = arrays['img'].transpose(0, 2, 3, 1)
  return D, params, img, c


def _assert_close(actual, expected, rtol, err_msg=''):
  """Compares relative to the largest value expected."""
  atol = rtol * np.abs(expected).max()
  np.testing.assert_allclose(
    actual, expected, rtol=0, atol=atol, err_msg=err_msg
  )


def _small(**options):
  options = {
    'resolution': 16,
    'img_channels': 3,
    'channel_base': 128,
    'channel_max': 16,
    **options,
  }
  D = lib.Discriminator(**options)
  rng = np.random.RandomState(0)
  size = options['resolution']
  img = rng.randn(8, size, size, options['img_channels']).astype(np.float32)
  c = None
  if D.label_dim:
    c = np.eye(D.label_dim, dtype=np.float32)[rng.randint(D.label_dim, size=8)]
  return D, jax.jit(D.init)(jax.random.key(0), img, c), img, c


@pytest.mark.parametrize('name', NAMES)
def test_golden_values_and_gradients(golden, name):
  arrays = golden(name)
  D, params, img, c = _golden_discriminator(arrays)

  def r1(params):
    def total(img):
      logits = D.apply({'params': params}, img, c)
      return jnp.sum(logits), logits

    grads, logits = jax.grad(total, has_aux=True)(img)
    penalty = jnp.sum(jnp.square(grads), axis=(1, 2, 3))
    loss = jnp.mean(jax.nn.softplus(-logits[:, 0]) + penalty * (2 / 2))
    return loss, (logits, grads, penalty)

  (loss, (logits, grads, penalty)), param_grads = jax.jit(
    jax.value_and_grad(r1, has_aux=True)
  )(params)

  assert logits.dtype == jnp.float32
  _assert_close(logits, arrays['logits'], 1e-4)
  _assert_close(grads, arrays['r1_grads'].transpose(0, 2, 3, 1), 1e-3)
  _assert_close(penalty, arrays['r1_penalty'], 1e-3)
  _assert_close(loss, arrays['loss_softplus_plus_r1_gamma2'], 1e-4)
  expected = official_names.discriminator_params(arrays, 'grad/')
  assert jax.tree.structure(param_grads) == jax.tree.structure(expected)
  jax.tree_util.tree_map_with_path(
    lambda path, a, b: _assert_close(a, b, 1e-3, jax.tree_util.keystr(path)),
    param_grads,
    expected,
  )


@pytest.mark.parametrize('name', NAMES)
def test_initialised_tree_is_the_recorded_one(golden, name):
  arrays = golden(name)
  D, params, img, c = _golden_discriminator(arrays)
  shapes = jax.eval_shape(D.init, jax.random.key(0), img, c)
  assert set(shapes) == {'params'}
  assert jax.tree.map(lambda a: (a.shape, a.dtype), shapes['params']) == (
    jax.tree.map(lambda a: (a.shape, a.dtype), params)
  )


@pytest.mark.parametrize(
  ('resolution', 'expected'),
  [
    (32, [32, 16, 8, 4]),
    (96, [96, 48, 24, 12, 6]),
    (80, [80, 40, 20, 10, 5]),
    (14, [14, 7]),
    (8, [8, 4]),
  ],
)
def test_block_resolutions(resolution, expected):
  assert lib.block_resolutions(resolution) == expected


@pytest.mark.parametrize('resolution', [0, 1, 4, 6, 9, 18, 33, 100])
def test_impossible_resolutions_are_refused(resolution):
  with pytest.raises(ValueError, match=f'got {resolution}'):
    lib.block_resolutions(resolution)


@pytest.mark.parametrize(
  ('resolution', 'img_channels', 'label_dim'), [(12, 1, 0), (10, 4, 3)]
)
def test_other_resolutions_channels_and_labels(
  resolution, img_channels, label_dim
):
  D, variables, img, c = _small(
    resolution=resolution, img_channels=img_channels, label_dim=label_dim
  )
  last = lib.block_resolutions(resolution)[-1]
  params = variables['params']
  width = min(128 // last, 16)
  assert params[f'b{last}']['fc']['weight'].shape == (last**2 * width, width)
  logits = jax.jit(D.apply)(variables, img, c)
  assert logits.shape == (8, 1)
  assert np.std(logits) > 0


def _with_intermediates(D, variables, img):
  return jax.jit(
    functools.partial(
      D.apply, capture_intermediates=True, mutable=['intermediates']
    )
  )(variables, img)


def test_parameter_count_of_ffhq_1024():
  D = lib.Discriminator(resolution=1024, img_channels=3)
  img = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
  shapes = jax.eval_shape(D.init, jax.random.key(0), img)
  count = sum(a.size for a in jax.tree.leaves(shapes))
  # The figure published for the StyleGAN2 discriminator of FFHQ.
  assert count == 29_012_513


def _mbstd_reference(x, size):
  """Loops over images and their groups, in float64."""
  n = len(x)
  result = np.zeros(n)
  for image in range(n):
    group = x[image % (n // size) :: n // size]
    result[image] = np.mean(np.sqrt(np.var(group, axis=0) + 1e-8))
  return result


@pytest.mark.parametrize(
  ('n', 'group', 'size'),
  [(8, 4, 4), (8, 8, 8), (3, 4, 3), (6, 4, 3), (1, 4, 1), (7, 1, 1)],
)
def test_minibatch_std(n, group, size):
  x = np.random.RandomState(0).randn(n, 4, 4, 5).astype(np.float32)
  x *= np.arange(1, n + 1)[:, None, None, None]
  y = lib.minibatch_std(x, group)
  np.testing.assert_array_equal(y[..., :5], x)
  expected = _mbstd_reference(x.astype(np.float64), size)
  expected = np.broadcast_to(expected[:, None, None], (n, 4, 4))
  np.testing.assert_allclose(y[..., 5], expected, rtol=1e-5)


def test_minibatch_std_refuses_what_it_cannot_group():
  x = np.zeros((7, 4, 4, 5), np.float32)
  with pytest.raises(ValueError, match='got 7 images'):
    lib.minibatch_std(x, 4)
  with pytest.raises(ValueError, match='mbstd_group must be at least 1'):
    lib.minibatch_std(x, 0)


def test_permuting_images_within_and_between_groups():
  D, variables, img, _ = _small(resolution=8)
  apply = jax.jit(D.apply)
  logits = apply(variables, img)
  # Image m of eight is in a group of four with m + 2, m + 4, m + 6.
  within = np.array([4, 1, 0, 7, 6, 5, 2, 3])
  np.testing.assert_allclose(
    apply(variables, img[within]), logits[within], rtol=0, atol=1e-5
  )
  between = np.array([1, 0, 2, 3, 4, 5, 6, 7])
  assert np.abs(apply(variables, img[between]) - logits[between]).max() > 1e-4


def test_sharding_the_batch_changes_nothing():
  D, variables, img, c = _small(resolution=8, label_dim=3)

  def penalties(variables, img, c):
    grads = jax.grad(lambda img: D.apply(variables, img, c).sum())(img)
    return D.apply(variables, img, c), jnp.sum(grads**2, axis=(1, 2, 3))

  expected = jax.jit(penalties)(variables, img, c)
  mesh = jax.make_mesh(
    (4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = NamedSharding(mesh, PartitionSpec('data'))
  actual = jax.jit(penalties)(
    variables, jax.device_put(img, rows), jax.device_put(c, rows)
  )
  for a, b in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_low_precision(dtype):
  D, variables, img, _ = _small(
    low_precision_dtype=dtype, num_low_precision=1, conv_clamp=256.0
  )
  expected = jax.jit(D.clone(low_precision_dtype=None).apply)(variables, img)
  logits, state = _with_intermediates(D, variables, img)
  blocks = state['intermediates']
  assert blocks['b16']['__call__'][0].dtype == dtype
  assert blocks['b8']['__call__'][0].dtype == jnp.float32
  assert logits.dtype == jnp.float32
  assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  np.testing.assert_allclose(logits, expected, rtol=0, atol=0.03)
  assert np.abs(logits - expected).max() > 0


def test_clamp_bounds_every_block():
  D, variables, img, _ = _small(conv_clamp=256.0)
  _, state = _with_intermediates(D, variables, 1e6 * img)
  block = state['intermediates']['b16']
  assert np.abs(block['fromrgb']['__call__'][0]).max() == 256
  limit = 256 * np.sqrt(0.5) * (1 + 1e-6)
  assert np.abs(block['conv1']['__call__'][0]).max() <= limit
  # Official checkpoints record the bound of every convolution: the skip, which
  # is linear in what is bounded already, has none.
  assert np.abs(block['skip']['__call__'][0]).max() > limit


def test_bad_inputs_are_named():
  D, variables, img, c = _small(resolution=8, label_dim=3)
  with pytest.raises(ValueError, match=r'img must have .* \[n, 8, 8, 3\]'):
    D.apply(variables, img[:, :4], c)
  with pytest.raises(ValueError, match=r'c must have the shape \[n, 3\]'):
    D.apply(variables, img)
