"""A batch in blocks of images gives what the whole batch gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operators import operators

from sg3jax.ops import blocks, conv

RADIAL = np.outer(np.hanning(7)[1:-1], np.hanning(7)[1:-1]) + np.eye(5)


@pytest.mark.parametrize(
  ('n', 'most', 'images'),
  [(0, 4, 0), (1, 4, 1), (4, 4, 4), (6, 4, 3), (7, 4, 1), (8, 4, 4), (3, 0, 1)],
)
def test_equal_blocks_have_as_many_images_as_fit(monkeypatch, n, most, images):
  monkeypatch.setattr(blocks, '_MAX_BYTES', most * 10)
  x, s = jnp.arange(2.0 * n).reshape(n, 2), {'a': jnp.ones((n, 1)), 'b': None}
  seen = set()

  def scaled(x, s):
    seen.add(x.shape[0])
    return x * s['a'] * 3

  np.testing.assert_array_equal(blocks.map_images(scaled, 10, x, s), 3 * x)
  total = blocks.sum_images(lambda x, s: scaled(x, s).sum(0), 10, x, s)
  np.testing.assert_array_equal(total, 3 * x.sum(0))
  assert seen == {images}


@pytest.mark.parametrize(
  'name', ['conv2d', 'conv2d, strided', 'filtered_lrelu, banded']
)
def test_derivatives_do_not_depend_on_blocks(monkeypatch, name):
  function, arguments = operators(batch=6, down_filter=RADIAL)[name]
  numbers = tuple(range(len(arguments)))

  def loss(*arguments):
    return jnp.sum(jnp.sin(function(*arguments)))

  def derivatives():
    jax.clear_caches()  # Or the first trace would serve both.
    slopes = jax.grad(loss, numbers)

    def squares(*arguments):
      return sum(jnp.sum(s**2) for s in slopes(*arguments))

    return jax.jit(
      lambda *a: (function(*a), slopes(*a), jax.grad(squares, numbers)(*a))
    )(*arguments)

  whole = derivatives()
  monkeypatch.setattr(blocks, '_MAX_BYTES', 1)
  for a, b in zip(*map(jax.tree.leaves, (derivatives(), whole)), strict=True):
    # Sums over 6 images and 100 pixels, in another order.
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_blocks_of_16_bits_add_up_in_more(monkeypatch):
  """In bfloat16, 256 + 1 is 256."""
  monkeypatch.setattr(blocks, '_MAX_BYTES', 1)
  ones = jnp.ones((512, 1), jnp.bfloat16)
  with jax.numpy_dtype_promotion('strict'):
    total = blocks.sum_images(lambda x: x.sum(0), 2, ones)
  assert (total.dtype, total[0]) == (jnp.bfloat16, 512)


def test_the_memory_of_a_kernel_gradient_does_not_grow_with_the_batch():
  def temporary(n):
    x = jax.ShapeDtypeStruct((n, 32, 32, 64), jnp.float32)
    g = jax.ShapeDtypeStruct((n, 34, 34, 64), jnp.float32)
    w = jnp.zeros((3, 3, 64, 64))

    def gradient(x, g):
      return jax.vjp(lambda w: conv.conv2d(x, w, padding=2), w)[1](g)

    compiled = jax.jit(gradient).lower(x, g).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(64) < 1.1 * temporary(8)


def test_what_devices_share_is_one_block(monkeypatch):
  monkeypatch.setattr(blocks, '_MAX_BYTES', 1)
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  seen = []

  def note(x):
    seen.append(x.shape[0])
    return x

  with jax.set_mesh(mesh):
    jax.jit(functools.partial(blocks.map_images, note, 10))(jnp.ones((4, 1)))
  assert seen == [4]
