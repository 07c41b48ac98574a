"""A fresh R generator is equivariant by construction (paper section 3)."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.eval import equivariance
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib


@pytest.mark.slow
def test_fresh_r_generator_exceeds_60_db():
  spec = spec_lib.stylegan3_r(64, channel_base=1024, channel_max=32)
  generator = generator_lib.Generator(spec, z_dim=64, w_dim=64)
  variables = jax.jit(generator.init)(jax.random.key(0), jnp.zeros((1, 64)))
  variables = flax.core.unfreeze(variables)
  z = np.random.RandomState(0).randn(16, 64).astype(np.float32)
  images = jax.jit(generator.apply)(variables, z)
  # PSNR is relative to the nominal range: give the pictures natural contrast.
  scale = 0.5 / float(jnp.std(images))

  def synthesize(variables, ws, transforms):
    images = generator.apply(variables, ws, transforms, method='synthesis')
    return images * scale

  def sample_ws(variables, key, n):
    z = jax.random.normal(key, (n, 64))
    return generator.apply(variables, z, method='mapping')

  figures = equivariance.EquivarianceEvaluator(
    synthesize,
    sample_ws,
    batch_size=16,
    metrics=('eqt', 'eqr'),
    num_samples=16,
  )(variables)
  assert figures['eqt50k_int'] > 60
  assert figures['eqr50k'] > 60
