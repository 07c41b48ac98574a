"""From a folder of photographs to a video, by commands alone."""

import json
import pathlib
import zipfile

import in_process
import numpy as np
import pytest
import tiny_run
from PIL import Image

from sg3jax import editing
from sg3jax import model as model_lib
from sg3jax.cli import data, directions, generate, project, train, video
from sg3jax.editing import direction_files
from sg3jax.editing import ws as ws_lib
from sg3jax.eval.plots import grids

_SIDE = 16  # That of the configuration.
_SHAPES = {'plain': (24, 20), 'alpha': (20, 20), 'grey': (20, 30)}


def _run(command, *args):
  """Returns what a command prints, which must succeed."""
  status, out = in_process.run(command, *args)
  assert status in (0, None), status
  return out


def _photos(folder: pathlib.Path) -> pathlib.Path:
  """Writes photographs as people have them, and one damaged file."""
  folder.mkdir()
  rng = np.random.RandomState(0)

  def photo(height, width):
    coarse = Image.fromarray(rng.randint(0, 256, (5, 5, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)

  for name, mode in (('plain', 'RGB'), ('alpha', 'RGBA'), ('grey', 'L')):
    photo(*_SHAPES[name]).convert(mode).save(folder / f'{name}.png')
  photo(20, 28).quantize(16).save(folder / 'palette.png')
  exif = Image.Exif()
  exif[0x0112] = 6  # A quarter turn.
  photo(20, 32).save(folder / 'turned.jpg', exif=exif)
  contents = (folder / 'plain.png').read_bytes()
  (folder / 'damaged.png').write_bytes(contents[: len(contents) // 2])
  return folder


def _prepare(photos: pathlib.Path, dest: pathlib.Path) -> None:
  out = _run(
    data, 'prepare', f'--source={photos}', f'--dest={dest}', '--channels=3',
    f'--resolution={_SIDE}', '--transform=center-crop', '--on_error=skip',
    '--workers=1', '--json',
  )  # fmt: skip
  report = json.loads(out)
  assert (report['images'], report['resolution']) == (5, _SIDE)
  assert [name for name, _ in report['skipped']] == ['damaged.png']
  with zipfile.ZipFile(dest) as archive:
    names = [name for name in archive.namelist() if name.endswith('.png')]
    assert len(names) == 5
    for name in names:
      with archive.open(name) as file, Image.open(file) as image:
        assert (image.mode, image.size) == ('RGB', (_SIDE, _SIDE))


def _train(dataset: pathlib.Path, workdir: pathlib.Path) -> None:
  out = _run(
    train, f'--config={tiny_run.__file__}', f'--config.data.source={dataset}',
    f'--workdir={workdir}', '--config.train.total_kimg=0.008',
  )  # fmt: skip
  assert out.endswith('Done: 0.008 kimg\n')
  rows = (workdir / 'stats.jsonl').read_text().splitlines()
  assert json.loads(rows[-1])['Progress/kimg']['mean'] == pytest.approx(0.008)


def _project(
  network: pathlib.Path, photo: pathlib.Path, outdir: pathlib.Path
) -> ws_lib.Styles:
  out = _run(
    project, f'--network={network}', f'--target={photo}', f'--outdir={outdir}',
    '--loss=pyramid', '--steps=4', '--refine_steps=4', '--candidates=4',
  )  # fmt: skip
  (row,) = (json.loads(line) for line in out.splitlines())
  summary = json.loads((outdir / 'projection.json').read_text())
  assert [found['name'] for found in summary['images']] == [photo.stem]
  assert row['loss'] <= row['loss_of_mean']
  assert Image.open(outdir / f'{photo.stem}.png').size == (3 * _SIDE, _SIDE)
  assert Image.open(outdir / f'{photo.stem}_projected.png').size == (
    _SIDE,
    _SIDE,
  )
  model = model_lib.load_model(network)
  return ws_lib.read(outdir / 'w.npz', model.num_ws, model.w_dim)


def _frames(path: pathlib.Path) -> np.ndarray:
  """Decodes a video of 4 frames per second."""
  import av

  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    assert (stream.codec_context.name, stream.average_rate) == ('h264', 4)
    assert float(stream.duration * stream.time_base) == pytest.approx(2)
    return np.stack(
      [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
    ).astype(int)


@pytest.mark.slow
def test_from_photographs_to_a_video(tmp_path):
  pytest.importorskip('av')
  photos, network = _photos(tmp_path / 'photos'), tmp_path / 'run'
  _prepare(photos, tmp_path / 'photos.zip')
  _train(tmp_path / 'photos.zip', network)
  projected, edits = tmp_path / 'projected', tmp_path / 'edits'
  styles = _project(network, photos / 'turned.jpg', projected)
  assert styles.w.shape == (1, 4, 8)

  _run(
    directions, f'--network={network}', f'--outdir={edits}', '--count=2',
    '--num_styles=1000', '--name=smile=1',
  )  # fmt: skip
  found, _ = direction_files.read(edits)
  assert [direction.name for direction in found] == ['sefa0', 'smile']
  assert Image.open(edits / direction_files.SHEET).size == (7 * 16, 2 * 16)

  load = [f'--network={network}', f'--load_w={projected / "w.npz"}']
  edit = [f'--directions={edits}', '--direction=smile:3']
  pictures = {}
  for name, options in {'plain': [], 'edited': edit}.items():
    out = _run(generate, *load, *options, f'--outdir={tmp_path / name}')
    assert out.split() == [str(tmp_path / name / 'w0000.png')]
    pictures[name] = np.asarray(Image.open(out.strip())).astype(int)
  model = model_lib.load_model(network)
  moved = editing.apply(styles.w, [(found[1], 3.0)])
  for name, w in (('plain', styles.w), ('edited', moved)):
    expected = grids.to_uint8(model.synthesis(w))[0].astype(int)
    # Batches of another size may round otherwise.
    assert np.abs(pictures[name] - expected).max() <= 1
  assert np.any(pictures['plain'] != pictures['edited'])

  path = tmp_path / 'camera.json'
  path.write_text(json.dumps([{'time': 0}, {'time': 1, 'rotate': 90}]))
  output = tmp_path / 'video.mp4'
  out = _run(
    video, *load, *edit, f'--camera={path}', f'--output={output}', '--fps=4',
    '--w_frames=8',
  )  # fmt: skip
  assert out.split() == [str(output)]
  frames = _frames(output)
  assert frames.shape == (8, _SIDE, _SIDE, 3)
  # The codec halves the resolution of colours.
  assert np.abs(frames[0] - pictures['edited']).mean() < 12
  # The camera rests once it has turned.
  assert np.abs(frames[4] - frames[7]).mean() < 3
  assert np.abs(frames[0] - frames[7]).mean() > 3
