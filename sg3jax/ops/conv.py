"""Plain 2-D convolution with derivatives of any order, fast on all platforms.

A convolution is bilinear in its input and its kernel, and so are its two
gradients. The derivatives of each of the three maps are the other two:

  forward  (x, w) -> y     input_gradient  (g, w) -> like x
  kernel_gradient  (x, g) -> like w

The second derivatives of R1 therefore run the same three programs as training.
XLA's CPU backend has no fast path for most kernel gradients (20-60 times slower
than the forward pass), so they are written as matrix products there.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from sg3jax.ops import barrier, blocks, explicit
from sg3jax.types import AnyArray, Array, Shape


def conv2d(
  x: Float[AnyArray, 'n h w i'],
  w: Float[AnyArray, 'k k i o'],
  *,
  padding: int = 0,
  stride: int = 1,
  dilation: int = 1,
) -> Float[Array, 'n h2 w2 o']:
  """Correlates images with a kernel. Differentiable in reverse mode.

  Float32 operands are multiplied exactly, without bfloat16 or TF32 passes.

  Args:
    x: Images.
    w: Square kernel, cast to the dtype of `x`.
    padding: Zeros added on every side of the dilated input.
    stride: Distance between the outputs that are kept.
    dilation: Factor by which the input is spread out; zeros fill the gaps.

  Returns:
    [n, h2, w2, o] in the dtype of `x`, with
    h2 = ((h - 1) dilation + 2 padding - k) // stride + 1.

  Raises:
    ValueError: If padding is negative.
  """
  if padding < 0:
    raise ValueError(f'padding must be at least 0, got {padding}.')
  x = jnp.asarray(x)
  w = jnp.asarray(w, x.dtype)
  geometry = _Geometry(x.shape, w.shape, padding, stride, dilation)
  return _forward(geometry, x, w)


@dataclasses.dataclass(frozen=True)
class _Geometry:
  x_shape: Shape
  w_shape: tuple[int, ...]
  padding: int
  stride: int
  dilation: int

  def transposed(self) -> '_Geometry | None':
    """Returns the geometry of the adjoint, or None if it is not a plain one."""
    k, _, i, o = self.w_shape
    padding = k - 1 - self.padding
    if self.stride > 1 or self.dilation > 1 or padding < 0:
      return None
    n, h, w, _ = self.x_shape
    grown = 2 * self.padding - k + 1
    g_shape = (n, h + grown, w + grown, o)
    return _Geometry(g_shape, (k, k, o, i), padding, 1, 1)

  def convolve(self, x: Array, w: Array) -> Array:
    padding = (self.padding, self.padding)
    return lax.conv_general_dilated(
      x,
      w,
      window_strides=(self.stride, self.stride),
      padding=(padding, padding),
      lhs_dilation=(self.dilation, self.dilation),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision=_precision(x),
    )


_differentiable = functools.partial(jax.custom_vjp, nondiff_argnums=(0,))


@_differentiable
def _forward(geometry: _Geometry, x: Array, w: Array) -> Array:
  return lax.platform_dependent(
    x,
    w,
    cpu=functools.partial(_convolve_on_cpu, geometry),
    default=geometry.convolve,
  )


@_differentiable
def _input_gradient(geometry: _Geometry, g: Array, w: Array) -> Array:
  def native(g: Array, w: Array) -> Array:
    return _transpose(lambda x: geometry.convolve(x, w), geometry.x_shape, g)

  flipped = geometry.transposed()
  if flipped is None:
    return native(g, w)

  def as_convolution(g: Array, w: Array) -> Array:
    return _convolve_on_cpu(flipped, g, _flip(w))

  return lax.platform_dependent(g, w, cpu=as_convolution, default=native)


def _convolve_on_cpu(geometry: _Geometry, x: Array, w: Array) -> Array:
  """Computes a convolution in a form that XLA's CPU backend runs fast."""
  if geometry.stride > 1 or geometry.dilation > 1:
    return geometry.convolve(x, w)
  if geometry.w_shape[:2] == (1, 1) and not geometry.padding:
    return jnp.einsum('nhwi,io->nhwo', x, w[0, 0], precision=_precision(x))
  if not geometry.padding:
    # With full padding, XLA takes a path that is up to four times faster. The
    # results at the border, which it adds, are dropped.
    border = geometry.w_shape[0] - 1
    padded = dataclasses.replace(geometry, padding=border)
    inside = slice(border, -border)
    return padded.convolve(x, w)[:, inside, inside]
  return geometry.convolve(x, w)


@_differentiable
def _kernel_gradient(geometry: _Geometry, x: Array, g: Array) -> Array:
  channels = (explicit.spec_of(v)[-1] for v in (x, g))
  call = functools.partial(_kernel_gradient_by_platform, geometry)
  return explicit.automatic(call, None, None, *channels)(x, g)


def _kernel_gradient_by_platform(
  geometry: _Geometry, x: Array, g: Array
) -> Array:
  on_gpu = functools.partial(_kernel_gradient_on_gpu, geometry)
  return lax.platform_dependent(
    x,
    g,
    cpu=functools.partial(_kernel_gradient_on_cpu, geometry),
    cuda=on_gpu,
    rocm=on_gpu,
    default=functools.partial(derived_kernel_gradient, geometry),
  )


def _kernel_gradient_on_gpu(geometry: _Geometry, x: Array, g: Array) -> Array:
  """Computes a kernel gradient in a form that XLA passes to cuDNN as one.

  XLA makes the smaller of the two images the kernel, and recognizes a kernel
  gradient only if that is `g`. With more padding it would be `x`: a convolution
  with a kernel of 276 x 276, whose channels are the images, 16 times slower on
  an H100. The adjoint convolution has the same gradient with the two exchanged.
  """
  flipped = geometry.transposed()
  if flipped is not None and flipped.padding < geometry.padding:
    return _flip(derived_kernel_gradient(flipped, g, x))
  return derived_kernel_gradient(geometry, x, g)


def derived_kernel_gradient(geometry: _Geometry, x: Array, g: Array) -> Array:
  """Returns the kernel gradient that JAX derives from the convolution."""
  return _transpose(lambda w: geometry.convolve(x, w), geometry.w_shape, g)


def _kernel_gradient_on_cpu(geometry: _Geometry, x: Array, g: Array) -> Array:
  """Computes a kernel gradient as matrix products over the pixels of images."""
  k, _, i, _ = geometry.w_shape
  by_rows = geometry.stride == 1
  products = _kernel_gradient_by_rows if by_rows else _strided_kernel_gradient
  # The largest signal has the taps, of a row or of all rows, for each pixel.
  _, height, width, _ = g.shape
  taps = k if by_rows else k * k
  image_bytes = taps * i * height * width * x.dtype.itemsize
  return blocks.sum_images(
    functools.partial(products, geometry), image_bytes, x, g
  )


def _kernel_gradient_by_rows(geometry: _Geometry, x: Array, g: Array) -> Array:
  """Computes each kernel row's gradient as one matrix product over all pixels.

  XLA's matrix product is two to three times faster if the axis that it sums
  over, the pixels, is the minor axis of its left operand. So `x` is transposed
  once. The k taps of a row are k copies of it, each shifted along w and stacked
  into one tall operand. For each row of the kernel, `g` is shifted instead,
  along h, where a shift moves whole rows of pixels.
  """
  k, _, i, _ = geometry.w_shape
  padding, dilation = geometry.padding, geometry.dilation
  (_, height, _, _), (_, out_height, out_width, _) = x.shape, g.shape
  none, border = (0, 0, 0), (padding, padding, dilation - 1)
  zero = jnp.zeros((), x.dtype)
  # Without this, XLA recomputes both operands for every row.
  x, g = barrier.store((x, g))
  x = lax.pad(x.transpose(3, 0, 1, 2), zero, (none, none, none, border))
  taps = jnp.stack([x[..., c : c + out_width] for c in range(k)])

  def product(row: int) -> Array:
    low = row - padding
    high = (height - 1) * dilation + 1 - out_height - low
    rows = lax.pad(g, zero, (none, (low, high, 0), none, none))
    return _product(taps.reshape(k * i, -1), rows[:, ::dilation])

  rows = [product(row) for row in range(k)]
  return jnp.stack(rows).reshape(geometry.w_shape)


def _strided_kernel_gradient(geometry: _Geometry, x: Array, g: Array) -> Array:
  """Computes the gradient of a strided kernel as one matrix product.

  The product is over all pixels. `g` spread out to the rows of `x` would be
  mostly zeros, so `x` is instead transposed as above and split into its
  polyphase components once. Every tap is a plain slice of one of them.
  """
  k, _, i, _ = geometry.w_shape
  padding, stride = geometry.padding, geometry.stride
  (_, out_height, out_width, _) = g.shape
  none, border = (0, 0, 0), (padding, padding, geometry.dilation - 1)
  x, g = barrier.store((x, g))
  x = lax.pad(x, jnp.zeros((), x.dtype), (none, border, border, none))
  x = x.transpose(3, 0, 1, 2)
  phases = range(min(k, stride))
  components = barrier.store(
    [[x[:, :, p::stride, q::stride] for q in phases] for p in phases]
  )

  def tap(row: int, column: int) -> Array:
    (top, p), (left, q) = divmod(row, stride), divmod(column, stride)
    bottom, right = top + out_height, left + out_width
    return components[p][q][:, :, top:bottom, left:right]

  taps = jnp.stack(
    [tap(row, column) for row in range(k) for column in range(k)]
  )
  return _product(taps.reshape(k * k * i, -1), g).reshape(geometry.w_shape)


def _product(left: Array, g: Array) -> Array:
  """Multiplies a matrix by the pixels [n, h, w, o] of an image."""
  right = g.reshape(-1, g.shape[-1])
  return jnp.matmul(left, right, precision=_precision(g))


def _flip(w: Array) -> Array:
  """Returns the kernel of the adjoint convolution, [k, k, o, i].

  Args:
    w: Kernel [k, k, i, o].
  """
  return jnp.swapaxes(w[::-1, ::-1], 2, 3)


def _transpose(
  linear: Callable[[Array], Array], shape: Shape, g: Array
) -> Array:
  """Applies to g the adjoint of a linear map of arrays with a shape."""
  like = jax.ShapeDtypeStruct(shape, g.dtype)
  return jax.linear_transpose(linear, like)(g)[0]


def _precision(x: Array) -> lax.Precision | None:
  return lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def _keep(function):
  """Returns a forward rule that saves both factors of a bilinear map."""
  return lambda geometry, a, b: (function(geometry, a, b), (a, b))


_forward.defvjp(
  _keep(_forward),
  lambda geometry, factors, g: (
    _input_gradient(geometry, g, factors[1]),
    _kernel_gradient(geometry, factors[0], g),
  ),
)
_input_gradient.defvjp(
  _keep(_input_gradient),
  lambda geometry, factors, x: (
    _forward(geometry, x, factors[1]),
    _kernel_gradient(geometry, x, factors[0]),
  ),
)
_kernel_gradient.defvjp(
  _keep(_kernel_gradient),
  lambda geometry, factors, w: (
    _input_gradient(geometry, factors[1], w),
    _forward(geometry, factors[0], w),
  ),
)
