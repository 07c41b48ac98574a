"""Operators and networks under JAX's global settings of a user.

Tracing shows all three: ranks and dtypes are promoted, or not, while a function
is traced, and so is float64 chosen where JAX's default is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import operators
import pytest

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec, stylegan2
from sg3jax.ops.filtered_lrelu import interpreted
from sg3jax.ops.ideal_lowpass import ideal_filtered_lrelu
from sg3jax.ops.resample_conv import resample_conv
from sg3jax.ops.upfirdn import upfirdn

SWITCHES = {
  'rank promotion': lambda: jax.numpy_rank_promotion('raise'),
  'dtype promotion': lambda: jax.numpy_dtype_promotion('strict'),
  'x64': lambda: jax.enable_x64(True),
}

X, W, B, S = operators.operands(4)
TAPS = np.random.RandomState(4).randn(12).astype(np.float32)
# As of a radial filter: in two dimensions.
RADIAL = np.outer(operators.F, operators.F)


def ideal(x, b):
  return ideal_filtered_lrelu(
    x, b, up=2, down=2, up_cutoff=0.25, down_cutoff=0.25, size=7, gain=1.0,
    slope=0.2, clamp=3.0,
  )  # fmt: skip


# Operator and its operands; the first is tried in 16 bits too.
OPERATORS = operators.operators(4, down_filter=RADIAL) | {
  'resample_conv, down': (
    lambda x, w: resample_conv(x, w, operators.F, down=2),
    (X, W),
  ),
  'upfirdn, traced': (
    lambda x, f: upfirdn(x, f, padding=operators.EDGES),
    (X, TAPS),
  ),
  'ideal_filtered_lrelu': (ideal, (X, B)),
}


def check(f, *args):
  """Traces a function and its gradients, which must be of its arguments."""

  def both(*args):
    y, pull = jax.vjp(f, *args)
    return y, pull(jnp.sin(y))

  y, grads = jax.eval_shape(both, *args)
  assert y.dtype != jnp.float64
  for x, dx in zip(jax.tree.leaves(args), jax.tree.leaves(grads), strict=True):
    assert (dx.shape, dx.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', OPERATORS)
@pytest.mark.parametrize('switch', SWITCHES)
def test_operators(switch, name, dtype):
  f, (x, *others) = OPERATORS[name]
  with SWITCHES[switch]():
    check(f, jnp.asarray(x, dtype), *others)


@pytest.mark.parametrize('switch', SWITCHES)
def test_the_kernel_for_tpus(switch):
  with SWITCHES[switch](), interpreted():
    check(
      operators.nonlinearity('pallas_tpu', RADIAL),
      jnp.asarray(X, 'bfloat16'),
      B,
      S,
    )


Z = np.zeros((4, 8), np.float32)
C = np.eye(4, 3, dtype=np.float32)
SMALL = {'channel_base': 64, 'channel_max': 4}
HALF = {'low_precision_dtype': jnp.bfloat16, 'conv_clamp': 256.0}
GENERATORS = {
  'T': (spec.stylegan3_t(16, num_layers=4, **SMALL), HALF),
  'R': (spec.stylegan3_r(16, num_layers=4, **SMALL), {'remat': True}),
  'p4': (
    spec.SynthesisSpec(
      resolution=16,
      num_layers=4,
      p4=True,
      noise=True,
      radial_filters=True,
      **SMALL,
    ),
    {},
  ),
  'StyleGAN2': (stylegan2.StyleGAN2Spec(resolution=16, **SMALL), HALF),
  'StyleGAN2, resnet': (
    stylegan2.StyleGAN2Spec(
      resolution=16, architecture='resnet', input='fourier', **SMALL
    ),
    {},
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', GENERATORS)
@pytest.mark.parametrize('switch', SWITCHES)
def test_generators(switch, name):
  design, options = GENERATORS[name]
  G = generator_lib.Generator(design, z_dim=8, w_dim=8, label_dim=3, **options)
  with SWITCHES[switch]():
    variables = jax.eval_shape(G.init, jax.random.key(0), Z, C)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {
      jnp.dtype('float32')
    }
    inputs = {}
    if G.spec.takes_transforms:
      inputs['transform'] = np.broadcast_to(np.eye(3, dtype='f'), (4, 3, 3))

    def apply(params, *args, **options):
      return G.apply(
        {**variables_of(variables), 'params': params},
        *args,
        rngs={'noise': jax.random.key(1)},
        **options,
      )

    def generate(params, z, c):
      ws = apply(
        params, z, c, truncation_psi=0.5, truncation_cutoff=2,
        truncation_center=jnp.ones((4, 8), jnp.float32), method='mapping',
      )  # fmt: skip
      images = apply(
        params, ws, **inputs, noise_mode='none', method='synthesis'
      )
      images += apply(params, z, c, truncation_psi=0.5, noise_mode='random')
      averaged, changed = apply(
        params, z, c, update_averages=True, mutable=['moving_averages']
      )
      assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(changed))
      return images + averaged

    check(generate, variables['params'], Z, C)


def variables_of(shapes):
  """Returns zeros of the shapes."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(shapes))


@pytest.mark.parametrize('options', [HALF, {'remat': True}], ids=['16', '32'])
@pytest.mark.parametrize('switch', SWITCHES)
def test_discriminators(switch, options):
  D = discriminator_lib.Discriminator(
    16, 3, label_dim=3, mapping_layers=2, **SMALL, **options
  )
  images = np.zeros((4, 16, 16, 3), np.float32)
  with SWITCHES[switch]():
    params = jax.eval_shape(D.init, jax.random.key(0), images, C)['params']
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}

    def classify(params, images, c):
      return D.apply({'params': params}, images, c)

    check(classify, params, images, C)
