"""Renders what a viewer shows, as arrays and without any web server."""

import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from sg3jax import model as model_lib
from sg3jax.data import report
from sg3jax.render import activations, pictures
from sg3jax.view import checks, subject, views

# Pixels per side of the small images in the grid of seeds, and how many are
# kept.
TILE = 64
_MAX_TILES = 1000

# Side of the pictures of features at most; larger ones are averaged down.
_MAX_FEATURES = 512

# Styles of projected photographs by their number.
Photos = Mapping[int, Float[np.ndarray, '1 l d']]


@dataclasses.dataclass(frozen=True)
class Pane:
  """One picture of a frame.

  Attributes:
    kind: 'image', 'undone', 'error', 'features' or 'spectrum'.
    subject: Index of the model.
    title: What it shows.
    pixels: The picture, RGB.
  """

  kind: str
  subject: int
  title: str
  pixels: UInt8[np.ndarray, 'h w 3']


@dataclasses.dataclass(frozen=True)
class Frame:
  """What is shown of a view.

  Attributes:
    panes: The pictures.
    notes: Sentences about what is not as the view asks.
  """

  panes: tuple[Pane, ...]
  notes: tuple[str, ...] = ()


class Engine:
  """Renders views of one or two models.

  It is used by one thread at a time, except for `warm`, which may run beside
  others.

  Attributes:
    subjects: The models.
  """

  def __init__(self, subjects: Sequence[subject.Subject]):
    self.subjects = tuple(subjects)
    self._tiles: dict[Any, UInt8[np.ndarray, 'h w 3']] = {}
    self._rest_is_ready = threading.Event()

  def warm(self) -> None:
    """Compiles the programs of images that move, and of images at rest."""
    rest, moved = views.View(), views.View(x=0.1, rotate=10.0)
    for view in (moved, rest):
      for one in self.subjects:
        one.image(one.styles(view), view, one.transform(view))
    self._rest_is_ready.set()

  def describe(self) -> list[dict[str, Any]]:
    """Returns what a page needs to know of each model, for JSON."""
    return [
      {
        'name': one.name,
        'kimg': one.model.kimg,
        'resolution': one.model.resolution,
        'channels': one.model.img_channels,
        'styles': one.model.num_ws,
        'classes': _class_names(one.model),
        'layers': one.layers,
        'moves': one.moves,
        'noise': one.has_noise,
        'directions': list(one.directions),
      }
      for one in self.subjects
    ]

  def check(self, view: views.View) -> None:
    """Checks that a view suits the models.

    Raises:
      ValueError: If it does not.
    """
    for one in self.subjects:
      one.check(view)
    if view.layer and not any(view.layer in x.layers for x in self.subjects):
      raise ValueError(
        f'layer must be a layer of the model, got {view.layer!r}: only '
        'alias-free generators show their features'
      )
    for name, _ in view.edits:
      if not any(name in one.directions for one in self.subjects):
        raise ValueError(
          f'strengths must be those of known directions, got {name!r}'
        )

  def render(
    self,
    view: views.View,
    photos: Photos | None = None,
    *,
    moving: bool = False,
    extras: bool = True,
  ) -> Frame:
    """Returns what a view shows.

    Args:
      view: The view.
      photos: Styles of photographs in the first model.
      moving: Whether the view is about to change again. Then only programs run
        that any other position also needs, so that nothing is compiled when a
        drag begins; the image may differ from the one at rest by rounding.
      extras: Whether to show more than the images: errors and features.

    Raises:
      ValueError: If the view does not suit the models.
    """
    self.check(view)
    panes: list[Pane] = []
    notes: list[str] = []
    always = moving or not self._rest_is_ready.is_set()
    for i, one in enumerate(self.subjects):
      ws = one.edited(one.styles(view, self.photo(i, view, photos)), view)
      image = one.image(ws, view, one.transform(view, always=always))
      panes.append(Pane('image', i, 'Image', pictures.to_rgb(image[0])))
      notes.extend(self._notes(i, view))
      if extras and view.check and one.moves:
        panes.extend(_check_panes(i, one, ws, view, moving))
      if extras and view.layer in one.layers:
        panes.extend(_feature_panes(i, one.features(ws, view), view))
    return Frame(tuple(panes), tuple(notes))

  def tile(
    self, view: views.View, column: int, row: int
  ) -> UInt8[np.ndarray, 'h w 3']:
    """Returns the small image of a seed, for the map of the grid.

    It shows the first model, untransformed, with the truncation, class and
    directions of the view. Images that were shown before are kept.
    """
    view = views.View(
      column=float(column),
      row=float(row),
      psi=view.psi,
      towards=view.towards,
      label=view.label,
      strengths=view.edits,
    )
    if view not in self._tiles:
      one = self.subjects[0]
      ws = one.edited(one.styles(view), view)
      pixels = pictures.to_rgb(
        one.image(ws, view, one.transform(view, always=True))[0]
      )
      while len(self._tiles) >= _MAX_TILES:
        del self._tiles[next(iter(self._tiles))]
      self._tiles[view] = at_most(pixels, TILE)
    return self._tiles[view]

  @staticmethod
  def photo(i: int, view: views.View, photos: Photos | None):
    """Returns the styles of the photograph of a view for a model, or None.

    Raises:
      ValueError: If there is no such photograph.
    """
    if not view.photo or i:
      return None
    if photos is None or view.photo not in photos:
      raise ValueError(
        f'photo must be the number of a projected photograph, got {view.photo}'
      )
    return photos[view.photo]

  def _notes(self, i: int, view: views.View) -> list[str]:
    """Returns sentences about what a model does not do of a view."""
    one, notes = self.subjects[i], []
    name = one.name
    if not one.moves and view.pose != views.View().pose:
      notes.append(
        f'{name} starts from a learned constant (StyleGAN2), which nothing '
        'moves.'
      )
    if not one.moves and view.check:
      notes.append(f'{name} has no error to show, because it cannot be moved.')
    if view.layer and view.layer not in one.layers:
      notes.append(f'{name} has no layer {view.layer}.')
    if view.photo and i:
      notes.append('The photograph was projected into the first model only.')
    missing = [n for n, _ in view.edits if n not in one.directions]
    if missing:
      notes.append(f'{name} has no direction {", ".join(missing)}.')
    return notes


def at_most(
  pixels: UInt8[np.ndarray, 'h w 3'], side: int
) -> UInt8[np.ndarray, 'h2 w2 3']:
  """Returns a picture whose longer side has at most `side` pixels."""
  image = Image.fromarray(pixels)
  image.thumbnail((side, side), Image.Resampling.BOX)
  return np.asarray(image)


def _class_names(model: model_lib.Model) -> list[str]:
  names = model.class_names
  if names is None:
    return [str(i) for i in range(model.label_dim)]
  return [report.printable(name) for name in names]


def _check_panes(
  i: int,
  one: subject.Subject,
  ws: Float[np.ndarray, '1 l d'],
  view: views.View,
  moving: bool,
) -> list[Pane]:
  pose = checks.pose_of(view)
  at_rest = dataclasses.replace(view, x=0.0, y=0.0, rotate=0.0, zoom=1.0)
  moved = dataclasses.replace(at_rest, x=pose.x, y=pose.y, rotate=pose.rotate)
  original, image = (
    one.image(ws, v, one.transform(v, always=True)) for v in (at_rest, moved)
  )
  found = checks.check(view, original, image, has_ceiling=not moving)
  what = f'Input moved by the {view.check}, undone in the image'
  error = 'Difference: nothing is in view'
  if not math.isnan(found.psnr):
    error = f'Difference: {_decibels(found.psnr)} dB'
    if found.ceiling is not None:
      error += f'; an ideal generator has {_decibels(found.ceiling)} dB'
  return [
    Pane('undone', i, what, pictures.to_rgb(found.undone)),
    Pane('error', i, error, checks.error_picture(found.error_db)),
  ]


def _decibels(value: float) -> str:
  # Float32 images that do not differ by more than rounding have about 140 dB.
  return '∞' if math.isinf(value) else f'{value:.1f}'


def _feature_panes(
  i: int, features: Float[np.ndarray, 'h w c'], view: views.View
) -> list[Pane]:
  first = min(view.channel, features.shape[-1] - 1)
  x = features[..., first : first + 3]
  last = first + x.shape[-1] - 1
  spectrum = activations.spectrum_picture(activations.spectrum_db(x))
  channels = f'channel {first}'
  if last > first:
    channels = f'channels {first} to {last}'
  return [
    Pane('features', i, f'{view.layer}, {channels}', _triplet(x)),
    Pane(
      'spectrum',
      i,
      f'Power spectrum of {view.layer}, {channels}',
      at_most(spectrum, _MAX_FEATURES),
    ),
  ]


def _triplet(
  x: Float[np.ndarray, 'h w c'],
) -> UInt8[np.ndarray, 'h2 w2 3']:
  """Shows one to three channels as the colours of a picture.

  Each channel covers four standard deviations around its mean; a missing one is
  mid-grey.
  """
  scaled = (x - x.mean((0, 1))) / np.maximum(2 * x.std((0, 1)), 1e-12)
  full = np.zeros((*x.shape[:2], 3), np.float32)
  full[..., : x.shape[-1]] = np.clip(scaled, -1, 1)
  return at_most(pictures.to_rgb(full), _MAX_FEATURES)
