"""Every operator with small operands, for tests of what all of them share."""

import functools

import numpy as np

from sg3jax.ops.bias_act import bias_act
from sg3jax.ops.conv import conv2d
from sg3jax.ops.filtered_lrelu import filtered_lrelu
from sg3jax.ops.modulated_conv import modulated_conv
from sg3jax.ops.resample_conv import resample_conv
from sg3jax.ops.upfirdn import upfirdn

F = np.hanning(14)[1:-1] / np.hanning(14).sum()
EDGES = ((9, 8), (9, 8))


def operands(batch):
  """Returns x [n, h, w, c], a kernel, biases [c] and styles [n, c]."""
  shapes = [(batch, 9, 9, 4), (3, 3, 4, 6), (4,), (batch, 4)]
  return tuple(
    np.random.RandomState(i).randn(*shape).astype(np.float32)
    for i, shape in enumerate(shapes)
  )


def nonlinearity(implementation, down_filter=F):
  """Returns (x, b, s) -> filtered_lrelu with all of its options."""

  def call(x, b, s):
    return filtered_lrelu(
      x,
      F,
      down_filter,
      b,
      up=2,
      down=2,
      padding=10,
      clamp=3.0,
      input_scale=s,
      output_scale=s,
      implementation=implementation,
    )

  return call


def operators(batch, down_filter=F):
  """Returns functions and their arguments by name; the first is x."""
  x, w, b, s = operands(batch)
  return {
    'bias_act': (
      functools.partial(bias_act, activation='lrelu', clamp=1.0),
      (x, b),
    ),
    'conv2d': (functools.partial(conv2d, padding=1), (x, w)),
    'conv2d, strided': (functools.partial(conv2d, stride=2), (x, w)),
    'resample_conv, up': (lambda x, w: resample_conv(x, w, F, up=2), (x, w)),
    'modulated_conv': (
      functools.partial(modulated_conv, padding=2, input_gain=2.0),
      (x, w, s),
    ),
    'upfirdn': (
      lambda x: upfirdn(x, F, up=2, down=3, padding=EDGES),
      (x,),
    ),
    'upfirdn, 2-D': (
      lambda x: upfirdn(x, np.outer(F, F), padding=EDGES, gain=4),
      (x,),
    ),
    **{
      f'filtered_lrelu, {name}': (nonlinearity(name, down_filter), (x, b, s))
      for name in (None, 'banded', 'reference', 'pallas')
    },
  }
