r"""Prepares, inspects and verifies datasets.

    sg3jax data prepare --source=photos --dest=photos-256.zip \
        --resolution=256x256 --transform=center-crop
    sg3jax data inspect --source=photos --sheet=photos.png
    sg3jax data verify --source=photos-256.zip

`prepare` reads folders, zip, tar (WebDataset) and Parquet files, ArrayRecord
folders, TensorFlow datasets, CIFAR-10 and MNIST. It writes a zip file in the
layout of the official tool, or a folder of ArrayRecord files. If it is
interrupted, the same command continues. `inspect` reads the same sources and
changes nothing. `verify` decodes all images of a dataset that training reads,
and its status is 1 if anything is wrong.
"""

import json
import sys

from absl import flags

from sg3jax import text
from sg3jax.cli import common
from sg3jax.data import report
from sg3jax.data.prepare import inspection, run, verification
from sg3jax.data.prepare import options as options_lib
from sg3jax.train import preemption

_SOURCE = flags.DEFINE_string(
  'source', None, 'The images: a path, or tfds:NAME[:SPLIT][@DATA_DIR].'
)
_DEST = flags.DEFINE(
  common.PATH,
  'dest',
  None,
  'Output of prepare, which must not exist yet: a path that ends in .zip or '
  '.array_record.',
)
_RESOLUTION = flags.DEFINE_string(
  'resolution',
  None,
  'Size to resize to, WIDTHxHEIGHT or SIDE; by default, images keep theirs.',
)
_TRANSFORM = flags.DEFINE_enum(
  'transform',
  'none',
  list(options_lib.TRANSFORMS),
  'What to crop before resizing; see docs/data.md.',
)
_FILTER = flags.DEFINE_enum(
  'filter', 'lanczos', list(options_lib.FILTERS), 'Filter for resizing.'
)
_CHANNELS = flags.DEFINE_enum(
  'channels',
  None,
  ['1', '3', '4'],
  'Channels of the results: 1 (grey), 3 (RGB) or 4 (RGBA); by default, those '
  'of the first image, which the others must have too.',
)
_DEPTH16 = flags.DEFINE_enum(
  'depth16',
  'refuse',
  list(options_lib.DEPTHS),
  'What to do with images of 16 bits per channel; reduce keeps the 8 highest.',
)
_MATTE = flags.DEFINE_integer(
  'matte',
  255,
  'Grey level behind transparent pixels that become opaque.',
  lower_bound=0,
  upper_bound=255,
)
_CROP = flags.DEFINE_float(
  'crop', 0.8, 'Side of random crops, as a fraction of the shorter side.'
)
_CROP_SEED = flags.DEFINE_integer('crop_seed', 0, 'Seed of random crops.')
_LABELS = flags.DEFINE_string(
  'labels',
  'auto',
  'auto (those of the source), none, folders (one class per subfolder), or a '
  '.csv or .json file.',
)
_MAX_IMAGES = flags.DEFINE_integer(
  'max_images', None, 'Number of images to read, from the first.', lower_bound=1
)
flags.DEFINE_alias('max-images', 'max_images')
_ON_ERROR = flags.DEFINE_enum(
  'on_error',
  'stop',
  list(run.ON_ERROR),
  'Whether to stop at images that cannot be used, or to skip and report them.',
)
_WORKERS = flags.DEFINE_integer(
  'workers',
  None,
  'Number of processes; by default, one for each CPU core.',
  lower_bound=1,
)
_SHARD_IMAGES = flags.DEFINE_integer(
  'shard_images', 1000, 'Images per ArrayRecord file.', lower_bound=1
)
_SHEET = flags.DEFINE(
  common.PATH,
  'sheet',
  None,
  'PNG file for small copies of images, which inspect writes.',
)
_JSON = flags.DEFINE_bool('json', False, 'Print the result as one JSON object.')

_COMMON = ('source', 'workers', 'json')
_FLAGS = {
  'prepare': (
    *_COMMON,
    *('dest', 'resolution', 'transform', 'filter', 'channels', 'depth16'),
    *('matte', 'crop', 'crop_seed', 'labels', 'max_images', 'max-images'),
    *('on_error', 'shard_images'),
  ),
  'inspect': (*_COMMON, 'labels', 'max_images', 'max-images', 'sheet'),
  'verify': _COMMON,
}
_MOST_SKIPPED = 10  # Names that the output shows.


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and runs the action that the first argument names."""
  program, *args = sys.argv if argv is None else argv
  actions = {'prepare': _prepare, 'inspect': _inspect, 'verify': _verify}
  name = args[0] if args else ''
  if name in actions:
    common.run(actions[name], [f'{program} {name}', *args[1:]])
  else:  # An unknown action, or options such as --help.
    common.run(_no_action, [program, *args], optional=None)


def _no_action(name: str = '', *_: str) -> None:
  common.check_action(name, list(_FLAGS))


def _check_flags(action: str) -> None:
  """Refuses flags of other actions, which would be silently ignored."""
  for name in sorted({name for names in _FLAGS.values() for name in names}):
    if flags.FLAGS[name].present and name not in _FLAGS[action]:
      owners = [other for other, names in _FLAGS.items() if name in names]
      raise ValueError(
        f'--{name} must be used with {" or ".join(owners)}, got {action}: '
        'leave it out'
      )


def _prepare() -> None:
  _check_flags('prepare')
  source, dest = common.require(_SOURCE), common.require(_DEST)
  width, height = options_lib.parse_resolution(_RESOLUTION.value)
  options = options_lib.Options(
    width=width,
    height=height,
    transform=_TRANSFORM.value,
    filter=_FILTER.value,
    channels=int(_CHANNELS.value) if _CHANNELS.value else None,
    depth16=_DEPTH16.value,
    background=_MATTE.value,
    crop=_CROP.value,
    seed=_CROP_SEED.value,
  )
  meaning = 'prepare stores what it has and stops'
  with preemption.stop_on_signals(meaning) as stop:
    result = run.prepare(
      source,
      dest,
      options,
      labels=_LABELS.value,
      max_images=_MAX_IMAGES.value,
      on_error=_ON_ERROR.value,
      workers=_WORKERS.value,
      shard_images=_SHARD_IMAGES.value,
      log=common.say,
      should_stop=lambda: stop.signal is not None,
    )
  if result is None:
    print('Stopped: run the same command again to resume')
    sys.exit(preemption.EXIT_CODE)
  _print_prepared(result, dest)


def _print_prepared(result: run.Report, dest: str) -> None:
  if _JSON.value:
    print(
      json.dumps(
        {
          'dest': dest,
          'images': result.images,
          'resolution': result.side,
          'channels': result.channels,
          'notes': result.notes,
          'skipped': result.skipped,
        }
      )
    )
    return
  for note in result.notes:
    print(f'note          {note}')
  for name, reason in result.skipped[:_MOST_SKIPPED]:
    print(f'skipped       {report.printable(name)}: {reason}')
  if result.skipped:
    number = report.count(len(result.skipped), 'image')
    print(
      f'skipped       {number} in all, which leave gaps in the numbers of the '
      'others; preparation.json in the result lists them'
    )
  speed = f' at {result.rate:.1f} per second' if result.rate else ''
  print(
    f'written       {dest}: {report.count(result.images, "image")} of '
    f'{result.side}x{result.side} pixels, '
    f'{text.counted(result.channels, "channel")}{speed}'
  )


def _inspect() -> None:
  _check_flags('inspect')
  found = inspection.inspect(
    common.require(_SOURCE),
    labels=_LABELS.value,
    max_images=_MAX_IMAGES.value,
    sheet=_SHEET.value,
    workers=_WORKERS.value,
  )
  if _JSON.value:
    print(json.dumps(found))
    return
  print('\n'.join(inspection.summary(found)))
  if _SHEET.value:
    print(f'written       {_SHEET.value}')


def _verify() -> None:
  _check_flags('verify')
  source = common.require(_SOURCE)
  verdict = verification.verify(source, _WORKERS.value)
  if _JSON.value:
    contents = {'images': verdict.images, 'faults': verdict.faults}
    print(json.dumps(contents | {'facts': verdict.facts}))
  else:
    for fact in verdict.facts:
      print(f'verified      {fact}')
  sys.stdout.flush()
  if verdict.faults:
    lines = '\n'.join(f'  {fault}' for fault in verdict.faults)
    number = report.count(len(verdict.faults), 'fault')
    sys.exit(f'error: {source} has {number}:\n{lines}')
