"""Perceptual path lengths under the names of the official tools.

`ppl2_wend` is the one of StyleGAN2 and 3. The four with a crop are those of
StyleGAN. All compare images by LPIPS in VGG-16.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sg3jax.eval import intervals, path_length
from sg3jax.eval.metrics import base
from sg3jax.nets.features import lpips
from sg3jax.types import Array, Variables

_NETWORK = 'vgg16'  # Its weights include those of LPIPS.
_PROTOCOLS = {
  'ppl2_wend': path_length.Protocol('w', 'end', crop=False),
  'ppl_zfull': path_length.Protocol('z', 'full', crop=True),
  'ppl_wfull': path_length.Protocol('w', 'full', crop=True),
  'ppl_zend': path_length.Protocol('z', 'end', crop=True),
  'ppl_wend': path_length.Protocol('w', 'end', crop=True),
}


def _measure(name: str, context: base.Context) -> base.Measurement:
  distances = path_length.measure(
    context.images,
    context.variables,
    _pairs(context),
    context.kept(_make_distance),
    _PROTOCOLS[name],
  )
  half_width = intervals.by_bootstrap(
    distances, path_length.value, seed=context.seed
  )
  return base.Measurement(
    {name: path_length.value(distances)},
    len(distances),
    {name: half_width},
    {'ci95_method': 'bootstrap over pairs', 'network': {'name': _NETWORK}},
  )


def _make_distance(context: base.Context) -> path_length.Distance:
  weights = jax.device_put(
    context.weights(_NETWORK), NamedSharding(context.mesh, P())
  )
  return path_length.Distance(_lpips, weights)


def _lpips(variables: Variables, a: Array, b: Array) -> Array:
  return lpips.distance(variables, a, b, net='vgg')


def _pairs(
  context: base.Context,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]:
  """Yields random pairs; those of an index depend only on the seed."""
  dim = context.images.generator.z_dim
  size, count = context.images.batch_size, context.num_samples
  rng = np.random.RandomState((context.seed, 3))
  t = np.random.RandomState((context.seed, 4)).random_sample(count)
  c = None
  if context.labels is not None:
    rows = np.random.RandomState((context.seed, 5)).randint(
      len(context.labels), size=count
    )
    c = context.labels[rows]
  for i in range(0, count, size):
    part = slice(i, min(i + size, count))
    z = rng.randn(part.stop - i, 2, dim).astype(np.float32)
    yield z[:, 0], z[:, 1], t[part], None if c is None else c[part]


for _name in _PROTOCOLS:
  base.register(
    _name,
    title='PPL' if _name == 'ppl2_wend' else f'PPL ({_name[4:]}, centre)',
    unit='squared LPIPS / step²',
    higher_is_better=False,
    needs=(base.GENERATOR,),
    networks=(_NETWORK,),
    panel='Perceptual path length',
    min_images=2,
  )(functools.partial(_measure, _name))
