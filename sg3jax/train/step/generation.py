"""Generates the images of a training step, with mixed styles and new noise."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import generator as generator_lib
from sg3jax.train import sharding
from sg3jax.types import AnyArray, Array, Tree

_AVERAGES = 'moving_averages'

# G's moving averages after a batch that updates them: a collection of its
# variables, under its name.
Averages = dict[str, Tree]


class Samples(NamedTuple):
  """Random numbers of a batch of fakes besides its latents, one row per image.

  Attributes:
    others: Latents [n, z] of the styles to mix with; None without mixing.
    first_other: The first layer [n] with such a style; for an unmixed batch,
      the number of layers.
    noise: Noise inputs [n, h, w] that replace the stored ones; {} for none.
  """

  others: Array | None
  first_other: Array | None
  noise: Tree


def split_key(key: jax.Array | None, count: int = 2) -> Any:
  """Splits a key into `count` keys; None gives `count` times None."""
  return (None,) * count if key is None else jax.random.split(key, count)


@dataclasses.dataclass(frozen=True)
class FakeGenerator:
  """Generates fakes, with all random numbers taken from the arguments.

  The methods share these arguments: `variables` of G; latents `z`; labels `c`,
  None for an unconditional generator; `samples`, None for neither mixing nor
  new noise; and `update_averages`, whether to update G's moving averages.

  Attributes:
    generator: G.
    mixing_prob: Probability that a batch mixes styles.
  """

  generator: generator_lib.Generator
  mixing_prob: float = 0.0

  def sample(
    self, variables: Tree, n: int, key: jax.Array | None
  ) -> Samples | None:
    """Samples the random numbers for a batch of n; returns None without a key.

    With style mixing (math.md 2.3), the whole batch takes its styles from other
    latents from one layer on, so that no layer relies on the style of the
    previous one.
    """
    if key is None:
      return None
    mix_key, noise_key = jax.random.split(key)
    others = first_other = None
    if self.mixing_prob > 0:
      z_key, mix_key = jax.random.split(mix_key)
      others = jax.random.normal(z_key, (n, self.generator.z_dim))
      num_ws = self.generator.spec.num_ws
      mix, place = jax.random.uniform(mix_key, (2,))
      cutoff = 1 + jnp.floor(place * (num_ws - 1))  # 1 to num_ws - 1.
      first = jnp.where(mix < self.mixing_prob, cutoff, num_ws)
      first_other = jnp.full(n, first)
    stored, structure = jax.tree.flatten(variables.get('noise', {}))
    noise = [
      jax.random.normal(jax.random.fold_in(noise_key, i), (n, *x.shape))
      for i, x in enumerate(stored)
    ]
    noise = jax.tree.unflatten(structure, noise)
    return sharding.constrain_batch(Samples(others, first_other, noise))

  def generate(
    self,
    variables: Tree,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None,
    samples: Samples | None,
    *,
    update_averages: bool = False,
  ) -> tuple[Float[Array, 'n h w c'], Averages]:
    """Returns the images for latents, and the averages."""
    options = {'update_averages': update_averages}
    ws, averages = self.generate_styles(variables, z, c, samples, **options)
    return self.synthesize(variables | averages, ws, samples, **options)

  def generate_styles(
    self,
    variables: Tree,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None,
    samples: Samples | None,
    *,
    update_averages: bool = False,
  ) -> tuple[Float[Array, 'n l d'], Averages]:
    """Returns styles mixed with those of other latents, and the averages.

    Only the styles of `z` update `w_avg`.
    """
    ws, averages = self._apply(
      variables, z, c, update_averages=update_averages, method='mapping'
    )
    if samples is not None and samples.first_other is not None:
      others, _ = self._apply(variables, samples.others, c, method='mapping')
      is_other = jnp.arange(ws.shape[1]) >= samples.first_other[:, None]
      ws = jnp.where(is_other[:, :, None], others, ws)
    return ws, averages

  def synthesize(
    self,
    variables: Tree,
    ws: Float[AnyArray, 'n l d'],
    samples: Samples | None,
    *,
    update_averages: bool = False,
  ) -> tuple[Float[Array, 'n h w c'], Averages]:
    """Returns the images for styles, and the averages."""
    if samples is not None and samples.noise:
      variables = variables | {'noise': samples.noise}
    return self._apply(
      variables,
      ws,
      update_averages=update_averages,
      method='synthesis',
    )

  def _apply(
    self, variables: Tree, *args: Any, **kwargs: Any
  ) -> tuple[Any, Averages]:
    outputs, averages = self.generator.apply(
      variables, *args, **kwargs, mutable=_AVERAGES
    )
    return outputs, dict(averages)
