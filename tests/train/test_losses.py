"""The blur of what D sees, R1, and the optimizer, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.train.step import losses, state


def _blur_reference(images, sigma):
  """Two passes of an explicit kernel with zeros outside, float64."""
  radius = int(3 * sigma)
  if not radius:
    return images
  taps = 2.0 ** -np.square(np.arange(-radius, radius + 1) / sigma)
  taps /= taps.sum()
  for axis in (1, 2):
    images = np.apply_along_axis(
      lambda row: np.convolve(row, taps)[radius:-radius], axis, images
    )
  return images


@pytest.mark.parametrize('sigma', [0.0, 0.2, 0.7, 2.5, 10.0])
def test_blur_equals_convolution(sigma):
  images = np.random.RandomState(0).randn(2, 24, 20, 3)
  ours = jax.jit(lambda x, s: losses.blur(x, s, max_sigma=10.0))(
    images.astype(np.float32), jnp.float32(sigma)
  )
  # Up to 61 products a pass.
  np.testing.assert_allclose(ours, _blur_reference(images, sigma), atol=1e-5)


def test_r1_penalty_of_a_quadratic():
  images = np.random.RandomState(0).randn(4, 3, 3, 2).astype(np.float32)

  def discriminate(x):  # Gradient 2x, so that the penalty is 4 |x|^2.
    return jnp.sum(jnp.square(x), axis=(1, 2, 3))[:, None]

  penalty, logits = losses.r1_penalty(discriminate, images)
  squares = np.square(images).sum((1, 2, 3))
  np.testing.assert_allclose(penalty, 4 * squares, rtol=1e-6)
  np.testing.assert_allclose(logits[:, 0], squares, rtol=1e-6)


def test_losses_are_those_of_the_paper():
  real, fake = np.array([[0.3], [-2.0]]), np.array([[-1.0], [4.0]])

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  np.testing.assert_allclose(
    losses.discriminator_loss(real, fake),
    -np.log(sigmoid(real)) - np.log(1 - sigmoid(fake)),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    losses.generator_loss(fake), -np.log(sigmoid(fake)), rtol=1e-5
  )


def test_discriminator_optimizer_is_lazy_adam():
  """Main and R1 phases in turn; the last bias has no part in R1."""
  rng = np.random.RandomState(0)
  params = {
    'b4': {'out': {'weight': np.ones(3), 'bias': np.ones(1)}, 'fc': np.ones(2)}
  }
  params = jax.tree.map(jnp.float32, params)
  lr, interval = 0.002, 4
  tx = state.make_discriminator_optimizer(lr, interval)
  opt = tx.init(params)
  ratio = interval / (interval + 1)
  beta2 = 0.99**ratio
  moments = jax.tree.map(lambda x: np.zeros(x.shape), params)
  expected = jax.tree.map(np.asarray, params)
  counts = jax.tree.map(lambda x: 0, params)
  for phase in ('main', 'r1', 'main', 'main', 'r1'):
    grads = jax.tree.map(lambda x: rng.randn(*x.shape), params)
    if phase == 'r1':
      grads['b4']['out']['bias'] = np.zeros(1)
    updates, new = tx.update(jax.tree.map(jnp.float32, grads), opt, params)
    opt = state.skip_offsets(new, opt) if phase == 'r1' else new
    params = jax.tree.map(lambda p, u: p + u, params, updates)

    skips = jax.tree.map(lambda x: False, params)
    skips['b4']['out']['bias'] = phase == 'r1'
    counts = jax.tree.map(lambda n, s: n + (not s), counts, skips)
    moments = jax.tree.map(
      lambda v, g, s: v if s else beta2 * v + (1 - beta2) * g**2,
      moments,
      grads,
      skips,
    )
    expected = jax.tree.map(
      lambda p, g, v, n, s: (
        p if s else p - lr * ratio * g / (np.sqrt(v / (1 - beta2**n)) + 1e-8)
      ),
      expected,
      grads,
      moments,
      counts,
      skips,
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, expected
  )
