"""What the viewer shows and saves, without a server."""

import io
import shlex
import sys
import tempfile

import jax
import numpy as np
import pytest
import small_models
from conftest import GOLDENS
from PIL import Image

from sg3jax import model as model_lib
from sg3jax.cli import generate
from sg3jax.editing import direction_files, directions
from sg3jax.eval import ideal_generator
from sg3jax.inversion import settings
from sg3jax.render import activations, pictures
from sg3jax.view import checks, engine, photos, saving, subject, views

sys.path.append(str(GOLDENS.parent / 'cli'))

import in_process

# The models that a viewer has to show.
_KINDS = {
  't': {'design': 't'},
  '2': {'design': '2'},
  'grey': {'design': 't', 'channels': 1},
  'rgba': {'design': 't', 'channels': 4},
  'labels': {'design': 't', 'label_dim': 3},
}


@pytest.fixture(scope='module')
def load(tmp_path_factory):
  """`load(kind)` returns the subject of a kind of models, loaded once."""
  root = tmp_path_factory.mktemp('models')
  loaded = {}

  def load(kind):
    if kind not in loaded:
      model = small_models.make_model(**_KINDS[kind])
      path = small_models.save(root / kind, model)
      found = directions.find(model, count=2, num_samples=1000)
      direction_files.write(root / f'{kind}.npz', found, {})
      loaded[kind] = subject.Subject(path, model, found)
    return loaded[kind]

  return load


def _run(command):
  """Runs a command of the viewer and returns the picture that it makes."""
  program, name, *arguments = shlex.split(command)
  assert (program, name) == ('sg3jax', 'generate')
  status, out = in_process.run(generate, *arguments)
  assert not status, out
  return np.asarray(Image.open(out.strip()))


@pytest.mark.parametrize(
  ('kind', 'fields'),
  [
    ('t', {'column': 3, 'psi': 0.7}),
    ('t', {'column': 3, 'x': 0.1, 'y': -0.2, 'rotate': 12.5, 'zoom': 1.2}),
    ('t', {'column': 2.25, 'row': 1.5, 'x': 0.1}),
    ('t', {'mix_seed': 5, 'mix_layers': [1, 2]}),
    ('t', {'strengths': [['sefa1', -2.5]], 'x': 0.1}),
    pytest.param(
      *('t', {'strengths': [['sefa0', 2]], 'mix_layers': [2], 'column': 0.5}),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      *('2', {'column': 3, 'noise': 'random'}), marks=pytest.mark.slow
    ),
    pytest.param(
      *('2', {'noise': 'none', 'mix_layers': [0], 'mix_seed': 2}),
      marks=pytest.mark.slow,
    ),
    pytest.param(*('grey', {'row': 4}), marks=pytest.mark.slow),
    pytest.param(*('rgba', {'x': 0.25}), marks=pytest.mark.slow),
    pytest.param(
      *('labels', {'label': 2, 'psi': 0.5, 'towards': 'class'}),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_the_command_makes_the_picture_that_was_saved(
  load, tmp_path, kind, fields
):
  one = load(kind)
  shown = engine.Engine([one])
  view = views.parse(fields)
  file = f'{one.path}.npz'
  (saved,) = saving.save(shown, view, tmp_path, directions=file)
  pixels = np.asarray(Image.open(saved.path))
  assert Image.open(saved.path).info['Command'] == saved.command
  np.testing.assert_array_equal(pixels, _run(saved.command))
  shown.warm()
  (pane,) = shown.render(view).panes
  expected = pixels if pixels.ndim == 3 else pixels[..., None]
  np.testing.assert_array_equal(pane.pixels, pictures.to_rgb(expected))
  # While it moves, another program may round otherwise.
  (pane,) = shown.render(view, moving=True).panes
  assert np.abs(pane.pixels.astype(int) - pictures.to_rgb(expected)).max() <= 1


def test_nothing_is_overwritten(load, tmp_path):
  shown = engine.Engine([load('t'), load('2')])
  (tmp_path / 'view-0001.npz').write_text('mine')
  (tmp_path / 'view-0002').mkdir()
  names = [
    saved.path.name for saved in saving.save(shown, views.View(), tmp_path)
  ]
  assert names == ['view-0003.png', 'view-0004.png']
  assert (tmp_path / 'view-0001.npz').read_text() == 'mine'


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (3, 'a view must be an object'),
    ({'path': '/'}, "no field 'path'"),
    ({'column': 100}, 'column must be at least 0 and below 100'),
    ({'column': '1'}, 'column must be a number'),
    ({'psi': float('nan')}, 'psi must be'),
    ({'psi': True}, 'psi must be a number'),
    ({'row': 1e300}, 'row must be'),
    ({'label': 1.5}, 'label must be an integer'),
    ({'label': -1}, 'label must be'),
    ({'mix_layers': [-1]}, 'mix_layers must be'),
    ({'mix_layers': 'abc'}, 'mix_layers must be a list'),
    ({'mix_layers': [['a', 1]]}, 'mix_layers must be'),
    ({'strengths': [1]}, 'strengths must be'),
    ({'strengths': [['a', 1e9]]}, 'strengths must be'),
    ({'strengths': [['a', 1, 2]]}, 'strengths must be a list'),
    ({'strengths': [['a', 1]] * 1000}, 'strengths must be a list'),
    ({'noise': 'pink'}, 'noise must be'),
    ({'towards': None}, 'towards must be text'),
    ({'zoom': 0}, 'zoom must be'),
    ({'x': float('inf')}, 'x must be'),
    ({'check': 'all'}, 'check must be'),
    ({'layer': 'L' * 1000}, 'layer must be'),
    ({'mix_seed': 2**32}, 'mix_seed must be'),
  ],
)
def test_malformed_views_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    views.parse(fields)
  assert len(str(error.value)) < 300


@pytest.mark.parametrize(
  ('kind', 'fields', 'message'),
  [
    ('labels', {'label': 3}, 'label must be 0 to 2'),
    ('t', {'mix_layers': [99]}, 'mix_layers must be 0 to'),
    ('t', {'layer': 'L99'}, 'layer must be a layer'),
    ('2', {'layer': 'input'}, 'layer must be a layer'),
    ('t', {'strengths': [['smile', 1]]}, 'strengths must be'),
    ('t', {'photo': 1}, 'photo must be the number'),
  ],
)
def test_views_that_do_not_suit_the_model_are_refused(
  load, kind, fields, message
):
  with pytest.raises(ValueError, match=message):
    engine.Engine([load(kind)]).render(views.parse(fields))


def test_latents_between_seeds():
  seeds = model_lib.seed_latents([205, 206, 305, 306], 512)
  at_seed = subject.latent(5.0, 2.0, 512)
  np.testing.assert_allclose(at_seed[0], seeds[0], atol=1e-6)
  between = subject.latent(5.5, 2.5, 512)
  np.testing.assert_allclose(between[0], seeds.sum(0) / 2, atol=1e-6)
  assert between.std() == pytest.approx(1, abs=0.1)
  # The grid has no borders.
  last = model_lib.seed_latents([99], 512)
  almost = subject.latent(99.999, 0.0, 512)
  np.testing.assert_allclose(
    subject.latent(99.5, 0.0, 512)[0] * 2**0.5,
    last[0] + model_lib.seed_latents([0], 512)[0],
    atol=1e-5,
  )
  assert np.abs(almost - model_lib.seed_latents([0], 512)).max() < 0.01


@pytest.fixture(scope='module')
def waves():
  """An image of an ideal generator with the spectrum of soft photographs."""
  f = np.fft.fftfreq(32) * 32
  power = np.maximum(np.hypot(f[:, None], f), 1) ** -3.0
  power[0, 0] = 0
  power = (power / power.sum() / 4).astype(np.float32)
  return ideal_generator.sample_waves(power, jax.random.key(1), 1)


class TestCheck:
  @pytest.mark.parametrize(
    'view',
    [
      views.View(check='translation', x=0.08, y=-0.11),
      views.View(check='rotation', rotate=25.0),
    ],
  )
  def test_an_ideal_generator_reaches_its_ceiling(self, waves, view):
    inverse = checks.pose_of(view).inverse()
    still, moved = (
      np.asarray(ideal_generator.render(waves, matrix[None], (32, 32)))
      for matrix in (np.eye(3, dtype=np.float32), inverse)
    )
    found = checks.check(view, still, moved)
    assert found.psnr == pytest.approx(found.ceiling, abs=4)
    # An image that does not follow at all has far less.
    stuck = checks.check(view, still, still, has_ceiling=False)
    assert stuck.psnr < found.psnr - 15
    assert stuck.ceiling is None

  def test_nothing_is_in_view_after_a_large_move(self):
    image = np.ones((1, 32, 32, 3), np.float32)
    found = checks.check(views.View(check='translation', x=2.0), image, image)
    assert np.isnan(found.psnr)
    assert np.isnan(found.error_db).all()
    assert (checks.error_picture(found.error_db) == 128).all()

  def test_panes(self, load):
    shown = engine.Engine([load('t')])
    view = views.View(check='translation', x=0.125)
    panes = shown.render(view).panes
    assert [pane.kind for pane in panes] == ['image', 'undone', 'error']
    assert 'an ideal generator has' in panes[2].title
    moving = shown.render(view, moving=True).panes
    assert moving[2].title in panes[2].title
    assert len(shown.render(view, moving=True, extras=False).panes) == 1


def test_features_are_those_of_the_activations(load):
  one = load('t')
  shown = engine.Engine([one])
  view = views.View(layer='L1', channel=1, x=0.25)
  _, features, spectrum = shown.render(view).panes
  ws = one.styles(view)
  (found,) = activations.compute(one.model, ws, ['L1'], one.transform(view))
  x = found['L1'][..., 1:4]
  np.testing.assert_array_equal(
    spectrum.pixels, activations.spectrum_picture(activations.spectrum_db(x))
  )
  assert features.title == 'L1, channels 1 to 3'
  assert features.pixels.shape == (*x.shape[:2], 3)
  bright = x[..., 0] > x[..., 0].mean() + 2 * x[..., 0].std()
  assert (features.pixels[bright][:, 0] == 255).all()
  # A channel beyond the last one is the last one.
  assert shown.render(views.View(layer='L1', channel=999)).panes[1].pixels.any()


def test_two_models_move_together_and_one_cannot(load):
  shown = engine.Engine([load('t'), load('2')])
  rest = shown.render(views.View(), moving=True)
  moved = shown.render(views.View(x=0.25, check='rotation'), moving=True)
  images = [pane for pane in moved.panes if pane.kind == 'image']
  assert (images[0].pixels != rest.panes[0].pixels).any()
  np.testing.assert_array_equal(images[1].pixels, rest.panes[1].pixels)
  assert not rest.notes
  assert [note[:13] for note in moved.notes] == [
    '2 starts from',
    '2 has no erro',
  ]


def test_small_images_of_the_grid_are_kept(load):
  one = load('labels')
  shown = engine.Engine([one])
  view = views.View(label=1, x=0.5, zoom=2.0)
  tile = shown.tile(view, 7, 2)
  expected = shown.render(views.View(column=7, row=2, label=1), moving=True)
  np.testing.assert_array_equal(tile, expected.panes[0].pixels)
  assert shown.tile(views.View(label=1), 7, 2) is tile
  assert shown.tile(views.View(label=2), 7, 2) is not tile


def test_directions_of_another_design_are_left_out(load):
  other = directions.Direction('other', np.ones(99, np.float32), 1.0, (0, 1))
  one = load('t')
  assert not subject.Subject('a', one.model, [other]).directions
  both = engine.Engine([one, subject.Subject('b', one.model)])
  notes = both.render(views.parse({'strengths': [['sefa0', 1]]})).notes
  assert notes == ('b has no direction sefa0.',)


_QUICK = settings.Settings(
  transform='fixed',
  steps=4,
  refine_steps=0,
  candidates=4,
  steps_per_check=2,
  optimize_noise=False,
)


def _photo():
  buffer = io.BytesIO()
  noise = np.random.RandomState(0).randint(0, 256, (20, 30, 3), np.uint8)
  Image.fromarray(noise).save(buffer, 'PNG')
  return buffer.getvalue()


class TestPhotos:
  @pytest.mark.slow
  def test_its_styles_are_shown_and_saved(self, load, tmp_path):
    one = load('t')
    seen = []
    ws, notes = photos.project(
      _photo(), one.model, None,
      lambda *state: seen.append(state) is None, _QUICK,
    )  # fmt: skip
    assert ws.shape == (1, one.model.num_ws, one.model.w_dim)
    assert [step for step, _, _ in seen] == [2, 4]
    assert 'cropped from 30x20' in notes[0]
    shown, view = engine.Engine([one]), views.View(photo=1, x=0.1)
    (saved,) = saving.save(shown, view, tmp_path, photos={1: ws})
    np.testing.assert_array_equal(
      np.asarray(Image.open(saved.path)), _run(saved.command)
    )

  def test_it_can_be_ended(self, load):
    with pytest.raises(photos.CancelledError):
      photos.project(_photo(), load('t').model, None, lambda *_: False, _QUICK)

  @pytest.mark.parametrize(
    'content', [b'', b'GIF89a', b'\x89PNG\r\n\x1a\n' + b'\0' * 40, b'<svg/>']
  )
  def test_damaged_files_are_refused(self, load, content):
    with pytest.raises(ValueError, match=r'^the photograph must be') as error:
      photos.project(content, load('t').model, None, lambda *_: True)
    assert tempfile.gettempdir() not in str(error.value)

  def test_photographs_of_too_many_pixels_are_refused(self, load, monkeypatch):
    monkeypatch.setattr(photos, '_MAX_PIXELS', 500)
    with pytest.raises(ValueError, match='got 30x20'):
      photos.project(_photo(), load('t').model, None, lambda *_: True)
