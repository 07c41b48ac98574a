"""Generated images as training draws them: mixed styles, fresh noise."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import generator as generator_lib
from sg3jax.train import sharding
from sg3jax.types import AnyArray, Array, Tree

_AVERAGES = 'moving_averages'

# G's moving averages after a batch, if they learn from it: a collection of its
# variables, under its name.
Averages = dict[str, Tree]


def split_key(key: jax.Array | None, count: int = 2) -> Any:
  """Returns keys, or as many `None` for no randomness."""
  return (None,) * count if key is None else jax.random.split(key, count)


@dataclasses.dataclass(frozen=True)
class Fakes:
  """Draws with a generator; every number comes from arguments.

  The methods' common arguments: `variables` of G; latents `z` and labels `c`,
  None for an unconditional generator; a `key` of mixing and noise, None for
  neither mixing nor new noise; and `update_averages`, whether G's moving
  averages learn.

  Attributes:
    generator: G.
    mixing_prob: Probability that a batch mixes styles.
  """

  generator: generator_lib.Generator
  mixing_prob: float = 0.0

  def draw(
    self,
    variables: Tree,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None,
    key: jax.Array | None,
    *,
    update_averages: bool = False,
  ) -> tuple[Float[Array, 'n h w c'], Averages]:
    """Returns images and averages."""
    mix_key, noise_key = split_key(key)
    options = {'update_averages': update_averages}
    ws, averages = self.draw_styles(variables, z, c, mix_key, **options)
    return self.synthesize(variables | averages, ws, noise_key, **options)

  def draw_styles(
    self,
    variables: Tree,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None,
    key: jax.Array | None,
    *,
    update_averages: bool = False,
  ) -> tuple[Float[Array, 'n l d'], Averages]:
    """Returns styles, mixed with those of other latents, and averages.

    Style mixing (math.md 2.3): the whole batch takes its styles from one layer
    on from other latents, so that no layer comes to rely on the style of the
    one before. `w_avg` learns from the styles of `z` alone.
    """
    ws, averages = self._apply(
      variables, z, c, update_averages=update_averages, method='mapping'
    )
    if key is not None and self.mixing_prob > 0:
      z_key, mix_key = jax.random.split(key)
      other_z = sharding.constrain_batch(jax.random.normal(z_key, z.shape))
      others, _ = self._apply(variables, other_z, c, method='mapping')
      num_ws = ws.shape[1]
      mix, place = jax.random.uniform(mix_key, (2,))
      cutoff = 1 + jnp.floor(place * (num_ws - 1))  # 1 to num_ws - 1.
      is_other = (mix < self.mixing_prob) & (jnp.arange(num_ws) >= cutoff)
      ws = jnp.where(is_other[:, None], others, ws)
    return ws, averages

  def synthesize(
    self,
    variables: Tree,
    ws: Float[AnyArray, 'n l d'],
    key: jax.Array | None,
    *,
    update_averages: bool = False,
  ) -> tuple[Float[Array, 'n h w c'], Averages]:
    """Returns images of styles and averages."""
    noise = {}
    if key is not None:
      noise = {'noise_mode': 'random', 'rngs': {'noise': key}}
    return self._apply(
      variables,
      ws,
      **noise,
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
