"""Edits of styles along directions, and the files of styles."""

from sg3jax.editing.directions import Direction as Direction
from sg3jax.editing.directions import apply as apply
from sg3jax.editing.edited import EditedModel as EditedModel
