"""Trained networks, ready to draw: what `sg3jax.load_model` returns."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.interop import model_files, schema
from sg3jax.nets import factory, layers
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import sharding
from sg3jax.types import AnyArray, Array, Variables

_EXACT = {'precision': 'fp32'}

TRUNCATION_CENTERS = ('global', 'class')

# Latents whose mean style is that of a label, in batches: 0.01 of the spread of
# single styles is the standard error.
_AVERAGED, _AVERAGED_BATCH = 10_000, 1000


class Model:
  """A generator with its arrays; calls are jitted, a program for each shape.

  Calls and sizes also have the names that the official G has: `c_dim`,
  `img_resolution`, `force_fp32`. Images are NHWC here.

  Attributes:
    options: The configuration of the run that trained it; of an imported
      model, only its `model` part.
    step: The training step of the checkpoint, 0 for an imported model.
    precision: What the generator computes in: see `load_model`.
    generator: The linen module.
    variables: Its arrays: those of the moving average of the training run.
    discriminator: The linen module.
    discriminator_variables: Its arrays; None if an imported model has none.
  """

  def __init__(
    self,
    options: dict[str, Any],
    networks: dict[str, Variables],
    step: int = 0,
    precision: str = 'fp32',
  ):
    self.options = options
    self.step = step
    self.precision = precision
    self._mean_styles: dict[bytes, np.ndarray] = {}
    # Whatever the precision of training was: float32 unless asked otherwise, as
    # the run's own pictures and figures are.
    self.generator = factory.make_generator(
      options['model'] | {'precision': precision}
    )
    self._exact_generator = factory.make_generator(options['model'] | _EXACT)
    self.discriminator = factory.make_discriminator(options['model'] | _EXACT)
    # On the device once, not with every call.
    self.variables, self.discriminator_variables = jax.device_put(
      (networks['generator_ema'], networks.get('discriminator'))
    )

  @property
  def kimg(self) -> float:
    """Thousands of real images that training had shown, 0 if unknown."""
    if not self.step:
      return 0.0
    return self.step * self.options['train']['batch'] / 1000

  @property
  def z_dim(self) -> int:
    """Features of z."""
    return self.generator.z_dim

  @property
  def label_dim(self) -> int:
    """Features of a label, 0 for an unconditional model."""
    return self.generator.label_dim

  @property
  def c_dim(self) -> int:
    """The same as `label_dim`."""
    return self.label_dim

  @property
  def w_dim(self) -> int:
    """Features of a style."""
    return self.generator.w_dim

  @property
  def resolution(self) -> int:
    """Pixels a side."""
    return self.generator.spec.resolution

  @property
  def img_resolution(self) -> int:
    """The same as `resolution`."""
    return self.resolution

  @property
  def img_channels(self) -> int:
    """Channels of the images: 1, 3 or 4."""
    return self.generator.spec.img_channels

  @property
  def num_ws(self) -> int:
    """Styles of an image."""
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
      z: Latents, N(0, 1).
      c: Labels; None, or of no features, for an unconditional model.
      truncation_psi: Distance from the mean style: 1 leaves styles alone.
      truncation_cutoff: Truncated styles, from the first; None for all.
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
      z: See `__call__`, as for `c` and the next two.
      c: Labels.
      truncation_psi: Distance from the mean style.
      truncation_cutoff: Truncated styles.
      truncation_towards: 'global' for the mean style of training, 'class' for
        that of each label, which keeps truncated images within their class.

    Raises:
      ValueError: If an argument has the wrong shape or value.
    """
    if truncation_towards not in TRUNCATION_CENTERS:
      raise ValueError(
        'truncation_towards must be one of '
        f'{", ".join(TRUNCATION_CENTERS)}, is {truncation_towards!r}'
      )
    if truncation_cutoff is None:
      truncation_cutoff = self.generator.spec.num_ws
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
      jnp.float32(truncation_psi),
      truncation_cutoff,
      center,
    )

  def mean_styles(
    self, c: Float[AnyArray, 'n classes']
  ) -> Float[np.ndarray, 'n d']:
    """Returns the mean style of each label, estimated once, [n, w_dim]."""
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
      ws = self._mapping(self.variables, z, c, jnp.float32(1), 0, None)
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
      transform: Inverse of the transform that the images shall undergo, 3x3
        homogeneous, in units of the image's width: [3, 3] or [n, 3, 3].
        StyleGAN2 starts from a learned constant and takes none.
      noise_mode: 'const' for the noise that StyleGAN2 stores, 'random' for new
        noise, 'none' for none. Generators without noise inputs, as the
        alias-free ones of the paper, draw the same with all three.
      noise_seed: Of random noise, which differs within the batch.
      force_fp32: Whether to compute in float32 throughout, whatever the
        model's precision is.

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
      # One program, not two, where both are the same.
      exact=force_fp32 or self.precision == 'fp32',
    )

  def discriminate(
    self,
    images: Float[AnyArray, 'n h w c'],
    c: Float[AnyArray, 'n classes'] | None = None,
  ) -> Float[Array, 'n 1']:
    """Returns the discriminator's logits; images in [-1, 1].

    Raises:
      ValueError: If the model was imported without a discriminator.
    """
    if self.discriminator_variables is None:
      raise ValueError('this model was imported without a discriminator')
    return self._discriminate(self.discriminator_variables, images, c)

  @functools.cached_property
  def _mapping(self):
    return jax.jit(
      lambda variables, z, c, psi, cutoff, center: self.generator.apply(
        variables,
        z,
        c,
        truncation_psi=psi,
        truncation_cutoff=cutoff,
        truncation_center=center,
        method='mapping',
      )
    )

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


def load_model(path: str | pathlib.Path, precision: str = 'fp32') -> Model:
  """Opens the networks of a run folder, of a checkpoint or of an import.

  Parameters, styles, images and the discriminator are float32 in every
  precision. 'bf16' and 'fp16' store the generator's feature maps in 16 bits as
  training in that precision does: those of the four highest octaves of
  resolution, which are bounded at 256 unless the model has a bound of its own.

  Args:
    path: A run folder (its newest checkpoint), `RUN/checkpoints/STEP`,
      `RUN/checkpoints/best` of a run that keeps its best one, or a folder that
      `sg3jax import` wrote.
    precision: What the generator computes in: 'fp32', 'bf16' or 'fp16'.

  Raises:
    FileNotFoundError: If there is no complete checkpoint.
    ValueError: If an imported model is damaged, or `path` is an official
      checkpoint, which is to be imported first, or the precision is unknown,
      or JAX finds no device of the platform that it was told to use.
    OSError: If the files cannot be read now.
  """
  sharding.find_devices()
  return Model(*read_networks(path), precision=precision)


def read_networks(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Variables], int]:
  """Reads the networks of a run folder, of a checkpoint or of an import.

  Args:
    path: As in `load_model`, which raises the same.

  Returns:
    The options of the run; variables by name: `generator_ema`, `generator` and
    `discriminator`, as far as they are there; and the step, 0 of an import.
  """
  if _is_import(path):
    return *model_files.load(path, schema.NETWORKS), 0
  return checkpoint_lib.load_networks(path)


def read_options(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads the options of a run folder, of a checkpoint or of an import.

  Args:
    path: As in `load_model`, which raises the same.

  Returns:
    The options of the run; of an import, only their `model` part.
  """
  if _is_import(path):
    return model_files.read_config(path)['options']
  return checkpoint_lib.load_options(path)


def _is_import(path: str | pathlib.Path) -> bool:
  """Tells imports from runs; raises a ValueError of official checkpoints."""
  path = pathlib.Path(path)
  if path.is_file():
    raise ValueError(
      f'{path} is a file: convert an official checkpoint once, with '
      f'`sg3jax import {path} --output=FOLDER`, and open the folder'
    )
  return model_files.is_model_folder(path)


def seed_latents(seeds: list[int], z_dim: int) -> Float[np.ndarray, 'n z']:
  """Returns the latents that seeds name, the same as in the official tools.

  Args:
    seeds: Seeds, each 0..2^32 - 1.
    z_dim: Features of z.

  Returns:
    [n, z_dim], float32.
  """
  rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
  return np.stack(rows).astype(np.float32)
