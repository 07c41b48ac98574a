"""Crops, filters and conversions of single images."""

import fractions
import io

import numpy as np
import pytest
import raw_images
from PIL import Image, ImageOps

from sg3jax.data.prepare import conversion, images, inspection, transforms
from sg3jax.data.prepare import options as options_lib


def options(**fields):
  return options_lib.Options(**fields)


def load(data, **fields):
  image, notes = conversion.load(data, options(**fields))
  return np.asarray(image), notes


def resized(pixels, width, height, kind='lanczos'):
  image = transforms.resize(Image.fromarray(pixels), width, height, kind)
  return np.asarray(image)


# Filters.


@pytest.mark.parametrize('kind', options_lib.FILTERS)
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_resizing_keeps_constant_images(kind, channels):
  pixels = np.full([30, 47, channels], 93, np.uint8)
  pixels[..., 3:] = 255
  result = resized(np.squeeze(pixels), 16, 16, kind)
  np.testing.assert_array_equal(result, np.squeeze(pixels[:16, :16]))


def test_area_is_the_exact_mean_rounded_once():
  """Against rational numbers, at a ratio that is no integer."""
  pixels = raw_images.waves(3, 7, 5, 1)[..., 0]
  result = resized(pixels, 4, 3, 'area')
  for row, column in np.ndindex(3, 4):
    total = fractions.Fraction(0)
    for y, x in np.ndindex(5, 7):
      height = min(fractions.Fraction(5 * (row + 1), 3), y + 1)
      height -= max(fractions.Fraction(5 * row, 3), y)
      width = min(fractions.Fraction(7 * (column + 1), 4), x + 1)
      width -= max(fractions.Fraction(7 * column, 4), x)
      total += max(height, 0) * max(width, 0) * int(pixels[y, x])
    mean = total / fractions.Fraction(35, 12)
    assert result[row, column] == (mean + fractions.Fraction(1, 2)) // 1


@pytest.mark.parametrize('kind', ['box', 'area'])
def test_box_and_area_average_blocks(kind):
  pixels = raw_images.waves(1, 32, 32)
  blocks = pixels.reshape(16, 2, 16, 2, 3).mean((1, 3))
  result = resized(pixels, 16, 16, kind)
  # Area rounds once, and box after each of two passes.
  limit = 0.5 if kind == 'area' else 1
  assert np.abs(result - blocks).max() <= limit


def test_colours_of_transparent_pixels_do_not_bleed():
  pixels = np.zeros([16, 16, 4], np.uint8)
  pixels[:, :8] = (255, 0, 0, 255)
  pixels[:, 8:] = (0, 255, 0, 0)  # Invisible green.
  for kind in options_lib.FILTERS:
    result = resized(pixels, 5, 5, kind)
    assert result[..., 1].max() <= 1, kind


# Transforms.


def box(columns, rows, name='a.png', **fields):
  found = transforms.crop_box(columns, rows, options(**fields), name)
  return found.left, found.top, found.width, found.height


def test_boxes_of_crops():
  def wide(name, width, height):
    return box(width, height, width=64, height=48, transform=name)

  assert box(101, 50, width=8, height=8, transform='center-crop') == (
    25, 0, 50, 50,
  )  # fmt: skip
  assert wide('crop-wide', 128, 130) == (0, 17, 128, 96)
  assert wide('center-crop-wide', 128, 130) == (0, 32, 128, 65)
  tall = {'width': 48, 'height': 64}
  assert box(130, 128, **tall, transform='crop-tall') == (17, 0, 96, 128)
  assert box(130, 128, **tall, transform='center-crop-tall') == (32, 0, 65, 128)


@pytest.mark.parametrize('kind', ['crop', 'center-crop'])
def test_tall_is_wide_with_axes_exchanged(kind):
  pixels = raw_images.waves(5, 90, 120)
  side = {'width': 48, 'height': 64, 'filter': 'area'}
  tall, notes = transforms.apply(
    Image.fromarray(pixels), options(transform=f'{kind}-tall', **side), ''
  )
  side = {'width': 64, 'height': 48, 'filter': 'area'}
  across = Image.fromarray(np.swapaxes(pixels, 0, 1))
  wide, other_notes = transforms.apply(
    across, options(transform=f'{kind}-wide', **side), ''
  )
  np.testing.assert_array_equal(tall, np.swapaxes(np.asarray(wide), 0, 1))
  assert notes == other_notes
  assert ('stretched' in notes) == (kind == 'center-crop')


@pytest.mark.parametrize('size', [(63, 400), (400, 40)])
def test_crops_do_not_enlarge_across(size):
  fields = {'width': 64, 'height': 48, 'transform': 'crop-wide'}
  with pytest.raises(transforms.UnfitError, match='must'):
    box(*size, **fields)


def test_random_crops_have_the_distribution_of_the_paper():
  """Normal around the centre with 20 % of the crop, inside the photograph."""
  fields = {'width': 8, 'height': 8, 'transform': 'random-crop', 'crop': 0.5}
  found = np.array([box(800, 2000, f'{i}.png', **fields) for i in range(4000)])
  assert (found[:, 2:] == 400).all()
  assert found[:, 0].min() >= 0
  assert found[:, 0].max() <= 400
  offsets = found[:, :2] - [200, 800]
  # Rows: 10 standard deviations fit, so the distribution is normal, with the
  # deviation 80; its estimate from 4000 has the standard error 80 / sqrt(8000).
  assert abs(offsets[:, 1].std() - 80) < 5 * 80 / 8000**0.5
  assert abs(offsets[:, 1].mean()) < 5 * 80 / 4000**0.5
  # Columns: cut at 2.5 standard deviations, where the deviation is 0.955 of it.
  assert abs(offsets[:, 0].std() - 0.9546 * 80) < 5 * 80 / 8000**0.5
  assert abs(np.corrcoef(offsets.T)[0, 1]) < 5 / 4000**0.5


def test_random_crops_depend_on_the_name_and_the_seed_only():
  fields = {'width': 8, 'height': 8, 'transform': 'random-crop'}
  assert box(100, 200, **fields) == box(100, 200, **fields)
  assert box(100, 200, **fields) != box(100, 200, 'b.png', **fields)
  assert box(100, 200, **fields) != box(100, 200, seed=1, **fields)
  assert box(100, 100, crop=1.0, **fields) == (0, 0, 100, 100)


def test_pads_without_scaling():
  pixels = raw_images.waves(1, 28, 28, 1)[..., 0]
  fields = options(width=32, height=32, transform='pad')
  result, _ = transforms.apply(Image.fromarray(pixels), fields, '')
  np.testing.assert_array_equal(np.asarray(result)[2:30, 2:30], pixels)
  assert np.asarray(result).sum() == pixels.sum()
  with pytest.raises(transforms.UnfitError, match='at most 32x32'):
    transforms.apply(Image.new('L', (33, 8)), fields, '')


# Conversions.


def test_turns_images_upright():
  image = Image.fromarray(raw_images.waves(4, 60, 40))
  pixels, notes = load(raw_images.turned(image))
  assert pixels.shape == (40, 60, 3)
  # JPEG loses up to a few levels.
  assert np.abs(pixels.astype(int) - np.asarray(image)).mean() < 4
  assert notes == ('turned',)


@pytest.mark.parametrize('orientation', range(2, 9))
def test_all_orientations_are_applied(orientation):
  image = Image.fromarray(raw_images.waves(2, 30, 20))
  tags = Image.Exif()
  tags[0x0112] = orientation
  for kind in ('png', 'tiff'):
    data = raw_images.encoded(image, kind, exif=tags)
    image.getexif()[0x0112] = orientation
    expected = ImageOps.exif_transpose(image)
    pixels, notes = load(data)
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    assert notes == ('turned',)


def test_channels():
  colour = Image.fromarray(raw_images.waves(6, 20, 10))
  clear = raw_images.with_alpha(colour)
  grey = colour.convert('L')
  data = {
    mode: raw_images.encoded(image)
    for mode, image in {'L': grey, 'RGB': colour, 'RGBA': clear}.items()
  }
  pixels, notes = load(data['RGB'], channels=1)
  np.testing.assert_array_equal(pixels, np.asarray(grey))
  assert notes == ('to_grey',)
  pixels, notes = load(data['L'], channels=3)
  np.testing.assert_array_equal(pixels, np.asarray(grey.convert('RGB')))
  assert notes == ('to_rgb',)
  pixels, notes = load(data['RGB'], channels=4)
  assert (pixels[..., 3] == 255).all()
  assert notes == ('to_rgba',)
  pixels, notes = load(data['RGBA'], channels=3, background=50)
  assert notes == ('flattened',)
  alpha = np.asarray(clear)[..., 3:] / 255
  expected = np.asarray(colour) * alpha + 50 * (1 - alpha)
  assert np.abs(pixels - expected).max() <= 1
  assert load(data['RGBA'], channels=1)[1] == ('flattened', 'to_grey')


@pytest.mark.parametrize(
  ('mode', 'result', 'note'),
  [
    ('1', 'L', 'bilevel'),
    ('P', 'RGB', 'palette'),
    ('LA', 'RGBA', None),
    ('CMYK', 'RGB', 'print'),
  ],
)
def test_modes(mode, result, note):
  image = Image.fromarray(raw_images.waves(6, 20, 10)).convert(mode)
  data = raw_images.encoded(image, 'tiff')
  found, notes = conversion.load(data, options())
  assert found.mode == result
  assert notes == ((note,) if note else ())


def test_sixteen_bits():
  values = np.arange(0, 2**16, 256, np.uint16).reshape(16, 16) + 77
  data = raw_images.encoded(Image.fromarray(values))
  with pytest.raises(conversion.UnusableError, match='at most 8 bits'):
    load(data)
  pixels, notes = load(data, depth16='reduce')
  np.testing.assert_array_equal(pixels, (values >> 8).astype(np.uint8))
  assert notes == ('reduced',)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'', 'not an image'),
    (b'text', 'not an image'),
    (raw_images.encoded(Image.new('RGB', (99, 99)))[:60], 'cannot be decoded'),
  ],
)
def test_damage_is_an_error_with_a_reason(data, message):
  with pytest.raises(conversion.UnusableError, match=message):
    load(data)


def test_reasons_are_the_same_in_every_process():
  """They are stored, and an address of memory would differ each time."""
  error = ValueError(f'cannot use {io.BytesIO()}\nat all')
  assert '0x' in str(error)
  assert conversion.reason(error) == 'cannot use an object at all'
  assert conversion.reason(EOFError()) == 'EOFError'


def test_only_pixels_are_kept():
  image = Image.fromarray(raw_images.waves(1, 9, 9))
  data = raw_images.encoded(image, 'png', dpi=(300, 300), icc_profile=b'x' * 99)
  loaded, notes = conversion.load(data, options())
  assert notes == ('profile',)
  with Image.open(io.BytesIO(conversion.encode(loaded))) as stored:
    assert not stored.info
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(image))


# Options.


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'transform': 'centre'}, 'transform must be one of none'),
    ({'filter': 'bicubic'}, 'filter must be one of lanczos'),
    ({'channels': 2}, 'channels must be one of 1, 3, 4'),
    ({'background': 256}, 'background must be a grey level'),
    ({'crop': 0.0}, 'crop must be a fraction'),
    ({'crop': float('nan')}, 'crop must be a fraction'),
    ({'width': 0, 'height': 0}, 'resolution must be 1 to'),
    (
      {'width': 8, 'height': 9, 'transform': 'crop-wide'},
      'images must be square',
    ),
    ({'transform': 'pad'}, 'resolution must be given'),
  ],
)
def test_options_that_are_wrong(fields, message):
  with pytest.raises(ValueError, match=message):
    options_lib.check(options(**fields))


def test_resolutions():
  assert options_lib.parse_resolution('64x48') == (64, 48)
  assert options_lib.parse_resolution('64') == (64, 64)
  assert options_lib.parse_resolution(None) == (None, None)
  for text in ('64x', 'x', '-1', '1.5', '64*64', '64x64x64'):
    with pytest.raises(ValueError, match='must be WIDTHxHEIGHT'):
      options_lib.parse_resolution(text)


# Duplicates.


def look(index, pixels):
  image = Image.fromarray(pixels)
  return inspection.Look(
    index,
    pixels=str(pixels.tobytes()),
    bits=inspection.perceptual_hash(image),
  )


def test_similar_images_have_similar_hashes():
  one = raw_images.waves(1, 64, 48)
  small = resized(one, 40, 30)
  dark = (one // 2 + 3).astype(np.uint8)
  other = raw_images.waves(2, 64, 48)
  flat = np.full([9, 9, 3], 7, np.uint8)
  everything = [one, other, small, dark, one.copy(), flat, flat + 1]
  looks = [look(i, pixels) for i, pixels in enumerate(everything)]
  pairs = inspection.near_duplicates(looks)
  assert {(i, j) for i, j, _ in pairs} == {(0, 2), (0, 3), (2, 3)}


def test_no_near_pair_is_missed():
  """Against all pairs, of random hashes with few bits changed."""
  random = np.random.RandomState(0)
  base = random.randint(0, 2**62, 20).astype(np.uint64)
  hashes = [
    int(h) ^ sum(1 << int(b) for b in random.choice(64, 3, replace=False))
    for h in base.repeat(3)
  ]
  looks = [
    inspection.Look(i, pixels=str(i), bits=h) for i, h in enumerate(hashes)
  ]
  expected = {
    (i, j, (hashes[i] ^ hashes[j]).bit_count())
    for i in range(60)
    for j in range(i + 1, 60)
    if (hashes[i] ^ hashes[j]).bit_count() <= inspection.NEAR_BITS
  }
  assert expected
  assert set(inspection.near_duplicates(looks)) == expected


def test_outcomes_name_what_differs():
  assert 'grey like the first image' in images._differs((8, 3), (8, 1))
  assert '8x8 pixels like the first' in images._differs((9, 3), (8, 3))
