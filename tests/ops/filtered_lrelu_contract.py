"""The contract of every implementation of `filtered_lrelu`.

A test class inherits `FilteredLReluContract`, names its implementation and the
widest dtype that it computes in; all of these tests then run against that one.
Tolerances follow from the dtype and the number of products in a sum; the
float64 reference judges.
"""

import contextlib
import functools
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import layer_shapes as shapes
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from sg3jax.ops import filters
from sg3jax.ops.filtered_lrelu import filtered_lrelu

NUM_GOLDEN_CASES = 9
_KEYS = ('x', 'b', 'y', 'g', 'dx', 'db', 'h', 'dg', 'fu', 'fd')


def golden_case(arrays, index):
  """Returns one golden case, NHWC, and the operator's keyword arguments."""
  case = {k: arrays.get(f'case{index}/{k}') for k in _KEYS}
  for k in ('x', 'y', 'g', 'dx', 'h', 'dg'):
    case[k] = np.transpose(case[k], (0, 2, 3, 1))
  options = json.loads(str(arrays[f'case{index}/params']))
  x0, x1, y0, y1 = options.pop('padding')
  options['padding'] = ((y0, y1), (x0, x1))
  fu, up = case['fu'], options['up']
  if fu is not None and fu.ndim == 1:
    # The goldens multiplied float32 taps by the gain before widening them; it
    # is inexact for up = 3 only.
    fu = np.float64(fu * np.float32(up)) / up
  return case, {'fu': fu, 'fd': case['fd'], **options}


def tolerance(dtype) -> float:
  """Error of an output of the operator, relative to the largest of them.

  A pass is at most 24 products, four passes follow each other, and rounding
  errors add like a random walk: sqrt(4 * 24), 10 epsilon, times a margin.
  """
  eps = float(jnp.finfo(dtype).eps)
  # A split filter drops singular values of 4e-7 in all but float64.
  return 20 * eps + (0 if eps < 1e-12 else 2e-6)


def assert_close(actual, expected, dtype):
  assert actual.shape == expected.shape
  expected = np.asarray(expected, np.float64)
  atol = tolerance(dtype) * max(np.abs(expected).max(), 1e-30)
  np.testing.assert_allclose(
    np.asarray(actual, np.float64), expected, rtol=0, atol=atol
  )


def relative_error(actual, expected) -> float:
  expected = np.asarray(expected, np.float64)
  error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
  return float(error / max(np.linalg.norm(expected), 1e-30))


def random_like(seed, shape, dtype=np.float64):
  return np.random.RandomState(seed).randn(*shape).astype(dtype)


SMALL_LAYERS = {s.name: s for s in shapes.LAYERS if s.size < 50}

GEOMETRIES = (
  # up, down, shapes of fu and fd, padding
  (1, 1, (None, None), 0),
  (1, 1, ((5,), (4,)), 6),
  (2, 1, ((7,), None), (4, 3)),
  (1, 4, (None, (3,)), (1, 9)),
  (3, 2, ((5,), (6,)), ((8, 9), (10, 4))),
  (4, 2, ((24,), (12,)), (20, 17)),
  (2, 4, ((12,), (24,)), ((30, 31), (33, 29))),
  (3, 4, ((3, 2), (4, 6)), ((8, 3), (4, 9))),
  (5, 5, (None, None), (-2, -7)),
  (2, 2, ((12,), (12,)), (-1, 9)),
  (4, 2, ((2,), (2,)), ((-13, -15), (3, 3))),  # A single row.
)


def small_operator(**overrides):
  """Returns an operator with all its features and an input for it."""
  f = filters.kaiser_lowpass(12, cutoff=2.0, half_width=3.0, sampling_rate=16.0)
  options = {
    'fu': f,
    'fd': f,
    'up': 2,
    'down': 2,
    'padding': ((9, 8), (7, 6)),
    'gain': 1.3,
    'slope': 0.2,
    'clamp': 0.8,
    **overrides,
  }
  return options, random_like(0, (4, 8, 9, 3)), random_like(1, (3,))


def small_scaled():
  """Returns x, bias, input scale and output scale for `small_operator`."""
  _, x, b = small_operator()
  factors = (len(x), len(b))
  return (
    x,
    b,
    1.5 + 0.3 * random_like(2, factors),
    random_like(3, factors),  # Of both signs, as styles are.
  )


def scaled(implementation, arrays, is_scaled, options):
  """Returns y with the chosen scales, and the pullback to all arrays."""

  def call(x, b, *factors):
    input_scale, output_scale = (
      f if use else None for f, use in zip(factors, is_scaled, strict=True)
    )
    return filtered_lrelu(
      x,
      b=b,
      input_scale=input_scale,
      output_scale=output_scale,
      implementation=implementation,
      **options,
    )

  y, pull = jax.vjp(call, *arrays)
  return y, jax.jit(pull)


def layer_operator(name):
  """Returns a real layer's operator and a narrow input for it."""
  layer = SMALL_LAYERS[name]
  x = random_like(0, (1, layer.size, layer.size, 2))
  return layer.options(), x, random_like(1, (2,))


def geometry_operator(index):
  """Returns an operator of odd rates, borders and filters, and an input."""
  up, down, taps, padding = GEOMETRIES[index]
  fu, fd = (
    None if shape is None else random_like(i, shape)
    for i, shape in enumerate(taps)
  )
  options, x, b = small_operator(
    fu=fu, fd=fd, up=up, down=down, padding=padding, clamp=None
  )
  return options, x[:1], b


@st.composite
def random_operators(draw):
  """Draws an operator with at least one output, and an input for it."""
  up, down = draw(st.sampled_from((1, 2, 4))), draw(st.sampled_from((1, 2, 4)))
  fu, fd = (
    random_like(draw(st.integers(0, 99)), (draw(st.integers(2, 6)) * rate,))
    / (2 * rate) ** 0.5
    for rate in (up, down)
  )
  # Over few channels the norm of a bias gradient is a matter of luck.
  h, w, c = draw(st.tuples(*[st.integers(4, 40)] * 2, st.integers(9, 24)))
  least = len(fu) + len(fd) - up * min(h, w)
  pads = st.integers(max(-3, least // 2 + 1), max(20, least))
  options, _, _ = small_operator(
    fu=fu,
    fd=fd,
    up=up,
    down=down,
    padding=tuple((draw(pads), draw(pads)) for _ in 'hw'),
    slope=draw(st.sampled_from((0.0, 0.2, 1.0))),
    clamp=draw(st.sampled_from((None, 1.0))),
  )
  return options, random_like(0, (2, h, w, c)), random_like(1, (c,))


def values(implementation, operator, dtype=np.float64):
  """Returns y, and dx and db of a random cotangent."""
  options, x, b = operator

  @jax.jit
  def run(x, b):
    y, pull = jax.vjp(
      lambda x, b: filtered_lrelu(
        x, b=b, implementation=implementation, **options
      ),
      x,
      b,
    )
    return y, *pull(jnp.asarray(random_like(2, y.shape), y.dtype))

  return run(jnp.asarray(x, dtype), jnp.asarray(b, dtype))


@functools.cache
def reference(make_operator, key):
  """Returns `values` of the reference in float64, computed once."""
  return exact(make_operator(key))


def exact(operator):
  """Returns `values` of the reference in float64."""
  with jax.enable_x64(True):
    return [np.asarray(a) for a in values('reference', operator)]


class ValuesContract:
  """Values and gradients; inherit and set `implementation`."""

  implementation: ClassVar[str]
  dtype: ClassVar[Any] = np.float64  # The widest.
  narrow_dtypes: ClassVar[Sequence[str]] = ('bfloat16', 'float16')
  # Indices of the cases that it refuses.
  refused_goldens: ClassVar[Sequence[int]] = ()
  refused_geometries: ClassVar[Sequence[int]] = ()
  random_examples: ClassVar[int] = 5

  @pytest.fixture(autouse=True)
  def _in_dtype(self):
    with jax.enable_x64(self.dtype == np.float64), self.context():
      yield

  def context(self):
    """Returns what every test runs in."""
    return contextlib.nullcontext()

  def call(self, x, b, **options):
    return filtered_lrelu(x, b=b, implementation=self.implementation, **options)

  def cast(self, *arrays):
    return [jnp.asarray(a, self.dtype) for a in arrays]

  def assert_gradients_close(self, actual, expected):
    """Compares arrays; those of less than 64 bits by their norms.

    Where U x is nearly zero its sign, hence the mask, may differ by rounding: a
    part of the samples of about eps, and in 16 bits at least one sample of even
    the smallest arrays. A part p of the samples moves the norm by sqrt(p);
    twice that is allowed.
    """
    for a, e in zip(actual, expected, strict=True):
      if self.dtype == np.float64:
        assert_close(a, e, self.dtype)
        continue
      part = float(jnp.finfo(self.dtype).eps)
      if jnp.dtype(self.dtype).itemsize == 2:
        part = max(part, 1 / expected[0].size)
      assert relative_error(a, e) < max(1e-3, 2 * part**0.5)

  # Values and derivatives.

  @pytest.mark.parametrize('index', range(NUM_GOLDEN_CASES))
  def test_goldens_to_second_order(self, golden, index):
    case, options = golden_case(golden('filtered_lrelu.npz'), index)
    if index in self.refused_goldens:
      with pytest.raises(NotImplementedError):
        self.call(*self.cast(case['x'], case['b']), **options)
      return
    x, b, g, h = self.cast(*(case[k] for k in ('x', 'b', 'g', 'h')))

    def op(x, b):
      return self.call(x, b, **options)

    def pull(g):
      return jax.vjp(op, x, b)[1](g)

    @jax.jit
    def run():
      (dx, db), transpose = jax.vjp(pull, g)
      (dg,) = transpose((h, jnp.zeros_like(db)))
      return {'y': op(x, b), 'dx': dx, 'db': db, 'dg': dg}

    results = run()
    assert_close(results['y'], case['y'], self.dtype)
    for name in ('dx', 'db', 'dg'):
      self.assert_gradients_close([results[name]], [case[name]])
    if self.dtype == np.float64:  # What is recorded is more exact than that.
      for name, value in results.items():
        scale = max(1.0, np.abs(case[name]).max())
        np.testing.assert_allclose(
          value, case[name], rtol=0, atol=1e-10 * scale, err_msg=name
        )

  @pytest.mark.parametrize('name', SMALL_LAYERS)
  def test_real_layers(self, name):
    operator = layer_operator(name)
    dtype = self.dtype if np.dtype(self.dtype).itemsize < 4 else np.float32
    y, *gradients = values(self.implementation, operator, dtype)
    expected, *expected_gradients = reference(layer_operator, name)
    assert_close(y, expected, dtype)
    for d, expected_d in zip(gradients, expected_gradients, strict=True):
      assert relative_error(d, expected_d) < max(
        1e-3, jnp.finfo(dtype).eps ** 0.5
      )

  @pytest.mark.parametrize('index', range(len(GEOMETRIES)))
  def test_any_geometry(self, index):
    operator = geometry_operator(index)
    if index in self.refused_geometries:
      with pytest.raises(NotImplementedError):
        values(self.implementation, operator, self.dtype)
      return
    y, *gradients = values(self.implementation, operator, self.dtype)
    expected, *expected_gradients = reference(geometry_operator, index)
    assert_close(y, expected, self.dtype)
    self.assert_gradients_close(gradients, expected_gradients)

  @pytest.mark.slow
  def test_random_operators(self):
    @settings(
      max_examples=self.random_examples, deadline=None, derandomize=True
    )
    @given(random_operators())
    def check(operator):
      try:
        y, *gradients = values(self.implementation, operator, self.dtype)
      except NotImplementedError:
        reject()
      expected, *expected_gradients = exact(operator)
      assert_close(y, expected, self.dtype)
      self.assert_gradients_close(gradients, expected_gradients)

    check()

  def test_scales(self):
    options, *_ = small_operator()
    arrays = small_scaled()
    for is_scaled in ((True, False), (False, True), (True, True)):
      y, pull = scaled(
        self.implementation, self.cast(*arrays), is_scaled, options
      )
      with jax.enable_x64(True):
        wide = [jnp.asarray(a, np.float64) for a in arrays]
        expected, pull_expected = scaled('reference', wide, is_scaled, options)
        g = random_like(4, y.shape)
        expected_gradients = pull_expected(jnp.asarray(g))
      assert_close(y, np.asarray(expected), self.dtype)
      self.assert_gradients_close(
        pull(jnp.asarray(g, y.dtype)), expected_gradients
      )

  def test_16_bits(self):
    options, x, b = small_operator(clamp=None)
    for dtype in self.narrow_dtypes:
      # The reference sees the rounded input, in float64.
      x, b = (np.asarray(jnp.asarray(a, dtype), np.float64) for a in (x, b))
      y, dx, db = values(self.implementation, (options, x, b), dtype)
      assert (y.dtype, dx.dtype, db.dtype) == (dtype,) * 3
      expected, *gradients = exact((options, x, b))
      assert_close(y, expected, dtype)
      # Masks differ where rounding moves U x to the other side of zero.
      for d, expected_d in zip((dx, db), gradients, strict=True):
        assert (
          relative_error(d, expected_d) < float(jnp.finfo(dtype).eps) ** 0.5
        )

  def test_without_filters_it_is_pointwise(self):
    x, b = self.cast(random_like(0, (2, 3, 4, 5)), random_like(1, (5,)))
    options = {'gain': 2.0, 'slope': 0.5, 'clamp': 1.0}
    biased = x + b
    expected = np.clip(2 * np.where(biased > 0, biased, biased / 2), -1, 1)
    assert_close(self.call(x, b, **options), expected, self.dtype)

  def test_a_2d_filter_equals_its_factors(self):
    options, *arrays = small_operator()
    x, b = self.cast(*arrays)
    outer = np.outer(options['fu'], options['fu'])
    y = self.call(x, b, **options)
    y2 = self.call(x, b, **{**options, 'fu': outer, 'fd': outer})
    assert_close(y2, y, self.dtype)


class FilteredLReluContract(ValuesContract):
  """All of it; inherit and set `implementation`."""

  @pytest.mark.parametrize('clamp', [None, 0.8])
  def test_numerical_gradients(self, clamp):
    if self.dtype != np.float64:
      pytest.skip('numerical gradients need float64')
    options, x, b = small_operator(clamp=clamp, padding=((5, 6), (-2, 13)))
    check_grads(
      lambda x, b: self.call(x, b, **options),
      (x[:1], b),
      order=1,
      modes=['rev'],
      eps=1e-7,
      rtol=1e-5,
      atol=1e-5,
    )

  def test_derivatives_of_every_order(self):
    options, x, b = small_operator(clamp=None)
    wide = np.promote_types(self.dtype, np.float32)
    x, t = (jnp.asarray(a, wide) for a in (x, random_like(2, x.shape)))

    def cubic(
      implementation, dtype
    ):  # So that the third order does not vanish.
      def f(x):
        y = filtered_lrelu(
          x.astype(dtype), b=b, implementation=implementation, **options
        )
        return jnp.sum(y.astype(wide) ** 3)

      return f

    f = cubic(self.implementation, self.dtype)
    reference = cubic('reference', wide)
    eps = float(jnp.finfo(self.dtype).eps)
    for _ in range(3):
      f, reference = _directional(f, t), _directional(reference, t)
      np.testing.assert_allclose(
        jax.jit(f)(x), jax.jit(reference)(x), rtol=max(1e-9, eps**0.5 * 2)
      )

  def test_second_derivatives_in_the_scales(self):
    options, *_ = small_operator(clamp=None)
    arrays = small_scaled()
    wide = np.promote_types(self.dtype, np.float32)
    arrays = [jnp.asarray(a, wide) for a in arrays]

    def second(implementation, dtype):
      def f(arrays):
        x, *rest = arrays
        y, _ = scaled(
          implementation, (x.astype(dtype), *rest), (True, True), options
        )
        return jnp.sum(y.astype(wide) ** 3)

      def directional(arrays):
        return sum(jax.tree.map(jnp.vdot, jax.grad(f)(arrays), arrays))

      return jax.jit(jax.grad(directional))(arrays)

    actual = second(self.implementation, self.dtype)
    self.assert_gradients_close(actual, second('reference', wide))

  def loss(self, x, b):
    """Returns a number that depends on all of a small operator's result."""
    options, _, _ = small_operator()
    y = self.call(x, b, **options)
    return jnp.sum(y.astype(np.promote_types(y.dtype, np.float32)) ** 2)

  def test_jit_and_vmap_change_nothing(self):
    x, b = self.cast(*small_operator()[1:])
    gradient = jax.grad(self.loss, (0, 1))
    expected = gradient(x, b)
    for d, expected_d in zip(jax.jit(gradient)(x, b), expected, strict=True):
      assert_close(d, expected_d, self.dtype)
    stacked = jax.vmap(gradient, (0, None))(x[:, None], b)
    assert_close(stacked[0][:, 0], expected[0], self.dtype)
    assert_close(stacked[1].sum(0), expected[1], self.dtype)

  def test_remat_changes_nothing(self):
    x, b = self.cast(*small_operator()[1:])
    remat = jax.jit(jax.grad(jax.checkpoint(self.loss), (0, 1)))
    expected = jax.grad(self.loss, (0, 1))(x, b)
    for d, expected_d in zip(remat(x, b), expected, strict=True):
      assert_close(d, expected_d, self.dtype)

  def test_sharded_batch_stays_where_it_is(self):
    options, *_ = small_operator()
    x, b, *factors = self.cast(*small_scaled())
    mesh = jax.make_mesh(
      (4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
    )
    over = jax.NamedSharding(mesh, jax.P('data'))
    whole = jax.NamedSharding(mesh, jax.P())

    def step(*arrays):
      y, pull = scaled(self.implementation, arrays, (True, True), options)
      return y, *pull(y)

    with jax.set_mesh(mesh):
      compiled = (
        jax.jit(
          step,
          in_shardings=(over, whole, over, over),
          out_shardings=(over, over, whole, over, over),
        )
        .lower(x, b, *factors)
        .compile()
      )
    text = compiled.as_text()
    assert 'all-reduce' in text  # The bias gradient is a global sum.
    for collective in ('all-gather', 'all-to-all', 'collective-permute'):
      assert collective not in text
    arrays = (
      jax.device_put(x, over),
      jax.device_put(b, whole),
      *(jax.device_put(f, over) for f in factors),
    )
    for a, e in zip(compiled(*arrays), step(x, b, *factors), strict=True):
      assert_close(np.asarray(a), e, self.dtype)


def _directional(f, t):
  return lambda x: jnp.vdot(jax.grad(f)(x), t)
