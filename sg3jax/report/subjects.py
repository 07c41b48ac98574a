"""The models of a report, and the images that they generate."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from sg3jax import launch, text
from sg3jax import model as model_lib
from sg3jax.eval import image_generator
from sg3jax.nets import stylegan2
from sg3jax.types import AnyArray, ImagesU8


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model of the report.

  Attributes:
    name: Its name in the report, unique.
    path: The path that was given.
    model: The model.
    label: The label of all its images, [label_dim]; None if it is
      unconditional.
    images: Generates its images.
  """

  name: str
  path: pathlib.Path
  model: model_lib.Model
  label: Float[np.ndarray, ' classes'] | None
  images: image_generator.ImageGenerator

  @property
  def is_stylegan2(self) -> bool:
    """Whether the generator is one of StyleGAN2's, configs A to C."""
    return isinstance(self.model.generator.spec, stylegan2.StyleGAN2Spec)

  @property
  def takes_transforms(self) -> bool:
    """Whether a transform of the input can move images."""
    return self.model.generator.spec.takes_transforms

  def styles(
    self, z: Float[AnyArray, 'n z'], psi: float | int = 1
  ) -> Float[np.ndarray, 'n l d']:
    """Returns the styles of latents, with the label of the report."""
    c = None if self.label is None else np.tile(self.label, (len(z), 1))
    return np.asarray(self.model.mapping(z, c, truncation_psi=psi))

  def seeds(
    self, seeds: Sequence[int], psi: float | int = 1
  ) -> Float[np.ndarray, 'n l d']:
    """Returns the styles of seeds, as `sg3jax generate` has them."""
    return self.styles(model_lib.seed_latents(seeds, self.model.z_dim), psi)

  def mean_style(self) -> Float[np.ndarray, ' d']:
    """Returns the mean style, of the label if there is one."""
    if self.label is not None:
      return self.model.mean_styles(self.label[None])[0]
    averages = self.model.variables['moving_averages']
    return np.asarray(averages['w_avg'])

  def render(
    self,
    ws: Float[AnyArray, 'n l d'],
    transforms: Float[AnyArray, '*n 3 3'] | None = None,
  ) -> Float[np.ndarray, 'n h w c']:
    """Returns the images of styles, nominally in [-1, 1], not clipped.

    Args:
      ws: Styles of any number of images.
      transforms: Inverse transforms of the input, or one for all images.

    Raises:
      FloatingPointError: If an image has values that are not finite.
    """
    n, size = len(ws), self.images.batch_size
    if transforms is not None:
      transforms = np.broadcast_to(transforms, (n, 3, 3)).astype(np.float32)
    batches = []
    for start in range(0, n, size):
      # Pad the last batch, so that one program serves all batches.
      rows = np.minimum(np.arange(start, start + size), n - 1)
      moved = None if transforms is None else transforms[rows]
      images = self.images.synthesize_batch(
        self.model.variables, ws[rows], moved
      )
      batches.append(np.asarray(images))
    found = np.concatenate(batches)[:n]
    if not np.isfinite(found).all():
      raise FloatingPointError(
        f'the images of {self.name} must be finite, got values that are not: '
        'its training has diverged, so use an earlier checkpoint'
      )
    return found

  def batches(self, first_seed: int, count: int) -> Iterator[ImagesU8]:
    """Yields the images of successive seeds in batches, uint8."""
    size = self.images.batch_size
    for start in range(0, count, size):
      seeds = range(first_seed + start, first_seed + min(start + size, count))
      yield self.images.synthesize(self.model.variables, self.seeds(seeds))


def make_subjects(
  paths: Sequence[str | pathlib.Path],
  models: Sequence[model_lib.Model],
  labels: Sequence[Float[np.ndarray, ' classes'] | None],
  *,
  mesh: Mesh,
  batch_size: int | None = None,
  memory: int | None = None,
  log: Callable[[str], None] = lambda line: None,
) -> list[Subject]:
  """Returns the models of a report with their names.

  Args:
    paths: The path of each model, which names it.
    models: The models.
    labels: The label of each model's images.
    mesh: The devices.
    batch_size: See `ImageGenerator`.
    memory: See `ImageGenerator`.
    log: See `ImageGenerator`.

  Raises:
    ValueError: If there is no model, their images differ in size or channels,
      or a path is given twice.
  """
  if not models:
    raise ValueError('a report needs at least one model, got none')
  shapes = [model.generator.spec.image_shape for model in models]
  for path, shape in zip(paths, shapes, strict=True):
    if shape != shapes[0]:
      raise ValueError(
        'the models of a report must generate images of one size and number of '
        f'channels, got {_describe(shapes[0])} ({paths[0]}) and '
        f'{_describe(shape)} ({path}): write one report for each'
      )
  return [
    Subject(
      name,
      pathlib.Path(path),
      model,
      label,
      image_generator.ImageGenerator(
        model.generator, mesh, batch_size=batch_size, memory=memory, log=log
      ),
    )
    for name, path, model, label in zip(
      make_names(paths), paths, models, labels, strict=True
    )
  ]


def make_names(paths: Sequence[str | pathlib.Path]) -> list[str]:
  """Returns a short unique name for each path of a model.

  The name is that of the run folder, with as many folders before it as tell the
  models apart. A checkpoint adds its step.

  Raises:
    ValueError: If a path is given twice.
  """
  parts = []
  for path in paths:
    absolute = pathlib.Path(path).absolute()
    run = launch.run_folder(absolute)
    step = (absolute.name,) if run != absolute else ()
    parts.append((run.parts, step))
  if len(set(parts)) < len(parts):
    raise ValueError(
      'the models of a report must be different, got '
      f'{", ".join(map(str, paths))}: remove the duplicate'
    )
  names: list[str] = []
  for length in range(1, max(len(run) for run, _ in parts) + 1):
    names = ['/'.join((*run[-length:], *step)) for run, step in parts]
    if len(set(names)) == len(names):
      break
  return names


def _describe(shape: tuple[int, int, int]) -> str:
  channels = text.counted(shape[2], 'channel')
  return f'{shape[1]}x{shape[0]} pixels with {channels}'
