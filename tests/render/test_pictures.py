"""Pictures: backgrounds, sheets and metadata."""

import numpy as np
import pytest
from PIL import Image

from sg3jax.render import pictures

_RNG = np.random.RandomState(0)


def _image(channels, size=8):
  return _RNG.randint(0, 256, (size, size, channels), np.uint8)


def test_grey_images_become_rgb():
  image = _image(1)
  np.testing.assert_array_equal(
    pictures.to_rgb(image), np.repeat(image, 3, axis=-1)
  )


def test_backgrounds_show_through():
  image = _image(4)
  image[..., 3] = 0
  assert np.all(pictures.to_rgb(image, 'white') == 255)
  assert np.all(pictures.to_rgb(image, 'black') == 0)
  assert set(np.unique(pictures.to_rgb(image, 'checkerboard'))) == {128, 192}
  image[..., 3] = 255
  for background in pictures.BACKGROUNDS:
    np.testing.assert_array_equal(
      pictures.to_rgb(image, background), image[..., :3]
    )
  with pytest.raises(ValueError, match='background must be one of checkerb'):
    pictures.to_rgb(image, 'pink')


def test_sheets_are_read_row_by_row():
  images = np.stack([np.full((2, 2, 4), i, np.uint8) for i in range(6)])
  found = pictures.sheet(images, (3, 2))
  np.testing.assert_array_equal(found[::2, ::2, 0], [[0, 1, 2], [3, 4, 5]])
  assert pictures.sheet(images, (3, 2), 'white').shape == (4, 6, 3)


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('suffix', ['png', 'webp', 'jpg'])
def test_pictures_keep_their_command(tmp_path, suffix, channels):
  path = tmp_path / 'new' / f'a.{suffix}'
  image = np.full((16, 16, channels), 200, np.uint8)
  command = "sg3jax generate --outdir='größer 図'"
  if (suffix, channels) == ('jpg', 4):
    with pytest.raises(ValueError, match='JPEG has no transparency'):
      pictures.save(image, path, command=command)
    pictures.save(image, path, background='white')
    assert Image.open(path).mode == 'RGB'
    return
  pictures.save(image, path, command=command)
  with Image.open(path) as found:
    pixels = np.asarray(found.convert({1: 'L', 3: 'RGB', 4: 'RGBA'}[channels]))
    assert np.abs(pixels.astype(int) - 200).max() <= 2
    if suffix == 'png':
      assert found.text['Command'] == command
      assert found.text['Software'].startswith('sg3jax ')
      np.testing.assert_array_equal(pixels.reshape(image.shape), image)
    else:
      exif = found.getexif()
      assert exif[0x0131].startswith('sg3jax ')
      assert exif[0x010E].startswith('sg3jax generate --outdir=')


def test_nothing_is_recorded_without_a_command(tmp_path):
  pictures.save(_image(3), tmp_path / 'a.png')
  assert Image.open(tmp_path / 'a.png').text == {}
