"""Formats of images: what is read, and what of it is said to be left out."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from test_files import encode, picture

from sg3jax.data import decoding, files, sources

_FORMATS = {
  'png': 'PNG', 'PNG': 'PNG', 'apng': 'PNG', 'bmp': 'BMP', 'dib': 'DIB',
  'tif': 'TIFF', 'tiff': 'TIFF', 'ppm': 'PPM', 'pnm': 'PPM', 'tga': 'TGA',
  'webp': 'WEBP', 'jfif': 'JPEG', 'jpe': 'JPEG', 'JPG': 'JPEG', 'gif': 'GIF',
}  # fmt: skip


def _write(folder, contents):
  for name, data in contents.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
  return folder


@pytest.mark.parametrize('suffix', _FORMATS)
def test_formats_are_read(tmp_path, suffix):
  kind = _FORMATS[suffix]
  # Few colours, in one place each, so that all formats hold them.
  pixels = np.repeat(picture(0, (1, 1, 3)), 8, axis=0).repeat(8, axis=1)
  options = {'lossless': True} if kind == 'WEBP' else {}
  data = encode(pixels, kind, **options)
  source = files.ImageFiles(_write(tmp_path, {f'a.{suffix}': data}))
  tolerance = 2 if kind == 'JPEG' else 0
  difference = source[0]['image'].astype(int) - pixels
  assert np.abs(difference).max() <= tolerance
  assert source.notes == ()


def test_grey_and_black_and_white_portable_maps(tmp_path):
  grey = picture(0, (8, 8, 1))
  source = files.ImageFiles(_write(tmp_path, {'a.pgm': encode(grey, 'PPM')}))
  np.testing.assert_array_equal(source[0]['image'], grey)
  bits = Image.fromarray(grey[..., 0]).convert('1')
  (tmp_path / 'a.pgm').unlink()
  source = files.ImageFiles(_write(tmp_path, {'a.pbm': encode(bits, 'PPM')}))
  np.testing.assert_array_equal(source[0]['image'][..., 0], bits.convert('L'))


def _deep_tiff():
  """Returns an RGB TIFF file of 16 bits, which Pillow opens as RGB."""
  tags = [
    (256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 3, 134), (259, 3, 1, 1),
    (262, 3, 1, 2), (273, 4, 1, 140), (277, 3, 1, 3), (278, 3, 1, 8),
    (279, 4, 1, 384),
  ]  # fmt: skip
  data = struct.pack('<2sHIH', b'II', 42, 8, len(tags))
  for tag, kind, count, value in tags:
    data += struct.pack('<HHII', tag, kind, count, value)
  data += bytes(4)
  data += bytes(134 - len(data)) + struct.pack('<3H', 16, 16, 16)
  return data + bytes(384)


@pytest.mark.parametrize(
  ('name', 'data'),
  [
    ('a.ppm', b'P6\n8 8\n65535\n' + bytes(384)),
    ('a.pnm', b'P6\n8 8\n1023\n' + bytes(384)),
    ('a.pgm', b'P5\n8 8\n65535\n' + bytes(128)),
    ('a.tif', _deep_tiff()),
    ('a.tiff', encode(picture(0, (8, 8)).astype(np.uint16), 'TIFF')),
    ('a.tif', encode(Image.fromarray(np.zeros((8, 8), np.float32)), 'TIFF')),
  ],
)
def test_more_than_eight_bits_are_refused(tmp_path, name, data):
  with Image.open(io.BytesIO(data)) as image:
    assert image.size == (8, 8)
  with pytest.raises(ValueError, match=rf'8 bits .* got {name} in '):
    files.ImageFiles(_write(tmp_path, {name: data}))


def test_what_is_not_read_is_counted_and_named(tmp_path):
  contents = {'a.png': encode(picture(0)), '.DS_Store': b'', 'c/.b.png': b''}
  contents |= {f'c/{i}.heic': b'' for i in range(5)} | {'README': b''}
  source = sources.open_source(str(_write(tmp_path, contents)))
  assert len(source) == 1
  assert sources.notes(source) == (
    '6 files skipped for the format: 5 of .heic, 1 of no suffix '
    '(README, c/0.heic, c/1.heic and 3 more)',
    '2 hidden files skipped: .DS_Store, c/.b.png',
  )
  lines = sources.describe(source)
  assert lines[0].startswith('Data note:      6 files skipped')


def test_labels_are_no_skipped_file(tmp_path):
  contents = {'a.png': encode(picture(0)), 'dataset.json': b'{"labels": null}'}
  assert files.ImageFiles(_write(tmp_path, contents)).notes == ()


def _animated(kind):
  frames = [Image.fromarray(picture(i) // 64 * 64) for i in range(3)]
  options = {'lossless': True} if kind == 'WEBP' else {}
  return frames[0], encode(
    frames[0], kind, save_all=True, append_images=frames[1:], **options
  )


@pytest.mark.parametrize(
  ('name', 'kind'),
  [('a.webp', 'WEBP'), ('a.png', 'PNG'), ('a.tif', 'TIFF'), ('a.gif', 'GIF')],
)
def test_the_first_of_several_pictures_is_read_and_said(tmp_path, name, kind):
  first, data = _animated(kind)
  source = files.ImageFiles(_write(tmp_path, {name: data}))
  # Animations in WebP have an opacity.
  np.testing.assert_array_equal(source[0]['image'][..., :3], first)
  (note,) = source.notes
  assert note == (
    '1 image animated or with several pages, of which only the first image is '
    f'read: {name}'
  )


@pytest.mark.parametrize(
  ('shape', 'colour'), [((8, 8, 1), 3), ((8, 8, 3), (1, 2, 3))]
)
def test_a_transparent_colour_that_is_not_kept_is_said(tmp_path, shape, colour):
  data = encode(picture(0, shape), transparency=colour)
  contents = {'a.png': encode(picture(1, shape)), 'b.png': data}
  source = files.ImageFiles(_write(tmp_path, contents))
  assert source.channels == shape[-1]
  np.testing.assert_array_equal(source[1]['image'], picture(0, shape))
  (note,) = source.notes
  assert note.startswith('1 image grey or RGB with one transparent colour')
  assert note.endswith(': b.png')


@pytest.mark.parametrize(
  ('name', 'kind'), [('a.jpg', 'JPEG'), ('a.webp', 'WEBP'), ('a.png', 'PNG')]
)
def test_a_tag_to_turn_is_said(tmp_path, name, kind):
  exif = Image.Exif()
  exif[0x0112] = 6
  contents = {name: encode(picture(0), kind, exif=exif)}
  exif[0x0112] = 1
  contents[f'upright-{name}'] = encode(picture(0), kind, exif=exif)
  source = files.ImageFiles(_write(tmp_path, contents))
  np.testing.assert_array_equal(source[0]['image'], source[1]['image'])
  (note,) = source.notes
  assert 'with an orientation tag, which is ignored' in note
  assert note.startswith('1 image ')
  assert note.endswith(f': {name}')


def test_a_tiff_that_is_turned_is_said(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 3
  data = encode(picture(0), 'TIFF', exif=exif)
  source = files.ImageFiles(_write(tmp_path, {'a.tif': data}))
  np.testing.assert_array_equal(source[0]['image'], picture(0)[::-1, ::-1])
  assert 'and rotated accordingly: a.tif' in source.notes[0]


def test_headers_are_read_without_decoding(tmp_path, monkeypatch):
  exif = Image.Exif()
  exif[0x0112] = 6
  contents = {'a.png': encode(picture(0)), 'b.png': _animated('PNG')[1]}
  contents['c.jpg'] = encode(picture(0), 'JPEG', exif=exif)
  _write(tmp_path, contents)

  def fail(*args):
    raise AssertionError('an image was decoded')

  Image.preinit()
  monkeypatch.setattr('PIL.ImageFile.ImageFile.load', fail)
  assert len(files.ImageFiles(tmp_path).notes) == 2


def test_a_sample_of_headers_is_said_to_be_one(tmp_path, monkeypatch):
  monkeypatch.setattr(files, '_MAX_HEADERS', 2)
  data = _animated('WEBP')[1]
  source = files.ImageFiles(
    _write(tmp_path, {f'{i}.webp': data for i in range(9)})
  )
  assert source.notes[0].startswith('3 images of the 3 inspected animated')


def test_every_suffix_is_one_that_pillow_knows():
  Image.init()
  assert set(decoding.SUFFIXES) <= set(Image.registered_extensions())


def test_damaged_tags_do_not_damage_an_image(tmp_path):
  data = encode(picture(0), 'JPEG', exif=b'Exif\0\0MM\0*\xff\xff\xff')
  source = files.ImageFiles(_write(tmp_path, {'a.jpg': data}))
  assert source[0]['image'].shape == (8, 8, 3)
  assert source.notes == ()
