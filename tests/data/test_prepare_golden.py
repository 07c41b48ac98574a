"""Prepared datasets against those of the official tool, pixel by pixel."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from sg3jax.data.prepare import options as options_lib
from sg3jax.data.prepare import run

_FLAGS = {'--transform': 'transform', '--resolution': 'resolution'}


def _write_source(folder, arrays, case):
  """Writes the images of a case as the official tool found them."""
  kind = case['source_kind']
  root = folder / 'source'
  for name, key in zip(case['source_names'], case['sources'], strict=True):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.moveaxis(arrays[key], 0, -1)
    Image.fromarray(np.squeeze(pixels)).save(path)
  if case['source_labels'] is not None:
    text = json.dumps({'labels': case['source_labels']})
    (root / 'dataset.json').write_text(text)
  if kind == 'folder':
    return root
  with zipfile.ZipFile(folder / 'source.zip', 'w') as file:
    for path in root.rglob('*.*'):
      file.write(path, path.relative_to(root).as_posix())
  return folder / 'source.zip'


def _prepare(folder, arrays, case, **arguments):
  flags = dict(zip(case['options'][::2], case['options'][1::2], strict=True))
  width, height = options_lib.parse_resolution(flags.get('--resolution'))
  options = options_lib.Options(
    width=width, height=height, transform=flags.get('--transform', 'none')
  )
  maximum = flags.get('--max-images')
  dest = folder / 'made.zip'
  run.prepare(
    str(_write_source(folder, arrays, case)),
    dest,
    options,
    max_images=int(maximum) if maximum else None,
    workers=1,
    log=lambda _: None,
    **arguments,
  )
  with zipfile.ZipFile(dest) as file:
    assert {i.compress_type for i in file.infolist()} == {zipfile.ZIP_STORED}
    names = [n for n in file.namelist() if n.endswith('.png')]
    pictures = [Image.open(file.open(name)) for name in names]
    modes = [picture.mode for picture in pictures]
    pixels = [np.atleast_3d(np.asarray(picture)) for picture in pictures]
    text = file.read('dataset.json').decode()
  return names, text, modes, np.moveaxis(np.stack(pixels), -1, 1)


@pytest.fixture(scope='module')
def cases(golden):
  arrays = golden('dataset_tool.npz')
  return arrays, json.loads(str(arrays['cases']))


@pytest.mark.parametrize(
  'name',
  [
    'crop32', 'crop64', 'wide64x48', 'wide64x36', 'wide64x51', 'wide128x96',
    'scale32', 'scale64', 'scale64_max2', 'gray32', 'no_options_square',
  ],
)  # fmt: skip
def test_equals_the_official_tool(name, cases, tmp_path):
  """Under Pillow before 13, whose order of passes ours is with any version."""
  arrays, table = cases
  case = table[name]
  on_error = 'skip' if len(case['names']) < len(case['sources']) else 'stop'
  names, text, modes, images = _prepare(
    tmp_path, arrays, case, on_error=on_error
  )
  assert names == case['names']
  assert text == case['dataset_json']
  assert modes == case['png_modes']
  np.testing.assert_array_equal(images, arrays[f'{name}/images'])


def test_the_goldens_tell_the_orders_of_passes_apart(cases):
  arrays, _ = cases
  assert (arrays['scale64/images'] != arrays['scale64/images_pillow13']).any()


def test_a_missing_label_is_an_error_instead_of_no_labels(cases, tmp_path):
  arrays, table = cases
  case = table['crop128']
  with pytest.raises(ValueError, match='1 image without one'):
    _prepare(tmp_path, arrays, case)


def test_labels_can_be_left_out_as_the_official_tool_does(cases, tmp_path):
  arrays, table = cases
  case = table['crop128']
  names, text, _, images = _prepare(tmp_path, arrays, case, labels='none')
  assert names == case['names']
  assert text == case['dataset_json']
  np.testing.assert_array_equal(images, arrays['crop128/images'])


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('scale64x48', 'must be square, got the resolution 64x48'),
    ('mixed_gray_rgb', 'it must be grey like the first image, got RGB'),
    ('no_options_not_square', 'it must be square, got 120x90 pixels'),
    ('crop_without_resolution', 'resolution must be given with transform'),
  ],
)
def test_refuses_what_the_official_tool_refuses(name, message, cases, tmp_path):
  arrays, table = cases
  with pytest.raises(ValueError, match=message):
    _prepare(tmp_path, arrays, table[name])


def test_grey_images_can_be_cropped(cases, tmp_path):
  arrays, table = cases
  _, _, modes, images = _prepare(tmp_path, arrays, table['gray_crop32'])
  assert modes == ['L']
  assert images.shape == (1, 1, 32, 32)
