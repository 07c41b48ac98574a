"""Operators and networks under a user's mesh of Explicit axes.

`jax.make_mesh` makes such axes by default. Results and gradients must be those
without a mesh, and be sharded as the inputs are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import operators
import pytest

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec, stylegan2
from sg3jax.ops.conv import conv2d
from sg3jax.ops.filtered_lrelu import interpreted

X, W, B, S = operators.operands(8)
nonlinearity = operators.nonlinearity

MESHES = {
  'data': ((4,), ('data',)),
  'another name': ((4,), ('batch',)),
  'two axes': ((2, 2), ('rows', 'columns')),
}


# Function and arguments, of which those of `batched` have the batch first.
OPERATORS = operators.operators(8)


def batched(x):
  return x.ndim > 1 and x.shape[0] == len(X)


@functools.cache
def _with_gradients(f):
  """Returns a jitted function of f's values and the gradients of sin(f)."""

  def both(*args):
    y, pull = jax.vjp(f, *args)
    return y, pull(jnp.sin(y))

  return jax.jit(both)


def check(f, args, mesh, batch, tolerance=1e-5):
  """Compares values and gradients of sin(f), and how they are sharded."""
  both = _with_gradients(f)
  expected = both(*args)
  mesh = jax.make_mesh(*mesh)
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Explicit}

  def put(x):
    spec = jax.P(batch) if batched(x) else jax.P()
    return jax.device_put(x, jax.NamedSharding(mesh, spec))

  with jax.set_mesh(mesh):
    placed = jax.tree.map(put, args)
    actual = both(*placed)
  assert jax.typeof(actual[0]).sharding.spec[0] == batch
  for x, dx in zip(
    jax.tree.leaves(placed), jax.tree.leaves(actual[1]), strict=True
  ):
    assert jax.typeof(dx) == jax.typeof(x)
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    b = np.asarray(b)
    np.testing.assert_allclose(
      np.asarray(a), b, atol=tolerance * max(np.abs(b).max(), 1)
    )


@pytest.mark.parametrize(
  'mesh',
  [
    # The name that is ours, with one axis: the others say more.
    pytest.param('data', marks=pytest.mark.exhaustive),
    'another name',
    'two axes',
  ],
)
@pytest.mark.parametrize('name', OPERATORS)
def test_operators(name, mesh):
  f, args = OPERATORS[name]
  mesh = MESHES[mesh]
  check(f, args, mesh, mesh[1][0] if len(mesh[1]) == 1 else mesh[1])


def test_a_batch_over_one_axis_of_two():
  f, args = OPERATORS['filtered_lrelu, banded']
  check(f, args, MESHES['two axes'], 'columns')


def test_second_derivatives():
  def penalty(x, w, b, s):
    def f(x):
      return jnp.sum(
        nonlinearity('banded')(conv2d(x, w[..., :4], padding=1), b, s)
      )

    return jnp.sum(jnp.square(jax.grad(f)(x)), (1, 2, 3))

  check(penalty, (X, W, B, S), MESHES['another name'], 'batch')


def test_a_kernel_has_the_samples_and_the_channels_of_its_device():
  call = nonlinearity('pallas_tpu')
  with interpreted():
    check(call, (X[:4, :6, :6], B, S[:4]), ((4,), ('batch',)), None)
    mesh = jax.make_mesh((2, 2), ('batch', 'model'))
    spec = jax.P('batch', None, None, 'model')
    x = jax.device_put(X, jax.NamedSharding(mesh, spec))
    y = jax.jit(call)(x, B, S)
    assert jax.typeof(y).sharding.spec == spec
    np.testing.assert_allclose(y, jax.jit(call)(X, B, S), atol=1e-5)


Z = np.random.RandomState(5).randn(8, 8).astype(np.float32)
C = np.eye(3, dtype=np.float32)[np.arange(8) % 3]
SMALL = {'channel_base': 64, 'channel_max': 4}
GENERATORS = {
  'T': (spec.stylegan3_t(16, num_layers=2, num_critical=1, **SMALL), 3),
  'R': (spec.stylegan3_r(16, num_layers=2, num_critical=1, **SMALL), 0),
  'StyleGAN2': (stylegan2.StyleGAN2Spec(resolution=8, **SMALL), 0),
}


@pytest.mark.parametrize('name', GENERATORS)
def test_a_generator(name):
  design, label_dim = GENERATORS[name]
  G = generator_lib.Generator(design, z_dim=8, w_dim=8, label_dim=label_dim)
  inputs = (Z, C) if label_dim else (Z,)
  variables = jax.jit(G.init)(jax.random.key(0), *inputs)
  rest = {k: v for k, v in variables.items() if k != 'params'}

  def generate(params, z, *c):
    images = G.apply({'params': params, **rest}, z, *c)
    if name != 'T':
      return images
    averaged, _ = G.apply(
      {'params': params, **rest},
      z,
      *c,
      update_averages=True,
      mutable=['moving_averages'],
    )
    return images + averaged

  check(generate, (variables['params'], *inputs), MESHES['data'], 'data')


@pytest.mark.parametrize('group', [4, 8])
def test_a_discriminator(group):
  D = discriminator_lib.Discriminator(
    8, 3, label_dim=3, mbstd_group=group, mapping_layers=2, **SMALL
  )
  images = np.random.RandomState(6).randn(8, 8, 8, 3).astype(np.float32)
  params = jax.jit(D.init)(jax.random.key(0), images, C)['params']

  def classify(params, images, c):
    return D.apply({'params': params}, images, c)

  check(classify, (params, images, C), MESHES['another name'], 'batch')
