"""Measures how a discriminator reacts to subpixel shifts (`d_shift`).

A discriminator that judges what an image shows gives the same logit wherever
its pixels happen to fall. One that aliases judges the pixel grid too, and tells
the generator to place details on it. Two values are measured on generated
images:

- `d_shift`: the standard deviation of the logit over shifts of an image,
  relative to that over images. It is 0 for an invariant discriminator.
- `d_shift_gradient`: the signal-to-noise ratio in dB of the gradient with
  respect to the image, which should move with the image.

Images are extended by reflection, and shifted with the low-pass filter of
`eval.band_limited`. The unshifted image is filtered too, so that its sharpness
is no difference. The images of a group of the minibatch standard deviation have
the same shift, and are the same whatever the batch and the devices are.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from sg3jax import text
from sg3jax.eval import band_limited, resampling
from sg3jax.eval import transforms as transforms_lib
from sg3jax.eval.metrics import base
from sg3jax.types import Array, Images

_SAMPLES = 256  # Maximum number of images.
_SHIFTS = 8  # Shifts of each group of images, besides none.
_MAX_SHIFT = 0.5  # Pixels.
_NORMAL_95 = 1.96  # Standard errors in half a 95 % interval.


@base.register(
  'd_shift',
  title='Logits over shifts',
  unit='standard deviation relative to that over images',
  higher_is_better=False,
  needs=(base.DISCRIMINATOR,),
  panel='Shift sensitivity of D',
  labels={
    'd_shift': 'logits over shifts',
    'd_shift_gradient': 'gradient (dB)',
  },
  by_default=False,
)
def measure(context: base.Context) -> base.Measurement:
  """Measures the discriminator of a snapshot.

  Raises:
    ValueError: If there is none.
  """
  if context.discriminator is None:
    raise ValueError('the metric d_shift needs a discriminator: none was given')
  network, variables = context.discriminator
  group = network.mbstd_group
  # Whole groups, and two of them for there to be a spread.
  groups = max(2, math.ceil(min(context.num_samples, _SAMPLES) / group))
  count = groups * group
  images = context.fakes(count)
  labels = context.fake_labels(count)
  evaluate = context.kept(_make_program)
  key = jax.random.key(context.seed)
  logits, squares, signals = [], [], []
  for i in range(groups):
    rows = slice(i * group, (i + 1) * group)
    found = jax.device_get(
      evaluate(
        variables,
        images[rows],
        None if labels is None else labels[rows],
        jax.random.fold_in(key, i),
      )
    )
    logits.append(found[0])
    squares.append(found[1])
    signals.append(found[2])
  ratio, width = _ratio(np.stack(logits))
  pair = np.array(squares), np.array(signals)
  return base.Measurement(
    {
      'd_shift': ratio,
      'd_shift_gradient': transforms_lib.psnr(*pair) - 20 * math.log10(2),
    },
    count,
    {
      'd_shift': width,
      'd_shift_gradient': transforms_lib.psnr_ci95(*pair, 1),
    },
    beside=('d_shift', 'd_shift_gradient'),
  )


def _ratio(logits: Float[np.ndarray, 'g s n']) -> tuple[float, float]:
  """Returns the relative deviation over shifts, and half its 95 % interval.

  The interval is that of the jackknife over groups, which are independent.

  Args:
    logits: By group, shift and image of the group.
  """

  def ratio(x: np.ndarray) -> float:
    within = x.var(axis=1, ddof=1).mean()
    between = x.mean(axis=1).var(ddof=1)
    return float(np.sqrt(within / between)) if between else math.inf

  x = np.asarray(logits, np.float64)
  n = len(x)
  without = np.array([ratio(np.delete(x, i, axis=0)) for i in range(n)])
  variance = (n - 1) / n * np.square(without - without.mean()).sum()
  return ratio(x), float(_NORMAL_95 * np.sqrt(variance))


def _make_program(context: base.Context) -> Any:
  assert context.discriminator is not None
  network = context.discriminator[0]
  # All devices compute the same: there are few images.
  whole = NamedSharding(context.mesh, PartitionSpec())
  program = jax.jit(
    functools.partial(_compare_group, network), out_shardings=whole
  )
  return text.announce_first_call(
    program, context.images.log, 'the discriminator and its gradient'
  )


def _compare_group(
  network: Any, variables: Any, images: Array, labels: Array | None, key: Array
) -> tuple[Float[Array, 's n'], Float[Array, ''], Float[Array, '']]:
  """Returns logits, and squared errors and squares of the gradients."""
  images = images.astype(jnp.float32) / 127.5 - 1
  size = images.shape[1:3]
  offsets = jax.random.uniform(
    key, (_SHIFTS, 2), minval=-_MAX_SHIFT, maxval=_MAX_SHIFT
  )
  offsets = jnp.concatenate([jnp.zeros((1, 2)), offsets])

  def judge(x: Array) -> tuple[Array, Array]:
    logits = network.apply(variables, x, labels)[:, 0]
    return logits.sum(), logits

  def react(offset: Array) -> tuple[Array, Array]:
    inverse = resampling.translation_matrix(-offset / jnp.array(size[::-1]))
    gradient, logits = jax.grad(judge, has_aux=True)(_shift(images, inverse))
    return gradient, logits

  gradients, logits = jax.lax.map(react, offsets)

  def compare(pair: tuple[Array, Array]) -> tuple[Array, Array]:
    gradient, offset = pair
    inverse = resampling.translation_matrix(-offset / jnp.array(size[::-1]))
    reach = min(band_limited.REACH, min(size) // 4)
    reference, mask = band_limited.resample(gradients[0], inverse, reach=reach)
    filtered, inside = band_limited.low_pass(gradient, reach=reach)
    mask = mask * inside
    error = jnp.square(filtered - reference) * mask
    return error.sum(), jnp.sum(jnp.square(reference) * mask)

  squares, signals = jax.lax.map(compare, (gradients[1:], offsets[1:]))
  return logits, squares.sum(), signals.sum()


def _shift(images: Images, inverse: Array) -> Float[Array, 'n h w c']:
  """Shifts images by less than a pixel; what enters is their reflection."""
  border = band_limited.REACH
  height, width = images.shape[1:3]
  edges = (border, border)
  padded = jnp.pad(images, ((0, 0), edges, edges, (0, 0)), mode='reflect')
  moved, _ = band_limited.resample(padded, inverse, rates=(height, width))
  return moved[:, border : border + height, border : border + width]
