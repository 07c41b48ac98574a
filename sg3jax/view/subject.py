"""A model that is shown: its styles, images and features for a view."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax import editing
from sg3jax import model as model_lib
from sg3jax.data import labels as labels_lib
from sg3jax.editing import directions as directions_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.render import styles as styles_lib
from sg3jax.types import AnyArray
from sg3jax.view import views


class Subject:
  """A model with the programs that show it.

  Attributes:
    path: The folder that the model was loaded from.
    model: The model.
    directions: Directions along which its styles can be moved, by name.
  """

  def __init__(
    self,
    path: str | pathlib.Path,
    model: model_lib.Model,
    directions: Sequence[directions_lib.Direction] = (),
  ):
    """Keeps the directions that fit the model, and leaves out the others."""
    self.path, self.model = pathlib.Path(path), model
    self.directions = {
      direction.name: direction
      for direction in directions
      if _fits(direction, model)
    }
    self._activations = {}

  @property
  def name(self) -> str:
    """A short name: that of the folder, and of the run of a checkpoint."""
    path = self.path.absolute()
    if path.parent.name == 'checkpoints':
      return f'{path.parents[1].name}/{path.name}'
    return path.name

  @property
  def moves(self) -> bool:
    """Whether transforms move the images, which StyleGAN2's resist."""
    return self.model.generator.spec.takes_transforms

  @property
  def has_noise(self) -> bool:
    """Whether the generator has noise inputs."""
    return 'noise' in self.model.variables

  @property
  def layers(self) -> list[str]:
    """Names of the layers whose features can be shown."""
    spec = self.model.generator.spec
    if not isinstance(spec, spec_lib.SynthesisSpec):
      return []
    return ['input', *(layer.name for layer in spec.layers)]

  def check(self, view: views.View) -> None:
    """Checks that a view suits the model.

    Raises:
      ValueError: If it does not.
    """
    model = self.model
    if model.label_dim and view.label >= model.label_dim:
      raise ValueError(
        f'label must be 0 to {model.label_dim - 1}, the classes of {self.path}'
        f', got {view.label}'
      )
    if any(layer >= model.num_ws for layer in view.mix_layers):
      raise ValueError(
        f'mix_layers must be 0 to {model.num_ws - 1}, the styles of '
        f'{self.path}, got {max(view.mix_layers)}'
      )

  def edits(self, view: views.View) -> directions_lib.Edits:
    """Returns the directions of a view that the model has."""
    return [
      (self.directions[name], strength)
      for name, strength in view.edits
      if name in self.directions
    ]

  def label(self, view: views.View) -> Float[np.ndarray, ' classes'] | None:
    """Returns the label of a view, None for a model without labels."""
    dim = self.model.label_dim
    return labels_lib.one_hot(view.label, dim) if dim else None

  def towards(self, view: views.View) -> str:
    """Returns the mean to truncate towards, that of all without labels."""
    return view.towards if self.model.label_dim else 'global'

  def styles(
    self,
    view: views.View,
    photo: Float[np.ndarray, '1 l d'] | None = None,
  ) -> Float[np.ndarray, '1 l d']:
    """Returns the styles of a view, before they are moved along directions.

    Args:
      view: The view.
      photo: Styles to show in place of those of the grid.
    """
    options = {
      'truncation_psi': view.psi,
      'truncation_towards': self.towards(view),
    }
    label = self.label(view)
    if photo is not None:
      ws = photo
    elif view.seed is not None:
      ws = styles_lib.of_seeds(self.model, [view.seed], label, **options)
    else:
      z = latent(view.column, view.row, self.model.z_dim)
      c = None if label is None else label[None]
      ws = np.asarray(self.model.mapping(z, c, **options))
    if view.mix_layers:
      other = styles_lib.of_seeds(self.model, [view.mix_seed], label, **options)
      ws = styles_lib.mix(ws, other, view.mix_layers)[0]
    return ws

  def edited(
    self, ws: Float[np.ndarray, '1 l d'], view: views.View
  ) -> Float[np.ndarray, '1 l d']:
    """Returns styles moved along the directions of a view."""
    return np.asarray(editing.apply(ws, self.edits(view)))

  def transform(
    self, view: views.View, *, always: bool = False
  ) -> Float[np.ndarray, '3 3'] | None:
    """Returns the inverse transform of a view; None for an image at rest.

    Args:
      view: The view.
      always: Whether to return the identity for an image at rest. The program
        with a transform is another one, which has to be compiled.
    """
    if not self.moves or not (always or view.pose != views.View().pose):
      return None
    return view.pose.inverse()

  def image(
    self,
    ws: Float[np.ndarray, '1 l d'],
    view: views.View,
    transform: Float[AnyArray, '3 3'] | None,
  ) -> Float[np.ndarray, '1 h w c']:
    """Returns the image of styles in [-1, 1], as `sg3jax generate` makes it."""
    noise_seed = (view.seed or 0) if view.is_of_seed else 0
    return np.asarray(
      self.model.synthesis(ws, transform, view.noise, noise_seed)
    )

  def features(
    self, ws: Float[np.ndarray, '1 l d'], view: views.View
  ) -> Float[np.ndarray, 'h w c']:
    """Returns the features of the view's layer, with their margins.

    Raises:
      ValueError: If the model has no such layer.
    """
    spec_lib.check_choice('layer', view.layer, self.layers)
    if view.layer not in self._activations:

      def apply(variables, ws, transform) -> Any:
        return self.model.generator.apply(
          variables, ws, transform, method='activations', names=(view.layer,)
        )

      self._activations[view.layer] = jax.jit(apply)
    found = self._activations[view.layer](
      self.model.variables, ws, jnp.asarray(view.pose.inverse())
    )
    return np.asarray(found[view.layer][0])


def latent(column: float, row: float, z_dim: int) -> Float[np.ndarray, '1 z']:
  """Returns the latent at a position of the grid of seeds, float32.

  It is a weighted sum of the latents of the four seeds around the position. The
  sum is scaled so that its features have a variance of 1, as those of the seeds
  have: otherwise latents between seeds would be closer to zero.
  """
  left, top = int(np.floor(column)), int(np.floor(row))
  across, down = column - left, row - top
  weights = {
    (left, top): (1 - across) * (1 - down),
    (left + 1, top): across * (1 - down),
    (left, top + 1): (1 - across) * down,
    (left + 1, top + 1): across * down,
  }
  chosen = {}
  for place, weight in weights.items():
    if weight:
      chosen[views.seed_at(*place)] = weight
  values = np.array(list(chosen.values()))
  z = model_lib.seed_latents(list(chosen), z_dim)
  mixed = values @ z / np.sqrt(np.sum(values**2))
  return mixed[None].astype(np.float32)


def _fits(direction: directions_lib.Direction, model: model_lib.Model) -> bool:
  """Returns whether a direction is for styles such as those of a model."""
  try:
    ws = np.zeros((1, model.num_ws, model.w_dim), np.float32)
    editing.apply(ws, [(direction, 1.0)])
  except ValueError:
    return False
  return True
