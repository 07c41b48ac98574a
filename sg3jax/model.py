"""Loads trained networks for use: `sg3jax.load_model` returns a `Model`."""

import functools
import numbers
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax import files
from sg3jax.interop import model_files, packaged_models, schema
from sg3jax.nets import factory, layers
from sg3jax.nets import spec as spec_lib
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import sharding
from sg3jax.types import AnyArray, Array, Variables

_EXACT = {'precision': 'fp32'}

TRUNCATION_CENTERS = ('global', 'class')

# With a larger psi, styles are so far from those seen in training that images
# are noise, and eventually infinite.
MAX_PSI = 100

# Number of latents from which the mean style of a label is estimated, and their
# batch size. The standard error is 0.01 of the standard deviation of styles.
_AVERAGED, _AVERAGED_BATCH = 10_000, 1000


class Model:
  """A generator and discriminator with their arrays, and jitted calls.

  Each shape of the arguments is compiled once. Names of the official G also
  work: `c_dim`, `img_resolution`, `force_fp32`. Images are NHWC here.

  Attributes:
    options: The configuration of the run that trained the model; for an
      imported model, only its `model` part.
    step: The training step of the checkpoint, 0 for an imported model.
    kimg: Thousands of real images shown in training, 0 if unknown.
    precision: The precision of the generator: see `load_model`.
    generator: The linen module of the generator.
    variables: The arrays of the generator's moving average.
    discriminator: The linen module of the discriminator.
    discriminator_variables: The arrays of the discriminator; None if the model
      was imported without one.
  """

  def __init__(
    self,
    options: dict[str, Any],
    networks: dict[str, Variables],
    step: int = 0,
    precision: str = 'fp32',
    kimg: float = 0.0,
  ):
    self.options = options
    self.step = step
    self.kimg = kimg
    self.precision = precision
    self._mean_styles: dict[bytes, np.ndarray] = {}
    # The default is float32, as for the images and metrics of a run.
    self.generator = factory.make_generator(
      options['model'] | {'precision': precision}
    )
    self._exact_generator = factory.make_generator(options['model'] | _EXACT)
    self.discriminator = factory.make_discriminator(options['model'] | _EXACT)
    # Copy the arrays to the device once, not with every call.
    self.variables, self.discriminator_variables = jax.device_put(
      (networks['generator_ema'], networks.get('discriminator'))
    )

  @property
  def z_dim(self) -> int:
    """Number of features of z."""
    return self.generator.z_dim

  @property
  def label_dim(self) -> int:
    """Number of features of a label, 0 for an unconditional model."""
    return self.generator.label_dim

  c_dim = label_dim

  @property
  def class_names(self) -> tuple[str, ...] | None:
    """Names of the classes, in the order of a label's features, if known.

    Raises:
      ValueError: If the model's files do not contain one name for each class.
    """
    names = self.options.get('class_names')
    if names is None:
      return None
    schema.check_class_names(names, self.label_dim)
    return tuple(names)

  @property
  def w_dim(self) -> int:
    """Number of features of a style."""
    return self.generator.w_dim

  @property
  def resolution(self) -> int:
    """Width and height of the images in pixels."""
    return self.generator.spec.resolution

  img_resolution = resolution

  @property
  def img_channels(self) -> int:
    """Number of channels of the images: 1, 3 or 4."""
    return self.generator.spec.img_channels

  @property
  def num_ws(self) -> int:
    """Number of styles per image."""
    return self.generator.spec.num_ws

  def __call__(
    self,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    noise_mode: str = 'const',
    transform: Float[AnyArray, '*n 3 3'] | None = None,
    noise_seed: int = 0,
    truncation_towards: str = 'global',
    force_fp32: bool = False,
  ) -> Float[Array, 'n h w c']:
    """Returns images [n, h, w, c], float32, nominally in [-1, 1].

    Args:
      z: Latents [n, z_dim] from N(0, 1).
      c: Labels [n, label_dim]; may be None for an unconditional model.
      truncation_psi: Scale of each style's distance from the mean style: 1
        leaves styles unchanged, 0 replaces them by the mean.
      truncation_cutoff: Number of styles to truncate, from the first; None for
        all.
      noise_mode: See `synthesis`.
      transform: See `synthesis`.
      noise_seed: See `synthesis`.
      truncation_towards: See `mapping`.
      force_fp32: See `synthesis`.

    Raises:
      ValueError: If an argument has the wrong shape or value.
    """
    ws = self.mapping(
      z, c, truncation_psi, truncation_cutoff, truncation_towards
    )
    return self.synthesis(ws, transform, noise_mode, noise_seed, force_fp32)

  def mapping(
    self,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None = None,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    truncation_towards: str = 'global',
  ) -> Float[Array, 'n l d']:
    """Returns styles [n, num_ws, w_dim].

    Args:
      z: See `__call__`.
      c: See `__call__`.
      truncation_psi: See `__call__`.
      truncation_cutoff: See `__call__`.
      truncation_towards: 'global' for the mean style tracked in training,
        'class' for the mean style of each label, which keeps truncated images
        within their class.

    Raises:
      ValueError: If an argument has the wrong shape or value.
    """
    spec_lib.check_choice(
      'truncation_towards', truncation_towards, TRUNCATION_CENTERS
    )
    if isinstance(truncation_psi, numbers.Real):
      _check_psi(float(truncation_psi))
    if truncation_cutoff is None:
      truncation_cutoff = self.num_ws
    if not 0 <= truncation_cutoff <= self.num_ws:
      raise ValueError(
        f'truncation_cutoff must be 0..{self.num_ws}, got {truncation_cutoff}'
      )
    center = None
    if truncation_towards == 'class':
      if c is None or not self.label_dim:
        raise ValueError(
          'there are no classes to truncate towards: the network takes no '
          'labels'
        )
      center = self.mean_styles(c)
    return self._mapping(
      self.variables,
      z,
      c,
      truncation_psi=jnp.float32(truncation_psi),
      truncation_cutoff=truncation_cutoff,
      truncation_center=center,
    )

  def mean_styles(
    self, c: Float[AnyArray, 'n classes']
  ) -> Float[np.ndarray, 'n d']:
    """Returns the mean style of each label, [n, w_dim].

    The mean style of a label is estimated at its first use, then cached.
    """
    rows = [np.asarray(row, np.float32) for row in np.asarray(c)]
    for row in rows:
      if row.tobytes() not in self._mean_styles:
        self._mean_styles[row.tobytes()] = self._mean_style(row)
    return np.stack([self._mean_styles[row.tobytes()] for row in rows])

  def _mean_style(
    self, label: Float[np.ndarray, ' classes']
  ) -> Float[np.ndarray, ' d']:
    rng = np.random.RandomState(0)
    c = np.tile(label, (_AVERAGED_BATCH, 1))
    means = []
    for _ in range(_AVERAGED // _AVERAGED_BATCH):
      z = rng.randn(_AVERAGED_BATCH, self.z_dim).astype(np.float32)
      ws = self._mapping(self.variables, z, c)
      means.append(np.mean(ws[:, 0], axis=0))
    return np.mean(means, axis=0)

  def synthesis(
    self,
    ws: Float[AnyArray, 'n l d'],
    transform: Float[AnyArray, '*n 3 3'] | None = None,
    noise_mode: str = 'const',
    noise_seed: int = 0,
    force_fp32: bool = False,
  ) -> Float[Array, 'n h w c']:
    """Returns images [n, h, w, c], float32, nominally in [-1, 1].

    Args:
      ws: Styles [n, num_ws, w_dim].
      transform: Inverse of the transform to apply to the images, as homogeneous
        3x3 matrices in units of the image width: [3, 3] or [n, 3, 3].
        StyleGAN2 starts from a learned constant and accepts no transform.
      noise_mode: 'const' for the noise that StyleGAN2 stores, 'random' for new
        noise, 'none' for no noise. It has no effect on generators without noise
        inputs, such as the alias-free ones of the paper.
      noise_seed: Seed of random noise, which differs within the batch.
      force_fp32: Whether to compute in float32 regardless of the model's
        precision.

    Raises:
      ValueError: If an argument has the wrong shape or value.
    """
    layers.check_noise_mode(noise_mode)
    return self._synthesis(
      self.variables,
      ws,
      transform,
      noise_seed,
      noise_mode=noise_mode,
      # At fp32 both generators are the same: compile only one of them.
      exact=force_fp32 or self.precision == 'fp32',
    )

  def discriminate(
    self,
    images: Float[AnyArray, 'n h w c'],
    c: Float[AnyArray, 'n classes'] | None = None,
  ) -> Float[Array, 'n 1']:
    """Returns the discriminator's logits [n, 1] for images in [-1, 1].

    Raises:
      ValueError: If the model was imported without a discriminator.
    """
    if self.discriminator_variables is None:
      raise ValueError(
        'this model was imported without a discriminator: import a checkpoint '
        'that contains one'
      )
    return self._discriminate(self.discriminator_variables, images, c)

  def generate(
    self,
    seeds: Sequence[int],
    label: Float[AnyArray, ' classes'] | None = None,
    *,
    batch_size: int = 8,
    **options: Any,
  ) -> Iterator[tuple[int, Float[np.ndarray, 'h w c']]]:
    """Generates the images of a sequence of seeds, one by one.

    Args:
      seeds: Seeds of the latents: see `seed_latents`.
      label: The label of all images, for a conditional model.
      batch_size: Number of images per batch.
      **options: Further arguments of `__call__`. Random noise uses the first
        seed of each batch.

    Yields:
      Each seed and its image [h, w, c], float32, nominally in [-1, 1].

    Raises:
      ValueError: If an argument has the wrong shape or value.
    """
    for first in range(0, len(seeds), batch_size):
      batch = list(seeds[first : first + batch_size])
      # Pad the last batch, so that all batches use one program.
      missing = batch_size - len(batch) if first else 0
      z = seed_latents(batch + batch[:1] * missing, self.z_dim)
      c = None if label is None else np.tile(label, (len(z), 1))
      images = self(z, c, noise_seed=batch[0], **options)
      yield from zip(batch, np.asarray(images), strict=False)

  def __getstate__(self) -> dict[str, Any]:
    """Returns the state to copy or pickle: everything but the programs."""
    programs = ('_mapping', '_synthesis', '_discriminate')
    return {k: v for k, v in self.__dict__.items() if k not in programs}

  @functools.cached_property
  def _mapping(self):
    return jax.jit(functools.partial(self.generator.apply, method='mapping'))

  @functools.cached_property
  def _synthesis(self):
    def synthesis(variables, ws, transform, noise_seed, *, noise_mode, exact):
      generator = self._exact_generator if exact else self.generator
      return generator.apply(
        variables,
        ws,
        transform,
        noise_mode=noise_mode,
        rngs={'noise': jax.random.key(noise_seed)},
        method='synthesis',
      )

    return jax.jit(synthesis, static_argnames=('noise_mode', 'exact'))

  @functools.cached_property
  def _discriminate(self):
    return jax.jit(self.discriminator.apply)


def _check_psi(psi: float) -> None:
  if not abs(psi) <= MAX_PSI:
    raise ValueError(f'truncation_psi must be within +-{MAX_PSI}, got {psi}')


def load_model(path: str | pathlib.Path, precision: str = 'fp32') -> Model:
  """Loads the networks of a run folder, a checkpoint or an imported model.

  Parameters, styles, images and the discriminator are float32 in every
  precision. 'bf16' and 'fp16' store the generator's feature maps in the four
  highest octaves of resolution in 16 bits, as in training with that precision,
  and clamp them at 256 unless the model defines its own bound.

  Args:
    path: A run folder (its newest checkpoint is used), `RUN/checkpoints/STEP`,
      `RUN/checkpoints/best` of a run that keeps its best checkpoint, a folder
      written by `sg3jax import`, or `demo`, the model of this package.
    precision: The precision of the generator: 'fp32', 'bf16' or 'fp16'.

  Raises:
    FileNotFoundError: If there is no complete checkpoint.
    ValueError: If an imported model is damaged, `path` is an official
      checkpoint, which must be imported first, the precision is unknown, or JAX
      finds no device of the requested platform.
    OSError: If the files cannot be read.
  """
  path = _located(path)
  options, networks, step = read_networks(path)
  # This is not step * batch, because the batch may have changed between runs.
  if model_files.is_model_folder(path):
    kimg = model_files.read_kimg(path)
  else:
    kimg = checkpoint_lib.load_nimg(path, step) / 1000
  return Model(options, networks, step, precision, kimg)


def read_networks(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Variables], int]:
  """Reads the networks of a run folder, a checkpoint or an imported model.

  Args:
    path: See `load_model`, which raises the same errors.

  Returns:
    The options of the run; the available variables by name, among
    `generator_ema`, `generator` and `discriminator`; and the step, which is 0
    for an imported model.
  """
  path = _located(path)
  # Check first: a missing device would be reported as a damaged file.
  sharding.find_devices()
  if model_files.is_model_folder(path):
    return *model_files.load(path, schema.NETWORKS), 0
  return checkpoint_lib.load_networks(path)


def read_options(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads the options of a run folder, a checkpoint or an imported model.

  Args:
    path: See `load_model`, which raises the same errors.

  Returns:
    The options of the run; for an imported model, only their `model` part.
  """
  path = _located(path)
  if model_files.is_model_folder(path):
    return model_files.read_config(path)['options']
  return checkpoint_lib.load_options(path)


def _located(path: str | pathlib.Path) -> pathlib.Path:
  """Returns the local path to read networks from.

  Raises:
    ValueError: If it is an address or a file.
  """
  path = packaged_models.locate(files.local_path(path))
  if path.is_file():
    raise ValueError(
      f'{path} is a file: convert an official checkpoint once, with '
      f'`sg3jax import {path} --output=FOLDER`, and open the folder'
    )
  return path


def seed_latents(seeds: Sequence[int], z_dim: int) -> Float[np.ndarray, 'n z']:
  """Returns the latents of seeds, identical to those of the official tools.

  Args:
    seeds: Seeds in 0..2^32 - 1.
    z_dim: Number of features of z.

  Returns:
    [n, z_dim], float32.
  """
  rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
  return np.stack(rows).astype(np.float32)
