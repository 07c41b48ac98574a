"""Losses of the two players, and the blur of the discriminator's input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.types import AnyArray, Array


def generator_loss(
  fake_logits: Float[AnyArray, 'n 1'],
) -> Float[Array, 'n 1']:
  """Returns the non-saturating loss -log D(fake) of each image."""
  return jax.nn.softplus(-fake_logits)


def discriminator_loss(
  real_logits: Float[AnyArray, 'n 1'], fake_logits: Float[AnyArray, 'n 1']
) -> Float[Array, 'n 1']:
  """Returns the loss -log D(real) - log(1 - D(fake)) of each image."""
  return jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)


def r1_penalty(
  discriminate, images: Float[AnyArray, 'n h w c']
) -> tuple[Float[Array, ' n'], Float[Array, 'n 1']]:
  """Returns the squared norms of the logits' gradients, and the logits.

  Args:
    discriminate: Maps images to logits. Gradients include its preprocessing of
      the images, such as blur (math.md 2.7).
    images: Real images.
  """

  def total(images):
    logits = discriminate(images)
    return jnp.sum(logits), logits

  gradients, logits = jax.grad(total, has_aux=True)(images)
  return jnp.sum(jnp.square(gradients), axis=(1, 2, 3)), logits


def path_lengths(
  synthesize: Callable[[Array], Array],
  ws: Float[AnyArray, 'n l d'],
  directions: Float[AnyArray, 'n h w c'],
) -> Float[Array, ' n']:
  """Returns how far images move along directions per unit change of styles.

  A path length is |J^T y|, for the Jacobian J of an image with respect to its
  styles and a random direction y (math.md 2.3). The norm is taken over w, and
  its root mean square over the layers. Differentiating it takes second-order
  gradients.

  Args:
    synthesize: Maps styles to images.
    ws: Styles.
    directions: Random directions; see `path_directions`.
  """
  _, pull_back = jax.vjp(synthesize, jnp.asarray(ws))
  (gradients,) = pull_back(jnp.asarray(directions))
  squares = jnp.sum(jnp.square(gradients), axis=2)
  return jnp.sqrt(jnp.mean(squares, axis=1))


def path_directions(
  key: jax.Array, shape: tuple[int, ...]
) -> Float[Array, 'n h w c']:
  """Samples directions N(0, 1) / sqrt(h w), whose norm ignores resolution."""
  _, height, width, _ = shape
  return jax.random.normal(key, shape) / (height * width) ** 0.5


def path_length_penalty(
  lengths: Float[AnyArray, ' n'], mean: Float[AnyArray, ''], decay: float
) -> tuple[Float[Array, ' n'], Float[Array, '']]:
  """Returns squared deviations from the moving average, and the new average.

  The average first takes in these lengths, and is constant for the gradient.

  Args:
    lengths: Path lengths of a batch.
    mean: The previous moving average.
    decay: Weight of this batch in the new average.
  """
  mean = jax.lax.stop_gradient(mean + decay * (jnp.mean(lengths) - mean))
  return jnp.square(jnp.asarray(lengths) - mean), jnp.asarray(mean)


def blur(
  images: Float[AnyArray, 'n h w c'],
  sigma: Float[AnyArray, ''],
  *,
  max_sigma: float,
) -> Float[Array, 'n h w c']:
  """Blurs images with the kernel 2^-(x/sigma)^2, zeros outside (math.md 2.7).

  In config R the discriminator first sees blurred images. Otherwise it would
  focus on high frequencies before the generator has learned any others.

  Args:
    images: Real or generated images.
    sigma: Scale in pixels, traced. Below 1/3 nothing is blurred.
    max_sigma: Largest possible value of sigma.
  """
  max_radius = int(3 * max_sigma)
  radius = jnp.floor(3 * sigma)

  def profile(offsets: Array) -> Array:
    scaled = offsets / jnp.maximum(sigma, 1e-8)
    return jnp.where(
      jnp.abs(offsets) <= radius, 2.0 ** -jnp.square(scaled), 0.0
    )

  def blur_axis(x: Array, axis: str) -> Array:
    size = x.shape[' hw'.index(axis)]
    offsets = jnp.arange(size)[:, None] - jnp.arange(size)
    norm = jnp.sum(profile(jnp.arange(-max_radius, max_radius + 1)))
    matrix = profile(offsets) / norm
    output = 'nhwc'.replace(axis, 'o')
    return jnp.einsum(
      f'o{axis},nhwc->{output}', matrix, x, precision=jax.lax.Precision.HIGHEST
    )

  return jax.lax.cond(
    radius > 0,
    lambda x: blur_axis(blur_axis(x, 'h'), 'w'),
    lambda x: x,
    jnp.asarray(images),
  )
