"""StyleGAN2's generator against recordings, plain NumPy, and its promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest
from scipy import signal

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import stylegan2


def _relative_error(ours, reference) -> float:
  """Largest error in units of the largest magnitude of the reference."""
  ours = np.asarray(ours, np.float64)
  return np.abs(ours - reference).max() / np.abs(reference).max()


def _recorded(arrays):
  """Returns the generator of the recording and its variables."""
  spec = stylegan2.StyleGAN2Spec(
    resolution=32, channel_base=512, channel_max=32
  )
  generator = generator_lib.Generator(
    spec, z_dim=64, w_dim=64, mapping_layers=4
  )
  return generator, official_names.generator_variables(arrays)


def _synthesize(generator, **options):
  return jax.jit(
    functools.partial(generator.apply, method='synthesis', **options)
  )


def test_variables_are_those_of_init(golden):
  arrays = golden('stylegan2_generator32.npz')
  generator, variables = _recorded(arrays)
  ours = jax.eval_shape(generator.init, jax.random.key(0), arrays['z'])
  assert jax.tree.map(jnp.shape, ours) == jax.tree.map(np.shape, variables)


def test_recorded_styles_and_images(golden):
  arrays = golden('stylegan2_generator32.npz')
  generator, variables = _recorded(arrays)
  ws = generator.apply(variables, arrays['z'], method='mapping')
  # Float32 sums of 64 products in four layers; here, 9 x 32 in seven.
  assert _relative_error(ws, arrays['ws']) < 1e-5
  for mode in ('const', 'none'):
    images = _synthesize(generator, noise_mode=mode)(variables, arrays['ws'])
    expected = arrays[f'img_noise_{mode}'].transpose(0, 2, 3, 1)
    assert _relative_error(images, expected) < 1e-4, mode


_FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16  # Sum 4: keeps the mean.


def _filtered(x, kernel, up=1):
  """Convolves [h, w, i] with [k, k, i, o] about the pixels' centres."""
  h, w, _ = x.shape
  stuffed = np.zeros((up * h, up * w, x.shape[2]))
  stuffed[::up, ::up] = x
  # A sample's area reaches over `up` new pixels, whose middle is (up - 1) / 2
  # behind the sample: there the middle of the kernel belongs.
  start = (len(kernel) - up) // 2
  rows, columns = (slice(start, start + up * size) for size in (h, w))
  return np.stack(
    [
      sum(
        signal.convolve2d(stuffed[..., i], kernel[:, :, i, o])
        for i in range(x.shape[2])
      )[rows, columns]
      for o in range(kernel.shape[3])
    ],
    axis=2,
  )


def _modulated(params, x, w, up=1, demodulate=True):
  kernel = np.asarray(params['weight'], np.float64)
  affine = params['affine']
  styles = w @ affine['weight'] / w.size**0.5 + affine['bias']
  if not demodulate:
    styles = styles / styles.size**0.5
  kernel = kernel * styles[:, None]
  if demodulate:
    kernel = kernel / np.sqrt(np.sum(kernel**2, axis=(0, 1, 2)) + 1e-8)
  if up == 1:  # Networks correlate; upsampling is the adjoint of correlating.
    return _filtered(x, kernel[::-1, ::-1])
  kernel = [[signal.convolve2d(c, _FIR) for c in i] for i in kernel.T]
  return _filtered(x, np.array(kernel).T, up)


def _layer(params, x, w, noise, up=1):
  x = _modulated(params, x, w, up) + params['bias']
  x = x + params['noise_strength'] * noise['noise_const'][:, :, None]
  return np.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def _reference(spec, params, noise, ws):
  """One image in float64, from the description of the architectures."""
  identity = np.eye(3)[None, None] * _FIR[:, :, None, None]
  x, image, k = np.float64(params['b4']['const']), None, 0
  for res in spec.resolutions:
    p, n = params[f'b{res}'], noise[f'b{res}']
    shortcut = x
    if res > 4:
      x = _layer(p['conv0'], x, ws[k], n['conv0'], up=2)
      k += 1
    x = _layer(p['conv1'], x, ws[k], n['conv1'])
    k += 1
    if spec.architecture == 'resnet' and res > 4:
      kernel = np.asarray(p['skip']['weight'], np.float64)
      kernel = kernel * _FIR[:, :, None, None] / kernel.shape[2] ** 0.5
      x = (x + _filtered(shortcut, kernel, 2)) * np.sqrt(0.5)
    if 'torgb' in p:
      rgb = _modulated(p['torgb'], x, ws[k], demodulate=False)
      rgb = rgb + p['torgb']['bias']
      image = rgb if image is None else _filtered(image, identity, 2) + rgb
  return image


@functools.cache
def _tiny(resolution=8, label_dim=0, **options):
  """A generator, and variables in which nothing is zero."""
  spec = stylegan2.StyleGAN2Spec(
    resolution=resolution,
    channel_base=4 * resolution,
    channel_max=6,
    **options,
  )
  generator = generator_lib.Generator(
    spec, z_dim=8, w_dim=8, label_dim=label_dim
  )
  rng = np.random.RandomState(0)

  def draw(path, x):
    # The mapping's weights are stored a hundred times as large.
    scale = 100 if 'fc' in jax.tree_util.keystr(path) else 1
    return np.asarray(scale * rng.randn(*x.shape), np.float32)

  variables = jax.tree.map_with_path(
    draw,
    jax.eval_shape(
      generator.init,
      jax.random.key(0),
      np.zeros((1, 8)),
      np.zeros((1, label_dim)) if label_dim else None,
    ),
  )
  return generator, variables


def _ws(generator):
  return np.float32(np.random.RandomState(1).randn(2, generator.spec.num_ws, 8))


@pytest.mark.parametrize('architecture', stylegan2.ARCHITECTURES)
def test_architectures_equal_plain_numpy(architecture):
  generator, variables = _tiny(resolution=16, architecture=architecture)
  params, noise = (variables[name]['synthesis'] for name in ('params', 'noise'))
  blocks = {name for name in params if 'torgb' in params[name]}
  assert blocks == (set(params) if architecture == 'skip' else {'b16'})
  assert ('skip' in params['b8']) == (architecture == 'resnet')
  assert 'skip' not in params['b4']
  ws = _ws(generator)
  images = _synthesize(generator)(variables, ws)
  assert images.shape == (2, 16, 16, 3)
  for image, w in zip(images, np.float64(ws), strict=True):
    # Float32 sums of up to 54 products in six layers.
    expected = _reference(generator.spec, params, noise, w)
    assert _relative_error(image, expected) < 1e-5


def _count(spec) -> int:
  generator = generator_lib.Generator(spec, mapping_layers=8)
  variables = jax.eval_shape(
    generator.init, jax.random.key(0), jnp.zeros((1, 512))
  )
  return sum(x.size for x in jax.tree.leaves(variables['params']))


@pytest.mark.parametrize(
  ('resolution', 'channel_base', 'options', 'count'),
  [
    (256, 2**14, {}, 24_767_458),  # Config A.
    (256, 2**14, {'input': 'fourier'}, 25_021_410),  # B.
    (256, 2**14, {'input': 'fourier', 'noise': False}, 25_021_397),  # C.
    (1024, 2**15, {}, 30_370_060),
  ],
)
def test_published_counts(resolution, channel_base, options, count):
  spec = stylegan2.StyleGAN2Spec(
    resolution=resolution, channel_base=channel_base, **options
  )
  assert _count(spec) == count
  assert spec.num_layers == 2 * np.log2(resolution) - 3


@pytest.mark.parametrize(
  ('resolution', 'first', 'num_ws'), [(8, 4, 4), (24, 6, 6), (32, 4, 8)]
)
def test_shapes(resolution, first, num_ws):
  spec = stylegan2.StyleGAN2Spec(
    resolution=resolution,
    img_channels=4,
    channel_base=4 * resolution,
    channel_max=8,
  )
  assert (spec.resolutions[0], spec.num_ws) == (first, num_ws)
  generator = generator_lib.Generator(spec, z_dim=8, w_dim=8)
  z = jax.ShapeDtypeStruct((2, 8), jnp.float32)
  images, _ = jax.eval_shape(generator.init_with_output, jax.random.key(0), z)
  assert images.shape == (2, resolution, resolution, 4)
  assert images.dtype == jnp.float32


def test_noise_modes():
  generator, variables = _tiny()
  # The same style twice: images differ by noise alone.
  ws = _ws(generator)[[0, 0]]

  @functools.partial(jax.jit, static_argnames='mode')
  def draw(variables, mode, seed=0):
    rngs = {'noise': jax.random.key(seed)}
    return generator.apply(
      variables, ws, noise_mode=mode, rngs=rngs, method='synthesis'
    )

  const, none, random = (
    draw(variables, mode) for mode in ('const', 'none', 'random')
  )
  np.testing.assert_allclose(const[0], const[1], rtol=1e-5, atol=1e-5)
  assert np.abs(const - none).max() > 0.1
  assert np.abs(random[0] - random[1]).max() > 0.1
  assert np.abs(random - draw(variables, 'random', seed=1)).max() > 0.1
  np.testing.assert_array_equal(random, draw(variables, 'random'))
  # Only the constant one is read, and all noise has the learned strengths.
  others = variables | {'noise': jax.tree.map(np.ones_like, variables['noise'])}
  assert np.abs(draw(others, 'const') - const).max() > 0.1
  np.testing.assert_array_equal(draw(others, 'random'), random)
  weak = jax.tree.map_with_path(
    lambda path, x: 0 * x if 'noise_strength' in str(path[-1]) else x, variables
  )
  for mode in ('const', 'random'):
    np.testing.assert_allclose(draw(weak, mode), none, rtol=1e-5, atol=1e-5)
  with pytest.raises(ValueError, match="const, random, none, got 'loud'"):
    draw(variables, 'loud')


def test_noise_is_normal_and_has_no_strength_at_first():
  layer = stylegan2.StyledConv(2)
  x, w = jnp.ones((1, 64, 64, 3)), jnp.ones((1, 4))
  variables = layer.init(jax.random.key(0), x, w)
  assert variables['params']['noise_strength'] == 0
  # 4096 values: mean and standard deviation are known to 0.016 and 0.011.
  noise = variables['noise']['noise_const']
  assert abs(np.mean(noise)) < 0.06
  assert abs(np.std(noise) - 1) < 0.05
  assert 'noise' not in _tiny(noise=False)[1]


def test_labels():
  generator, variables = _tiny(label_dim=3)
  z = np.random.RandomState(0).randn(1, 8).repeat(3, axis=0)
  images = jax.jit(generator.apply)(variables, z, np.eye(3, dtype=np.float32))
  assert np.abs(images[0] - images[1]).max() > 0.1
  assert np.abs(images[1] - images[2]).max() > 0.1
  with pytest.raises(ValueError, match='pass labels'):
    generator.apply(variables, z)


# A rounding's error is 2^-9 or 2^-12; some thirty of them add up.
@pytest.mark.parametrize(
  ('architecture', 'dtype', 'tolerance'),
  [('skip', 'bfloat16', 0.05), ('resnet', 'float16', 0.006)],
)
def test_low_precision_is_close(architecture, dtype, tolerance):
  generator, variables = _tiny(resolution=16, architecture=architecture)
  ws = _ws(generator)
  low = generator.clone(low_precision_dtype=jnp.dtype(dtype), conv_clamp=256.0)
  images = _synthesize(low)(variables, ws)
  assert images.dtype == jnp.float32
  error = _relative_error(images, _synthesize(generator)(variables, ws))
  assert tolerance / 100 < error < tolerance


def test_the_four_highest_resolutions_are_low():
  spec = stylegan2.StyleGAN2Spec(resolution=256)
  synthesis = stylegan2.Synthesis(spec, low_precision_dtype=jnp.bfloat16)
  low = [r for r in spec.resolutions if synthesis._dtype(r) == jnp.bfloat16]
  assert low == [32, 64, 128, 256]
  # The first block never is.
  assert stylegan2.Synthesis(
    stylegan2.StyleGAN2Spec(resolution=32), low_precision_dtype=jnp.bfloat16
  )._dtype(4) == jnp.float32  # fmt: skip


def test_clamp_bounds_what_float16_holds():
  generator, variables = _tiny(architecture='orig')
  ws = _ws(generator)
  params = jax.tree.map(np.copy, variables['params'])
  params['synthesis']['b8']['conv1']['bias'] += 1e6
  for clamp, finite in ((256.0, True), (None, False)):
    low = generator.clone(low_precision_dtype=jnp.float16, conv_clamp=clamp)
    images = _synthesize(low)(variables | {'params': params}, ws)
    assert np.all(np.isfinite(images)) == finite


def test_a_constant_takes_no_transform_and_fourier_features_do():
  generator, variables = _tiny()
  ws = _ws(generator)
  eye = np.eye(3, dtype=np.float32)
  assert not generator.spec.takes_transforms
  with pytest.raises(ValueError, match='input is a learned constant'):
    generator.apply(variables, ws, eye, method='synthesis')
  generator, variables = _tiny(input='fourier', noise=False)
  assert generator.spec.takes_transforms
  draw = _synthesize(generator)
  plain, same = draw(variables, ws), draw(variables, ws, eye)
  np.testing.assert_allclose(plain, same, rtol=1e-5, atol=1e-5)
  moved = draw(variables, ws, eye + np.float32(0.25) * np.eye(3, k=2))
  assert _relative_error(moved, plain) > 0.1


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'resolution': 20 + 2}, 'got 22'),
    ({'resolution': 4}, 'got 4'),
    ({'img_channels': 2}, 'img_channels must be 1'),
    ({'architecture': 'plain'}, "skip, resnet, orig, got 'plain'"),
    ({'input': 'noise'}, "constant, fourier, got 'noise'"),
    ({'channel_base': 16}, 'channel_base must be at least 32'),
  ],
)
def test_impossible_designs_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    stylegan2.StyleGAN2Spec(**({'resolution': 32} | options))


def test_styles_of_another_number_are_refused():
  generator, variables = _tiny()
  with pytest.raises(ValueError, match=r'\[n, 4, w_dim\], got \[2, 5, 8\]'):
    generator.apply(variables, np.zeros((2, 5, 8)), method='synthesis')
