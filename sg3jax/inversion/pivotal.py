"""Pivotal tuning: adapts a generator to projected photographs.

The styles found by projection are held as pivots while the synthesis network is
trained to generate the photographs exactly. Locality regularisation keeps other
images as they were: between the pivots and random styles, the tuned generator
has to agree with the original one.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from sg3jax import model as model_lib
from sg3jax.editing import ws as ws_lib
from sg3jax.inversion import losses
from sg3jax.trees import unflatten
from sg3jax.types import AnyArray, Array, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Settings of pivotal tuning.

  Attributes:
    steps: Number of steps.
    learning_rate: Learning rate of Adam.
    pixel_weight: Factor on the mean squared error of the pixels.
    locality_weight: Factor on the difference from the original generator.
    locality_distance: Distance from the pivots at which the generators are
      compared, in units of the distance of random styles from the mean.
    stop_psnr: PSNR in dB at which to stop once all images have it, or None.
    steps_per_check: Number of steps between two looks at the images.
    seed: Random seed of the styles at which the generators are compared.

  Raises:
    ValueError: If a value is out of range; the message names the field.
  """

  steps: int = 350
  learning_rate: float = 3e-4
  pixel_weight: float = 1.0
  locality_weight: float = 1.0
  locality_distance: float = 1.0
  stop_psnr: float | None = None
  steps_per_check: int = 25
  seed: int = 0

  def __post_init__(self):
    for name in ('steps', 'steps_per_check'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'{name} must be at least 1, got {getattr(self, name)}'
        )
    for name in ('pixel_weight', 'locality_weight', 'locality_distance'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'{name} must not be negative, got {getattr(self, name)}'
        )


@dataclasses.dataclass(frozen=True)
class Tuned:
  """A tuned generator.

  Attributes:
    variables: Variables of the generator.
    images: Images [n, h, w, c] that it generates from the pivots.
    loss: Distance of each image from its target.
    psnr: PSNR of each image in dB.
    steps: Number of steps taken.
  """

  variables: Variables
  images: Float[np.ndarray, 'n h w c']
  loss: Float[np.ndarray, ' n']
  psnr: Float[np.ndarray, ' n']
  steps: int


def tune(
  model: model_lib.Model,
  targets: Float[AnyArray, 'n h w c'],
  styles: ws_lib.Styles,
  loss: losses.Loss,
  settings: Settings | None = None,
  *,
  label: Float[AnyArray, ' classes'] | None = None,
  log: Callable[[int, Float[np.ndarray, ' n']], None] = lambda step, psnr: None,
) -> Tuned:
  """Tunes a generator so that it generates photographs from their styles.

  The weights of the synthesis network change; the mapping network, the mean
  style, the average magnitudes and noise inputs stay.

  Args:
    model: The model, which stays as it is.
    targets: The photographs, in [-1, 1].
    styles: Their styles.
    loss: The distance to minimise.
    settings: Settings of the tuning.
    label: Label of the random styles, for a conditional model.
    log: Called with the step and the PSNR of each image.

  Raises:
    ValueError: If the numbers of photographs and styles differ.
    FloatingPointError: If the loss becomes infinite or NaN.
  """
  settings = settings or Settings()
  if len(targets) != len(styles):
    raise ValueError(
      f'there must be one style for each of {len(targets)} targets, got '
      f'{len(styles)}'
    )
  tuning = _Tuning(model, jnp.asarray(targets), styles, loss, settings, label)
  params = model.variables['params']['synthesis']
  state = (params, tuning.optimizer.init(params))
  original = model.variables
  images = distances = psnr = np.zeros(0)
  end = 0
  for step in range(0, settings.steps, settings.steps_per_check):
    end = min(step + settings.steps_per_check, settings.steps)
    state = tuning.advance(original, state, step, end)
    images, distances = jax.device_get(tuning.measure(original, state[0]))
    if not np.all(np.isfinite(distances)):
      raise FloatingPointError(
        f'the loss must be finite, got {distances.tolist()} at step {end}: '
        'reduce the learning rate'
      )
    psnr = losses.psnr(images, targets)
    log(end, psnr)
    if settings.stop_psnr is not None and np.all(psnr >= settings.stop_psnr):
      break
  return Tuned(_replaced(original, state[0]), images, distances, psnr, end)


def _replaced(variables: Variables, synthesis: Variables) -> Variables:
  """Returns variables with other parameters of the synthesis network."""
  params = {**variables['params'], 'synthesis': synthesis}
  return {**variables, 'params': params}


class _Tuning:
  """The compiled functions of one tuning."""

  def __init__(self, model, targets, styles, loss, settings, label):
    self._generator = model.generator
    self._targets, self._loss, self._settings = targets, loss, settings
    self._pivots = jnp.asarray(styles.w)
    self._transform = styles.transform
    self._noise = unflatten(styles.noise) if styles.noise else None
    self._label = label
    self._scale = ws_lib.statistics(
      model, 1000, seed=settings.seed, label=label
    ).scale
    self.optimizer = optax.adam(settings.learning_rate)
    self.advance = jax.jit(self._advance)
    self.measure = jax.jit(self._measure)

  def _advance(self, original, state, first, end):
    def body(step, state):
      params, optimizer_state = state
      gradients = jax.grad(self._total)(params, original, step)
      updates, optimizer_state = self.optimizer.update(
        gradients, optimizer_state
      )
      return optax.apply_updates(params, updates), optimizer_state

    return jax.lax.fori_loop(first, end, body, state)

  def _measure(self, original, params):
    images = self._generate_pivots(_replaced(original, params))
    return images, self._loss(images, self._targets)

  def _total(self, params, original, step) -> Array:
    variables = _replaced(original, params)
    total = self._distance(self._generate_pivots(variables), self._targets)
    if not self._settings.locality_weight:
      return total
    ws = self._neighbours(original, step)
    before = jax.lax.stop_gradient(self._generate(original, ws))
    locality = self._distance(self._generate(variables, ws), before)
    return total + self._settings.locality_weight * locality

  def _distance(self, images: Array, targets: Array) -> Array:
    pixels = jnp.mean(jnp.square(images - targets), axis=(1, 2, 3))
    loss = self._loss(images, targets)
    return jnp.mean(loss + self._settings.pixel_weight * pixels)

  def _neighbours(self, original, step) -> Float[Array, 'n l d']:
    """Returns styles at a distance from the pivots, towards random styles."""
    n, num_ws, w_dim = self._pivots.shape
    key = jax.random.fold_in(jax.random.key(self._settings.seed), step)
    z_key, c_key = jax.random.split(key)
    z = jax.random.normal(z_key, (n, self._generator.z_dim), jnp.float32)
    c, label_dim = None, self._generator.label_dim
    if label_dim:
      c = jax.nn.one_hot(
        jax.random.randint(c_key, (n,), 0, label_dim), label_dim
      )
      if self._label is not None:
        c = jnp.tile(jnp.asarray(self._label, jnp.float32), (n, 1))
    ws = self._generator.apply(original, z, c, method='mapping')
    direction = ws - self._pivots
    length = jnp.sqrt(jnp.sum(jnp.square(direction), (1, 2), keepdims=True))
    # The length of all styles together is sqrt(num_ws) times that of one.
    distance = self._settings.locality_distance * self._scale
    distance = distance * (w_dim * num_ws) ** 0.5
    return self._pivots + distance * direction / jnp.maximum(length, 1e-8)

  def _generate_pivots(self, variables) -> Array:
    if self._noise:
      variables = {**variables, 'noise': self._noise}
    return self._generate(variables, self._pivots, self._transform)

  def _generate(self, variables, ws, transform=None) -> Array:
    return self._generator.apply(variables, ws, transform, method='synthesis')
