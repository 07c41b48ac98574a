"""The registry of metrics: names, refusals, and what metrics share."""

import functools

import numpy as np
import pytest

from sg3jax import launch
from sg3jax.data import labels as labels_lib
from sg3jax.eval import image_generator
from sg3jax.eval.metrics import base
from sg3jax.train import config as config_lib


def _measure(context):
  return base.Measurement({}, 0)


def _another(context):
  return base.Measurement({}, 0)


_ABOUT = {'title': 'New', 'unit': '', 'higher_is_better': True}


@pytest.fixture
def new():
  """Registers the metric `new`, for one test."""
  yield base.register('new', **_ABOUT)
  base.unregister('new')


@pytest.mark.parametrize(
  'asked',
  [None, '', 'none', 'None', ' NONE ', (), [], ('none',), ('None',), ('',)],
)
def test_nothing_and_none_mean_no_metric(asked):
  assert base.parse_names(asked) == ()


@pytest.mark.parametrize(
  ('asked', 'names'),
  [
    ('swd', ('swd',)),
    ('swd,eqt', ('swd', 'eqt')),
    ('eqt50k_int,eqr50k,eqt50k_frac,eqt', ('eqt', 'eqr', 'eqt_frac')),
    ('pr50k3_full,is50k,pr50k3_full_precision', ('pr50k3_full', 'is50k')),
    (('swd,eqt',), ('swd', 'eqt')),
    (['swd ', ' eqt', ''], ('swd', 'eqt')),
    (('eqr', 'swd', 'eqr'), ('eqr', 'swd')),
    (('swd,eqr', 'swd'), ('swd', 'eqr')),
    # The official names, which are those of the values.
    ('eqt50k_int,eqt50k_frac', ('eqt', 'eqt_frac')),
    (['eqr50k', 'eqr'], ('eqr',)),
  ],
)
def test_names_come_in_order_and_once(asked, names):
  assert base.parse_names(asked) == names


@pytest.mark.parametrize(
  ('value', 'names'),
  [
    ('none', ()),
    (None, ()),
    ('', ()),
    (['none'], ()),
    ((), ()),
    ('swd,eqt', ('swd', 'eqt')),
    (('eqt',), ('eqt',)),
  ],
)
def test_a_configuration_may_say_so_in_words(value, names):
  # The commonest value that users give, in a file as on a command line.
  config = config_lib.default_config()
  config.log.metrics = value
  assert launch.metric_names(config) == names
  config.update({'log': {'metrics': value}})
  assert launch.metric_names(config.copy_and_resolve_references()) == names


@pytest.mark.parametrize(
  ('asked', 'message'),
  [
    ('eqq', r'among eqt, eqt_frac, eqr, eqr_hq.*got eqq: did you mean eq'),
    (('swd', 'eqt-frac'), r'got eqt-frac: did you mean eqt_frac\?'),
    ('EQT', r'got EQT: did you mean eqt\?'),
    ('perplexity', 'got perplexity$'),
    ('none,swd', 'or none alone, got none'),
  ],
)
def test_unknown_names_are_refused_with_the_nearest(asked, message):
  with pytest.raises(ValueError, match=message):
    base.parse_names(asked)


def test_values_are_found_by_their_names():
  assert base.find_value('eqt50k_int').name == 'eqt'
  assert base.find_value('eqr64').label('eqr64') == 'EQ-R'
  assert base.find_value('swd_32').label('swd_32') == 'level of 32 pixels'
  assert base.find_value('fid50k_full').name == 'fid50k_full'
  assert base.find_value('fid10k') is None
  assert base.value_of('eqr50k').higher_is_better
  assert not base.value_of('swd').higher_is_better


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('eqt', r"got 'eqt': did you mean eqt50k_int\?"),
    # Values of files that a run does not hand on.
    ('eqr64', r"got 'eqr64': did you mean eqr50k\?"),
    ('swd_16', r"got 'swd_16': did you mean swd\?"),
    ('eqt50k_in', r"got 'eqt50k_in': did you mean eqt50k_int\?"),
    ('loss', r"value that a metric yields.*\(eqt50k_int, .*got 'loss'$"),
  ],
)
def test_only_values_of_metrics_can_rank(name, message):
  with pytest.raises(ValueError, match=message):
    base.value_of(name)


def test_the_order_is_that_of_the_modules():
  own = [name for name in base.registry() if name != 'new']
  assert own == [
    'eqt', 'eqt_frac', 'eqr', 'eqr_hq', 'eqs', 'eqsa',
    'rfd', 'fid50k_full', 'fid50k', 'fd_dinov2', 'rfd_per_class',
    'fid_per_class', 'is50k',
    'rkd', 'kid50k_full', 'kid50k', 'cmmd', 'eq_layers',
    'rprecision', 'rrecall', 'rdensity', 'rcoverage', 'pr50k3_full', 'pr50k3',
    'pr50k3_inception',
    'ppl2_wend', 'ppl_zfull', 'ppl_wfull', 'ppl_zend', 'ppl_wend',
    'd_shift', 'swd', 'spectral',
  ]  # fmt: skip


def test_a_name_is_taken_once(new):
  new(_measure)
  assert 'new' in base.registry()
  new(_measure)  # The same file again.
  with pytest.raises(ValueError, match='must be new, got new, which'):
    new(_another)
  with pytest.raises(ValueError, match='must be new'):
    new(functools.partial(_another, None))


def test_needs_are_known_ones():
  with pytest.raises(
    ValueError,
    match='among discriminator, generator, labels, reals, transforms, got',
  ):
    base.register('new', needs=['real'], **_ABOUT)


class _Images(image_generator.ImageGenerator):
  """Counts what is generated; images are as bright as their latents' order."""

  def __init__(self, label_dim=0):
    self.generator = self
    self.z_dim, self.label_dim = 2, label_dim
    self.calls, self.seen_labels = [], []

  def styles(self, variables, z, c):
    self.seen_labels.append(c)
    return z

  def synthesize(self, variables, ws):
    self.calls.append(len(ws))
    scaled = np.clip(ws[:, :1] * 20 + 128, 0, 255)
    return scaled.astype(np.uint8).reshape(-1, 1, 1, 1)


def _context(images, **options):
  options = {'metrics': (), 'num_samples': 8, 'seed': 3} | options
  return base.Context(images, {}, **options)


class TestContext:
  def test_images_are_generated_once_and_fewer_begin_more(self):
    images = _Images()
    context = _context(images)
    four, eight = context.fakes(4), context.fakes(8)
    np.testing.assert_array_equal(eight[:4], four)
    np.testing.assert_array_equal(context.fakes(6), eight[:6])
    assert images.calls == [4, 4]
    np.testing.assert_array_equal(_context(_Images()).fakes(8), eight)

  def test_labels_are_sampled_from_those_of_the_reals(self):
    images = _Images(label_dim=3)
    labels = labels_lib.Labels(np.array([0, 2]), 3)
    context = _context(images, labels=labels)
    first = _context(images, labels=labels)
    context.fakes(8)
    first.fakes(2)
    whole, begin = images.seen_labels
    assert {tuple(row) for row in whole} == {(1, 0, 0), (0, 0, 1)}
    np.testing.assert_array_equal(begin, whole[:2])
    with pytest.raises(ValueError, match='needs the labels of real images'):
      _context(images).fakes(2)

  def test_shared_and_kept_results_are_made_once(self):
    made, kept = [], {}

    def make(context):
      made.append(context)
      return len(made)

    first = _context(_Images(), kept=kept)
    second = _context(_Images(), kept=kept)
    assert [first.shared(make), first.shared(make)] == [1, 1]
    assert second.shared(make) == 2
    assert [first.kept(make), second.kept(make)] == [3, 3]
