"""Vision transformers against NumPy in float64, by the published names."""

import functools

import jax
import jax.numpy as jnp
import named_weights
import numpy as np
import pytest
from PIL import Image
from scipy import special

from sg3jax.interop import feature_names, feature_rules
from sg3jax.interop.torch_pickle.records import NumpyArray
from sg3jax.nets.features import base, vit
from sg3jax.trees import unflatten

# Small networks of the three kinds: names of their files, and modules.
_SMALL = {'width': 12, 'depth': 2, 'heads': 3, 'patch': 4, 'grid': 5}
DINO = vit.VisionTransformer(**_SMALL, epsilon=1e-6, layer_scale=True)
CLIP = vit.VisionTransformer(
  **_SMALL,
  epsilon=1e-5,
  quick_gelu=True,
  patch_bias=False,
  norm_first=True,
  projection=7,
)


def dinov2_shapes(width, depth, patch, grid):
  """Returns shapes by the names of facebookresearch/dinov2."""
  shapes = {
    'cls_token': (1, 1, width),
    'pos_embed': (1, grid**2 + 1, width),
    'mask_token': (1, width),
    'patch_embed.proj.weight': (width, 3, patch, patch),
    'patch_embed.proj.bias': (width,),
    'norm.weight': (width,),
    'norm.bias': (width,),
  }
  for i in range(depth):
    block = {
      'norm1': (width,), 'attn.qkv': (3 * width, width),
      'attn.proj': (width, width), 'norm2': (width,),
      'mlp.fc1': (4 * width, width), 'mlp.fc2': (width, 4 * width),
    }  # fmt: skip
    for name, shape in block.items():
      shapes[f'blocks.{i}.{name}.weight'] = shape
      shapes[f'blocks.{i}.{name}.bias'] = shape[:1]
    shapes[f'blocks.{i}.ls1.gamma'] = (width,)
    shapes[f'blocks.{i}.ls2.gamma'] = (width,)
  return shapes


def hugging_face_dinov2(shapes):
  """Returns the same with the names, and separate arrays, of Hugging Face."""
  result = {}
  for name, shape in shapes.items():
    for old, new in (
      ('cls_token', 'embeddings.cls_token'),
      ('pos_embed', 'embeddings.position_embeddings'),
      ('mask_token', 'embeddings.mask_token'),
      ('patch_embed.proj', 'embeddings.patch_embeddings.projection'),
      ('blocks.', 'encoder.layer.'),
      ('attn.proj', 'attention.output.dense'),
      ('ls1.gamma', 'layer_scale1.lambda1'),
      ('ls2.gamma', 'layer_scale2.lambda1'),
    ):
      name = name.replace(old, new)
    if name.startswith('norm.'):
      name = name.replace('norm', 'layernorm')
    if 'attn.qkv' in name:
      for part in ('query', 'key', 'value'):
        key = name.replace('attn.qkv', f'attention.attention.{part}')
        result[key] = (shape[0] // 3, *shape[1:])
    else:
      result[name] = shape
  return result


def openai_shapes(width, depth, patch, grid, projection):
  """Returns shapes by the names of openai/CLIP, some of texts among them."""
  shapes = {
    'positional_embedding': (77, 8),
    'text_projection': (8, projection),
    'logit_scale': (),
    'token_embedding.weight': (49408, 8),
    'transformer.resblocks.0.ln_1.weight': (8,),
    'ln_final.weight': (8,),
    'visual.class_embedding': (width,),
    'visual.positional_embedding': (grid**2 + 1, width),
    'visual.proj': (width, projection),
    'visual.conv1.weight': (width, 3, patch, patch),
  }
  for name in ('ln_pre', 'ln_post'):
    shapes |= dict.fromkeys(
      [f'visual.{name}.weight', f'visual.{name}.bias'], (width,)
    )
  for i in range(depth):
    block = f'visual.transformer.resblocks.{i}'
    for name, shape in {
      'ln_1.': (width,), 'attn.in_proj_': (3 * width, width),
      'attn.out_proj.': (width, width), 'ln_2.': (width,),
      'mlp.c_fc.': (4 * width, width), 'mlp.c_proj.': (width, 4 * width),
    }.items():  # fmt: skip
      shapes[f'{block}.{name}weight'] = shape
      shapes[f'{block}.{name}bias'] = shape[:1]
  return shapes


def hugging_face_clip(shapes):
  """Returns the same with the names, and separate arrays, of Hugging Face."""
  result = {
    'text_model.embeddings.token_embedding.weight': (49408, 8),
    'text_projection.weight': (7, 8),
    'logit_scale': (),
    'vision_model.embeddings.position_ids': (1, 26),
  }
  for name, shape in shapes.items():
    if not name.startswith('visual.'):
      continue
    for old, new in (
      ('visual.transformer.resblocks', 'vision_model.encoder.layers'),
      ('visual.class_embedding', 'vision_model.embeddings.class_embedding'),
      (
        'visual.positional_embedding',
        'vision_model.embeddings.position_embedding.weight',
      ),
      ('visual.conv1', 'vision_model.embeddings.patch_embedding'),
      ('visual.ln_pre', 'vision_model.pre_layrnorm'),
      ('visual.ln_post', 'vision_model.post_layernorm'),
      ('attn.out_proj', 'self_attn.out_proj'),
      ('ln_1', 'layer_norm1'),
      ('ln_2', 'layer_norm2'),
      ('mlp.c_fc', 'mlp.fc1'),
      ('mlp.c_proj', 'mlp.fc2'),
    ):
      name = name.replace(old, new)
    if name == 'visual.proj':
      result['visual_projection.weight'] = shape[::-1]
    elif 'attn.in_proj_' in name:
      for part in 'qkv':
        key = name.replace('attn.in_proj_', f'self_attn.{part}_proj.')
        result[key] = (shape[0] // 3, *shape[1:])
    else:
      result[name] = shape
  return result


_DINO_L = dinov2_shapes(1024, 24, 14, 37)
_CLIP_L = openai_shapes(1024, 24, 14, 24, 768)


@pytest.mark.parametrize(
  ('shapes', 'network', 'count'),
  [
    # The numbers of parameters are those that the authors' pages state, less
    # the mask token, and those of the image tower with its projection.
    (_DINO_L, 'dinov2', 304_368_640 - 1024),
    (hugging_face_dinov2(_DINO_L), 'dinov2', 304_368_640 - 1024),
    (dinov2_shapes(768, 12, 14, 37), 'dinov2_b', 86_580_480 - 768),
    (_CLIP_L, 'clip', 303_507_456 + 1024 * 768),
    (hugging_face_clip(_CLIP_L), 'clip', 303_507_456 + 1024 * 768),
  ],
)
def test_published_names(shapes, network, count):
  """Arrays without memory stand for the published ones."""
  arrays = {
    name: NumpyArray(np.broadcast_to(np.float32(0), shape))
    for name, shape in shapes.items()
  }
  name, found = feature_names.match(arrays)
  assert name == network
  assert sum(array.size for array in found.values()) == count


def _tensors(shapes):
  """Returns weights for names, neither too small nor saturating anything."""
  tensors = {}
  for name, shape in shapes.items():
    v = named_weights.sample(name, shape)
    is_scale = 'norm' in name or 'ln_' in name
    if is_scale and name.endswith('weight'):
      v = np.exp(0.2 * v)
    elif len(shape) > 1 and name.endswith('weight'):
      v *= 1.5 / np.sqrt(np.prod(shape[1:]))
    else:
      v *= 0.3
    tensors[name] = v.astype(np.float32)
  return tensors


def _variables(network, tensors):
  rule = feature_rules.RULES[network]
  arrays = {}
  for name, array in tensors.items():
    arrays |= rule(name, array)
  return unflatten(arrays)


def _norm(x, weight, bias, epsilon):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight + bias


def _reference(t, images, names, *, epsilon, gelu, positions):
  """Returns all tokens after the last block, in float64.

  Args:
    t: Tensors by the names of PyTorch.
    images: Normalised images.
    names: What the file calls the parts.
    epsilon: Of the normalisations.
    gelu: The nonlinearity.
    positions: What is added to the tokens.
  """
  t = {name: array.astype(np.float64) for name, array in t.items()}
  patch, heads = _SMALL['patch'], _SMALL['heads']
  kernel = t[f'{names["patches"]}.weight']
  rows = []
  for i in range(0, images.shape[1], patch):
    for j in range(0, images.shape[2], patch):
      cut = images[:, i : i + patch, j : j + patch]
      rows.append(np.einsum('nhwc,dchw->nd', cut, kernel))
  x = np.stack(rows, 1) + t.get(f'{names["patches"]}.bias', 0)
  first = np.broadcast_to(t[names['class']].reshape(-1), x[:, :1].shape)
  x = np.concatenate([first, x], 1) + positions
  if 'first' in names:
    x = _norm(
      x, t[names['first'] + '.weight'], t[names['first'] + '.bias'], epsilon
    )
  for b in range(_SMALL['depth']):
    part = {k: names['block'].format(b) + v for k, v in names['in'].items()}

    def norm(x, name, part=part):
      return _norm(x, t[part[name] + 'weight'], t[part[name] + 'bias'], epsilon)

    def linear(x, name, part=part):
      return x @ t[part[name] + 'weight'].T + t[part[name] + 'bias']

    def scaled(x, name, part=part):
      return x * t.get(part.get(name), 1)

    q, k, v = np.split(linear(norm(x, 'norm1'), 'qkv'), 3, axis=-1)
    mixed = []
    for cut in np.split(np.arange(_SMALL['width']), heads):
      scores = q[..., cut] @ k[..., cut].swapaxes(1, 2) / np.sqrt(len(cut))
      mixed.append(special.softmax(scores, axis=-1) @ v[..., cut])
    x = x + scaled(linear(np.concatenate(mixed, -1), 'out'), 'scale1')
    y = linear(gelu(linear(norm(x, 'norm2'), 'fc1')), 'fc2')
    x = x + scaled(y, 'scale2')
  return x, t


_DINO_NAMES = {
  'patches': 'patch_embed.proj',
  'class': 'cls_token',
  'block': 'blocks.{}.',
  'in': {
    'norm1': 'norm1.', 'qkv': 'attn.qkv.', 'out': 'attn.proj.',
    'scale1': 'ls1.gamma', 'norm2': 'norm2.', 'fc1': 'mlp.fc1.',
    'fc2': 'mlp.fc2.', 'scale2': 'ls2.gamma',
  },
}  # fmt: skip

_CLIP_NAMES = {
  'patches': 'visual.conv1',
  'class': 'visual.class_embedding',
  'first': 'visual.ln_pre',
  'block': 'visual.transformer.resblocks.{}.',
  'in': {
    'norm1': 'ln_1.', 'qkv': 'attn.in_proj_', 'out': 'attn.out_proj.',
    'norm2': 'ln_2.', 'fc1': 'mlp.c_fc.', 'fc2': 'mlp.c_proj.',
  },
}  # fmt: skip


def _cubic(d, a=-0.75):
  d = abs(d)
  if d <= 1:
    return (a + 2) * d**3 - (a + 3) * d**2 + 1
  return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0


def _interpolated(stored, new):
  """Returns the positions of a grid of another size, tap by tap."""
  old = _SMALL['grid']
  grid = stored[1:].reshape(old, old, -1)
  for axis in (0, 1):
    lines = []
    for i in range(new[axis]):
      centre = (i + 0.5) * old / (new[axis] + 0.1) - 0.5
      taps = range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3)
      lines.append(
        sum(
          _cubic(centre - k) * grid.take(np.clip(k, 0, old - 1), axis)
          for k in taps
        )
      )
    grid = np.stack(lines, axis)
  return np.concatenate([stored[:1], grid.reshape(-1, grid.shape[-1])])


@pytest.mark.parametrize('grid', [(5, 5), (3, 4)])
def test_dinov2(grid):
  """At its own grid, and at one whose positions are interpolated.

  Results are of order 1, float32 rounds at 6e-8, and a few hundred roundings
  add up on the way.
  """
  tensors = _tensors(dinov2_shapes(12, 2, 4, 5))
  height, width = (4 * size for size in grid)
  images = named_weights.sample('images', (2, height, width, 3))
  stored = tensors['pos_embed'][0].astype(np.float64)
  x, t = _reference(
    tensors,
    images,
    _DINO_NAMES,
    epsilon=1e-6,
    gelu=lambda x: x * special.ndtr(x),
    positions=stored if grid == (5, 5) else _interpolated(stored, grid),
  )
  expected = _norm(x, t['norm.weight'], t['norm.bias'], 1e-6)[:, 0]
  found = DINO.apply(
    _variables('dinov2', tensors), jnp.asarray(images, jnp.float32)
  )
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_clip():
  tensors = _tensors(openai_shapes(12, 2, 4, 5, 7))
  images = named_weights.sample('images', (2, 20, 20, 3))
  x, t = _reference(
    tensors,
    images,
    _CLIP_NAMES,
    epsilon=1e-5,
    gelu=lambda x: x * special.expit(1.702 * x),
    positions=tensors['visual.positional_embedding'],
  )
  x = _norm(x, t['visual.ln_post.weight'], t['visual.ln_post.bias'], 1e-5)
  expected = x[:, 0] @ t['visual.proj']
  found = CLIP.apply(
    _variables('clip', tensors), jnp.asarray(images, jnp.float32)
  )
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
  ('network', 'module', 'shapes', 'other_names'),
  [
    ('dinov2', DINO, dinov2_shapes(12, 2, 4, 5), hugging_face_dinov2),
    ('clip', CLIP, openai_shapes(12, 2, 4, 5, 7), hugging_face_clip),
  ],
)
def test_both_names_give_the_same_variables(
  network, module, shapes, other_names
):
  """Fused arrays are cut in the order of query, key and value."""
  tensors = _tensors(shapes)
  first = feature_rules.RULES[network]
  ours = {}
  for name, array in tensors.items():
    ours |= first(name, array)
  assert {path: a.shape for path, a in ours.items()} == vit.shapes(module)
  renamed = {}
  for name, shape in other_names(shapes).items():
    renamed |= {
      path: a.shape for path, a in first(name, np.zeros(shape)).items()
    }
  assert renamed == vit.shapes(module)
  fused = next(n for n in tensors if 'qkv.weight' in n or 'in_proj_weight' in n)
  query, key, value = np.split(tensors[fused], 3)
  for part, array in (('query', query), ('key', key), ('value', value)):
    np.testing.assert_array_equal(ours[f'params/block0/{part}/weight'], array.T)


@pytest.mark.parametrize('old', [(300, 200), (32, 48), (224, 224)])
def test_images_are_resized_as_pillow_does(old):
  """JAX rounds positions to float32, by 2e-5 of a pixel, times 255 or so."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (1, *old, 3), np.uint8)
  prepare = functools.partial(
    vit.prepare, side=224, mean=(0, 0, 0), std=(1, 1, 1)
  )
  found = jax.jit(prepare)(images)
  for c in range(3):
    image = Image.fromarray(images[0, ..., c].astype(np.float32))
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(
      np.asarray(found)[0, ..., c] * 255, expected, rtol=0, atol=1e-2
    )


def test_shapes_of_one_block_stand_for_all():
  for name, blocks in (('dinov2', 24), ('dinov2_b', 12), ('clip', 24)):
    shapes = base.find(name).shapes()
    found = {p.split('/')[1] for p in shapes if '/block' in p}
    assert found == {f'block{i}' for i in range(blocks)}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dinov2_b', 'clip'])
def test_outputs(name):
  """Traced only: the networks are large."""
  network = base.find(name)
  variables = unflatten(
    {
      path: jax.ShapeDtypeStruct(shape, jnp.float32)
      for path, shape in network.shapes().items()
    }
  )
  images = jax.ShapeDtypeStruct((2, 32, 48, 1), jnp.uint8)
  outputs = jax.eval_shape(network.apply, variables, images)
  assert {k: x.shape[1] for k, x in outputs.items()} == dict(network.dims)
  assert all(x.dtype == jnp.float32 for x in outputs.values())


@pytest.mark.parametrize('kind', ['Auto', 'Explicit'])
def test_batches_may_be_sharded(kind):
  """Features are those of one device, and are sharded as the images are."""
  variables = _variables('dinov2', _tensors(dinov2_shapes(12, 2, 4, 5)))

  @jax.jit
  def apply(variables, images):
    images = vit.prepare(images, 24, (0.5,) * 3, (0.2,) * 3)
    return DINO.apply(variables, images)

  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4, 16, 20, 4), np.uint8)
  expected = np.asarray(apply(variables, images))
  axis_type = getattr(jax.sharding.AxisType, kind)
  mesh = jax.make_mesh((4,), ('data',), axis_types=(axis_type,))
  spec = jax.sharding.PartitionSpec
  with jax.set_mesh(mesh):
    found = apply(
      jax.device_put(variables, jax.NamedSharding(mesh, spec())),
      jax.device_put(images, jax.NamedSharding(mesh, spec('data'))),
    )
  assert found.sharding.spec[0] == 'data'
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
