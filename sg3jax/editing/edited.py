"""A model whose styles are moved along directions."""

from typing import Any

from jaxtyping import Float

from sg3jax import model as model_lib
from sg3jax.editing import directions as directions_lib
from sg3jax.types import Array


class EditedModel(model_lib.Model):
  """A model that moves all styles along directions, after truncation.

  Everything that makes styles with `mapping`, including the call of the model
  and `generate`, makes edited ones. Arrays and programs are shared with the
  original model, which stays as it is.

  Attributes:
    edits: Directions with strengths; see `directions.apply`.
  """

  def __init__(self, model: model_lib.Model, edits: directions_lib.Edits):
    """Shares the arrays of a model.

    Args:
      model: The model.
      edits: See the attribute.
    """
    self.__dict__.update(model.__dict__)
    self.edits = tuple(edits)

  def mapping(self, *args: Any, **kwargs: Any) -> Float[Array, 'n l d']:
    """Returns edited styles; see `Model.mapping`."""
    return directions_lib.apply(super().mapping(*args, **kwargs), self.edits)
