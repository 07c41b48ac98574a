"""Projects images into a generator: finds the styles that generate them.

The method is that of StyleGAN2's appendix D: Adam on the styles from their
mean, with noise on the styles that decays, a learning rate with ramps, and
regularised noise inputs. For alias-free generators, the input's rotation and
translation are parameters too (see `transforms`). A quasi-Newton method
finishes (see `refinement`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from sg3jax import model as model_lib
from sg3jax.editing import ws as ws_lib
from sg3jax.inversion import losses, noise, refinement, starts, transforms
from sg3jax.inversion.settings import Settings
from sg3jax.trees import flatten, unflatten
from sg3jax.types import AnyArray, Array, Variables

# Units of the input's rotation and shift: Adam moves parameters by at most the
# learning rate, which is chosen for styles in units of their scale.
_ANGLE, _SHIFT = 0.1, 0.02  # Radians; image widths.

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Check:
  """The state of the images of a batch at one look.

  Attributes:
    step: Number of steps taken.
    loss: Distance of each image from its target, [n].
    psnr: PSNR of each image in dB, [n].
    images: The images [n, h, w, c] in [-1, 1].
  """

  step: int
  loss: Float[np.ndarray, ' n']
  psnr: Float[np.ndarray, ' n']
  images: Float[np.ndarray, 'n h w c']


@dataclasses.dataclass(frozen=True)
class Projection:
  """Result of a projection.

  Attributes:
    styles: Styles, and what else is needed to generate the images.
    images: The images [n, h, w, c] of these styles.
    loss: Distance of each image from its target.
    psnr: PSNR of each image in dB.
    mean_loss: Distance of the mean image from each target.
    start_loss: Distance of the image at the start.
    checks: Each look at the images, for plots and clips.
  """

  styles: ws_lib.Styles
  images: Float[np.ndarray, 'n h w c']
  loss: Float[np.ndarray, ' n']
  psnr: Float[np.ndarray, ' n']
  mean_loss: Float[np.ndarray, ' n']
  start_loss: Float[np.ndarray, ' n']
  checks: tuple[Check, ...]


class Projector:
  """Projects batches of images with one compiled program per batch size.

  The result for an image does not depend on the other images of its batch,
  beyond rounding. The same arguments give the same bits.

  Attributes:
    model: The model.
    settings: Settings of the projection.
    loss: The distance to minimise.
  """

  def __init__(
    self,
    model: model_lib.Model,
    loss: losses.Loss,
    settings: Settings | None = None,
    *,
    label: Float[AnyArray, ' classes'] | None = None,
  ):
    """Checks the settings and samples the distribution of styles.

    Args:
      model: The model.
      loss: The distance to minimise.
      settings: Settings of the projection.
      label: The label whose styles to start from, for a conditional model; all
        classes by default.

    Raises:
      ValueError: If the settings do not suit the model.
    """
    self.model, self.loss = model, loss
    settings = settings or Settings()
    spec = model.generator.spec
    mode = transforms.check_mode(settings.transform, spec)
    self.settings = dataclasses.replace(settings, transform=mode)
    # The style that only moves the input is replaced by the transform.
    self._holds_first = transforms.moves_input(spec)
    self._statistics = ws_lib.statistics(model, seed=settings.seed, label=label)
    self._starts = starts.Starts(
      model, loss, settings.candidates, seed=settings.seed, label=label
    )
    self._optimizer = optax.adam(self.settings.rate_at)

  def __call__(
    self,
    targets: Float[AnyArray, 'n h w c'],
    *,
    first: int = 0,
    log: Callable[[Check], None] = lambda check: None,
    log_refining: Callable[[int], None] = lambda number: None,
  ) -> Projection:
    """Projects a batch of images.

    Args:
      targets: Images in [-1, 1] of the model's shape.
      first: Number of the first image, which its random numbers depend on.
      log: Called after each look at the images.
      log_refining: Called with the position of each image whose refinement
        begins.

    Raises:
      ValueError: If the images have another shape than those of the model.
      FloatingPointError: If the loss becomes infinite or NaN.
    """
    settings, model = self.settings, self.model
    targets = jnp.asarray(targets, jnp.float32)
    expected = model.generator.spec.image_shape
    if targets.shape[1:] != expected:
      raise ValueError(
        f'targets must have the shape [n, {", ".join(map(str, expected))}], '
        f'got {list(targets.shape)}: crop and resize them'
      )
    numbers = first + jnp.arange(len(targets))
    start, mean_loss, start_loss = self._starts(targets, self._statistics.mean)
    params = self._initial(start)
    state = (params, self._optimizer.init(params))
    checks: list[Check] = []
    best, done = None, np.zeros(len(targets), bool)
    for step in range(0, settings.steps, settings.steps_per_check):
      end = min(step + settings.steps_per_check, settings.steps)
      state = self._advance(
        model.variables, start, targets, numbers, state, step, end
      )
      check = self._look(end, start, targets, state[0])
      checks.append(check)
      log(check)
      best, done = self._keep(best, done, state[0], check)
      if done.all():
        break
    assert best is not None
    if settings.refine_steps and not done.all():
      refined = self._refine(best[0], start, targets, done, log_refining)
      check = self._look(
        settings.steps + settings.refine_steps, start, targets, refined
      )
      checks.append(check)
      log(check)
      best, _ = self._keep(best, done, refined, check)
    params, loss, psnr, images = best
    styles = self._styles(params, start)
    return Projection(
      styles, images, loss, psnr, mean_loss, start_loss, tuple(checks)
    )

  def _initial(self, start: Float[np.ndarray, 'n l d']) -> Params:
    """Returns parameters with which the image is that of the start."""
    n = len(start)
    layers = 1 if self.settings.space == 'w' else start.shape[1]
    stored = flatten(self.model.variables.get('noise', {}))
    if not self.settings.optimize_noise:
      stored = {}
    return {
      # The difference from the start, in units of the scale.
      'style': jnp.zeros((n, layers, start.shape[2]), jnp.float32),
      'angle': jnp.zeros(n, jnp.float32),
      'shift': jnp.zeros((n, 2), jnp.float32),
      'noise': {
        path: jnp.tile(jnp.asarray(x)[None], (n, 1, 1))
        for path, x in stored.items()
      },
    }

  def _place(
    self,
    params: Params,
    start: Float[AnyArray, 'n l d'],
    style_noise: Float[AnyArray, 'n _ d'] | None = None,
  ) -> tuple[Float[Array, 'n l d'], Float[Array, 'n 3 3'] | None]:
    """Returns the styles and the inverse transforms of parameters."""
    style = params['style']
    if style_noise is not None:
      style = style + style_noise
    ws = jnp.asarray(start + self._statistics.scale * style)
    if self._holds_first:
      ws = ws.at[:, 0].set(start[:, 0])
    if not self.model.generator.spec.takes_transforms:
      return ws, None
    return ws, transforms.rigid(
      _ANGLE * params['angle'], _SHIFT * params['shift']
    )

  def _generate(
    self,
    variables: Variables,
    params: Params,
    ws: Float[Array, 'n l d'],
    transform: Float[Array, 'n 3 3'] | None,
  ) -> Float[Array, 'n h w c']:
    if params['noise']:
      variables = {**variables, 'noise': unflatten(params['noise'])}
    images: Any = self.model.generator.apply(
      variables, ws, transform, method='synthesis'
    )
    return images

  @functools.cached_property
  def _advance(self):
    """Returns the jitted function that takes steps `first` to `end`."""

    def advance(variables, start, targets, numbers, state, first, end):
      def body(step, state):
        return self._step(variables, start, targets, numbers, state, step)

      return jax.lax.fori_loop(first, end, body, state)

    return jax.jit(advance)

  def _step(self, variables, start, targets, numbers, state, step):
    """Returns the parameters and the optimizer's state after one step."""
    params, optimizer_state = state
    style_noise = self._style_noise(step, numbers, params['style'].shape[1:])

    def total(params):
      ws, transform = self._place(params, start, style_noise)
      images = self._generate(variables, params, ws, transform)
      loss = self.loss(images, targets)
      penalty = noise.regularity(params['noise'])
      return jnp.sum(loss + self.settings.noise_weight * penalty)

    gradients = jax.grad(total)(params)
    moves = self._moves(step)
    for name in ('angle', 'shift'):
      # Adam does not move what never had a gradient.
      gradients[name] = jnp.where(moves, gradients[name], 0)
    updates, optimizer_state = self._optimizer.update(
      gradients, optimizer_state
    )
    params: Any = optax.apply_updates(params, updates)
    return {**params, 'noise': noise.normalize(params['noise'])}, (
      optimizer_state
    )

  def _style_noise(self, step, numbers, shape) -> Array:
    """Returns the noise on styles, in units of their scale."""
    settings = self.settings
    key = jax.random.fold_in(jax.random.key(settings.seed), step)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
    # The distance of a style from the mean is sqrt(w_dim) scales.
    size = settings.noise_at(step) * self.model.w_dim**0.5
    return size * jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(
      keys
    )

  def _moves(self, step: Array) -> Any:
    """Returns whether the input moves in a step."""
    first = {'fixed': None, 'free': 0, 'later': self.settings.steps // 3}
    begin = first[str(self.settings.transform)]
    return False if begin is None else step >= begin

  def _refine(
    self,
    params: Params,
    start: Float[np.ndarray, 'n l d'],
    targets: Float[Array, 'n h w c'],
    done: np.ndarray,
    log: Callable[[int], None],
  ) -> Params:
    """Returns the parameters after the last phase, image by image."""
    rows = []
    for i in range(len(start)):
      row = jax.tree.map(lambda x, i=i: x[i : i + 1], params)
      if not done[i]:
        log(i)
        maps = row.pop('noise')
        of_row = functools.partial(
          self._error, self.model.variables, maps, start[i], targets[i]
        )
        row = refinement.minimize(of_row, row, self.settings.refine_steps)
        row['noise'] = maps
      rows.append(row)
    return jax.tree.map(lambda *x: np.concatenate(x), *rows)

  @functools.cached_property
  def _error(self):
    """Returns the jitted error of one image, and its gradients."""
    error_of_images = losses.for_refinement(self.loss)
    is_fixed = self.settings.transform == 'fixed'

    def error(params, variables, maps, start, target):
      if is_fixed:
        params = {**params, **jax.lax.stop_gradient(
          {name: params[name] for name in ('angle', 'shift')}
        )}  # fmt: skip
      ws, transform = self._place(params, start[None])
      params = {**params, 'noise': maps}
      images = self._generate(variables, params, ws, transform)
      return jnp.sum(error_of_images(images, target[None]))

    of_params = jax.value_and_grad(error)
    return jax.jit(
      lambda variables, maps, start, target, params: of_params(
        params, variables, maps, start, target
      )
    )

  def _look(
    self,
    step: int,
    start: Float[np.ndarray, 'n l d'],
    targets: Float[Array, 'n h w c'],
    params: Params,
  ) -> Check:
    """Generates the images of parameters and measures them.

    Raises:
      FloatingPointError: If a distance is not finite.
    """
    images, loss = jax.device_get(
      self._measure(self.model.variables, start, targets, params)
    )
    if not np.all(np.isfinite(loss)):
      raise FloatingPointError(
        f'the loss must be finite, got {loss.tolist()} at step {step}: reduce '
        'the learning rate'
      )
    return Check(step, loss, losses.psnr(images, targets), images)

  @functools.cached_property
  def _measure(self):
    def measure(variables, start, targets, params):
      ws, transform = self._place(params, start)
      images = self._generate(variables, params, ws, transform)
      return images, self.loss(images, targets)

    return jax.jit(measure)

  def _keep(self, best, done, params: Params, check: Check):
    """Returns the best parameters of each image so far, and which are done."""
    new = (params, check.loss, check.psnr, check.images)
    if best is None:
      best = new
    else:
      better = ~done & (check.loss < best[1])
      best = jax.tree.map(
        lambda a, b: np.where(
          better.reshape(-1, *[1] * (np.ndim(a) - 1)), a, b
        ),
        new,
        best,
      )
    if self.settings.stop_psnr is not None:
      done = done | (best[2] >= self.settings.stop_psnr)
    return best, done

  def _styles(
    self, params: Params, start: Float[np.ndarray, 'n l d']
  ) -> ws_lib.Styles:
    """Returns the styles of parameters; absorbs transforms if possible."""
    ws, transform = self._place(params, start)
    ws = np.array(ws)
    if transform is not None:
      transform = np.asarray(transform)
      if not np.any(transform - np.eye(3)):
        transform = None
    if transform is not None and self._holds_first:
      absorbed = transforms.absorb(self.model.variables, ws[:, 0], transform)
      if absorbed is not None:
        ws[:, 0], transform = absorbed, None
    maps = {path: np.asarray(x) for path, x in params['noise'].items()}
    return ws_lib.Styles(ws, transform, maps)


def generate(
  model: model_lib.Model,
  styles: ws_lib.Styles,
  variables: Variables | None = None,
) -> Float[np.ndarray, 'n h w c']:
  """Returns the images of styles, with their transforms and noise inputs.

  Args:
    model: The model.
    styles: The styles.
    variables: Variables of the generator; by default, those of the model.
  """
  variables = dict(model.variables if variables is None else variables)
  if styles.noise:
    variables = {**variables, 'noise': unflatten(styles.noise)}
  images = jax.jit(
    functools.partial(model.generator.apply, method='synthesis')
  )(variables, styles.w, styles.transform)
  return np.asarray(images)
