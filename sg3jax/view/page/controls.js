// The controls beside the images: each one changes the view and follows it.

import {
  change, clamp, find, link, make, onChange, round, send, setStatus, view,
} from './viewer.js';

const COLUMNS = 100; // Of the grid of seeds.
const ROWS = Math.floor(2 ** 32 / COLUMNS);
const CELLS = 4.4; // Small images across the map.
const MAX_TILES = 3000;

let about = null;

/** Builds the controls that the models have, and returns what feeds them. */
export function buildControls(described) {
  about = described;
  const first = about.models[0];
  const aside = document.querySelector('.controls');
  aside.append(
    seedSection(),
    truncationSection(),
    ...(first.directions.length ? [directionSection(first)] : []),
    mixSection(),
    ...(about.models.some((x) => x.moves) ? [positionSection()] : []),
    ...(about.models.some((x) => x.moves) ? [inspectSection()] : []),
    ...(about.models.some((x) => x.noise) ? [noiseSection()] : []),
    photoSection(),
  );
  find('save').addEventListener('click', () =>
    send(JSON.stringify({type: 'save', view})));
  return {hear, addTile, showCommands, forget};
}

// Parts of sections

function section(title, ...children) {
  return make('section', {}, make('h2', {textContent: title}), ...children);
}

function folded(title, isOpen, ...children) {
  return make('details', {open: isOpen},
    make('summary', {textContent: title}), ...children);
}

let labels = 0;

/** Returns a row with a slider and a number that are the same value. */
function slider(text, {low, high, step, low2 = low, high2 = high}, get, set) {
  labels += 1;
  const id = `control-${labels}`;
  const range = make('input',
    {type: 'range', id, min: low, max: high, step});
  const entry = make('input', {
    type: 'number', min: low2, max: high2, step: 'any', 'aria-label': text,
  });
  range.addEventListener('input', () => set(Number(range.value)));
  entry.addEventListener('change', () => {
    const value = Number(entry.value);
    if (entry.value !== '' && Number.isFinite(value)) {
      set(clamp(value, low2, high2));
    }
    follow();
  });
  const follow = () => {
    range.value = get();
    if (document.activeElement !== entry) entry.value = get();
  };
  onChange(follow);
  follow();
  return make('div', {className: 'row'},
    make('label', {htmlFor: id, textContent: text, title: text}), range, entry);
}

/** Returns a row with a choice among [value, text] pairs. */
function choice(text, options, get, set) {
  labels += 1;
  const id = `control-${labels}`;
  const select = make('select', {id}, ...options.map(([value, shown]) =>
    make('option', {value, textContent: shown})));
  select.addEventListener('change', () => set(select.value));
  onChange(() => { select.value = get(); });
  select.value = get();
  return make('div', {className: 'row'},
    make('label', {htmlFor: id, textContent: text}), select);
}

function seedEntry(text, get, set) {
  labels += 1;
  const id = `control-${labels}`;
  const entry = make('input', {
    type: 'number', id, className: 'seed', min: 0, max: 2 ** 32 - 1, step: 1,
  });
  const random = make('button', {type: 'button', textContent: 'Random'});
  const last = COLUMNS * ROWS - 1;
  entry.addEventListener('change', () => {
    const value = Math.round(Number(entry.value));
    if (entry.value !== '' && Number.isFinite(value)) {
      set(clamp(value, 0, last));
    }
  });
  random.addEventListener('click', () =>
    set(Math.floor(Math.random() * 100000)));
  const follow = () => {
    const value = get();
    if (document.activeElement === entry && value === null) return;
    entry.value = value ?? '';
    entry.placeholder = view.photo ? 'photograph' : 'between';
  };
  onChange(follow);
  follow();
  return make('div', {className: 'row'},
    make('label', {htmlFor: id, textContent: text}), entry, random);
}

// The grid of seeds

const tiles = new Map();
let map = null;
let drawing = false;

const tileKey = () =>
  JSON.stringify([view.psi, view.towards, view.label,
    view.strengths.filter(([, s]) => s)]);

function forget() {
  tiles.clear();
}

function addTile({key, place}, bitmap) {
  while (tiles.size >= MAX_TILES) {
    const [oldest] = tiles.keys();
    tiles.get(oldest).close();
    tiles.delete(oldest);
  }
  tiles.set(`${JSON.stringify(key)}@${place}`, bitmap);
  drawMapSoon();
}

function drawMapSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; drawMap(); });
}

function drawMap() {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(map.clientWidth * scale);
  const height = Math.round(map.clientHeight * scale);
  if (map.width !== width) map.width = width;
  if (map.height !== height) map.height = height;
  const context = map.getContext('2d');
  context.clearRect(0, 0, width, height);
  const cell = width / CELLS;
  const gap = 3 * scale;
  const key = tileKey();
  const style = getComputedStyle(document.body);
  const rows = Math.ceil(height / cell / 2) + 1;
  const columns = Math.ceil(CELLS / 2) + 1;
  for (let j = -rows; j <= rows; j += 1) {
    for (let i = -columns; i <= columns; i += 1) {
      const column = Math.round(view.column) + i;
      const row = Math.round(view.row) + j;
      const bitmap = tiles.get(
        `${key}@${wrap(column, COLUMNS)},${wrap(row, ROWS)}`);
      const x = width / 2 + (column - view.column - 0.5) * cell + gap / 2;
      const y = height / 2 + (row - view.row - 0.5) * cell + gap / 2;
      if (bitmap) {
        context.drawImage(bitmap, x, y, cell - gap, cell - gap);
      } else {
        context.fillStyle = style.getPropertyValue('--line');
        context.globalAlpha = 0.5;
        context.fillRect(x, y, cell - gap, cell - gap);
        context.globalAlpha = 1;
      }
    }
  }
  ring(context, width / 2, height / 2, scale);
}

function ring(context, x, y, scale) {
  for (const [colour, width] of [['rgb(0 0 0 / 55%)', 5], ['#fff', 2.5]]) {
    context.beginPath();
    context.arc(x, y, 8 * scale, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.lineWidth = width * scale;
    context.stroke();
  }
}

// The grid has no borders: the first column follows the last one.
const wrap = (x, count) => ((x % count) + count) % count;

function goTo(column, row) {
  change({
    column: wrap(round(column, 2), COLUMNS),
    row: wrap(round(row, 2), ROWS),
    photo: 0,
  });
}

function seedSection() {
  map = make('canvas', {
    id: 'map', tabIndex: 0, role: 'application',
    'aria-label': 'Grid of seeds: arrow keys walk, Enter goes to the next seed',
  });
  let before = null;
  let isClick = false;
  const near = (x) => (Math.abs(x - Math.round(x)) < 0.1 ? Math.round(x) : x);
  map.addEventListener('pointerdown', (event) => {
    if (event.button) return;
    map.setPointerCapture(event.pointerId);
    before = [event.clientX, event.clientY];
    isClick = true;
    map.classList.add('dragging');
  });
  map.addEventListener('pointermove', (event) => {
    if (!before) return;
    const x = event.clientX - before[0];
    const y = event.clientY - before[1];
    if (isClick && Math.hypot(x, y) < 4) return;
    isClick = false;
    before = [event.clientX, event.clientY];
    const cell = map.clientWidth / CELLS;
    goTo(view.column - x / cell, view.row - y / cell);
  });
  for (const name of ['pointerup', 'pointercancel']) {
    map.addEventListener(name, (event) => {
      if (!before) return;
      before = null;
      map.classList.remove('dragging');
      if (name === 'pointerup' && isClick) {
        const box = map.getBoundingClientRect();
        const cell = box.width / CELLS;
        goTo(
          Math.round(view.column +
            (event.clientX - box.left - box.width / 2) / cell),
          Math.round(view.row +
            (event.clientY - box.top - box.height / 2) / cell));
      } else {
        goTo(near(view.column), near(view.row));
      }
    });
  }
  map.addEventListener('keydown', (event) => {
    const step = event.shiftKey ? 1 : 0.1;
    const moves = {
      ArrowLeft: [-step, 0], ArrowRight: [step, 0],
      ArrowUp: [0, -step], ArrowDown: [0, step],
    };
    if (event.key === 'Enter') {
      goTo(Math.floor(view.column) + 1, Math.round(view.row));
    } else if (moves[event.key]) {
      goTo(view.column + moves[event.key][0], view.row + moves[event.key][1]);
    } else {
      return;
    }
    event.preventDefault();
  });
  onChange(drawMapSoon);
  new ResizeObserver(drawMapSoon).observe(map);
  matchMedia('(prefers-color-scheme: dark)')
    .addEventListener('change', drawMapSoon);
  const seed = () =>
    (Number.isInteger(view.column) && Number.isInteger(view.row) && !view.photo
      ? COLUMNS * view.row + view.column : null);
  return section('Seeds', map,
    seedEntry('Seed', seed, (value) =>
      goTo(value % COLUMNS, Math.floor(value / COLUMNS))),
    make('p', {
      className: 'help',
      textContent: 'Drag to walk between seeds, click one to go to it.',
    }));
}

// Styles

function truncationSection() {
  const classes = about.models.map((x) => x.classes)
    .reduce((a, b) => (a.length >= b.length ? a : b));
  const parts = [slider('ψ', {
    low: -1, high: 1.5, step: 0.01, low2: -100, high2: 100,
  }, () => view.psi, (psi) => change({psi}))];
  if (classes.length) {
    parts.unshift(choice('Class',
      classes.map((name, i) => [i, name === String(i) ? name : `${i} ${name}`]),
      () => view.label, (label) => change({label: Number(label)})));
    parts.push(choice('towards',
      [['global', 'the mean of all images'], ['class', 'the mean of the class']],
      () => view.towards, (towards) => change({towards})));
  }
  return section(classes.length ? 'Class and truncation' : 'Truncation', ...parts);
}

function directionSection(model) {
  const strength = (name) =>
    view.strengths.find(([x]) => x === name)?.[1] ?? 0;
  const rows = model.directions.map((name) =>
    slider(name, {low: -5, high: 5, step: 0.1, low2: -20, high2: 20},
      () => strength(name), (value) => change({
        strengths: [
          ...view.strengths.filter(([x]) => x !== name),
          ...(value ? [[name, value]] : []),
        ].sort((a, b) => (a[0] < b[0] ? -1 : 1)),
      })));
  const reset = make('button', {type: 'button', textContent: 'Reset directions'});
  reset.addEventListener('click', () => change({strengths: []}));
  return folded('Directions', true, ...rows,
    make('div', {className: 'row'}, reset));
}

function mixSection() {
  const count = Math.min(...about.models.map((x) => x.styles));
  const range = (a, b) => Array.from({length: b - a}, (_, i) => a + i);
  const part = (i) => Math.round((i * count) / 3);
  const groups = ['Coarse', 'Middle', 'Fine'].map((name, i) =>
    [name, range(part(i), part(i + 1))]);
  const has = (layers) => layers.every((x) => view.mix_layers.includes(x));
  const toggle = (layers) => {
    const others = view.mix_layers.filter((x) => !layers.includes(x));
    const next = has(layers) ? others : [...others, ...layers];
    change({mix_layers: next.sort((a, b) => a - b)});
  };
  const chip = (text, layers, label) => {
    const button = make('button', {
      type: 'button', textContent: text, 'aria-label': label,
      'aria-pressed': 'false',
    });
    button.addEventListener('click', () => toggle(layers));
    onChange(() => button.setAttribute('aria-pressed', has(layers)));
    return button;
  };
  return folded('Mix styles', true,
    seedEntry('With seed', () => view.mix_seed,
      (mix_seed) => change({mix_seed})),
    make('div', {className: 'chips', role: 'group', 'aria-label': 'Groups'},
      ...groups.map(([name, layers]) => chip(name, layers, `${name} styles`))),
    make('div', {className: 'chips', role: 'group', 'aria-label': 'Styles'},
      ...range(0, count).map((i) => chip(String(i), [i], `Style ${i}`))),
    make('p', {
      className: 'help',
      textContent: 'The chosen styles come from the second seed. Style 0 of ' +
        'an alias-free generator moves its input.',
    }));
}

function positionSection() {
  return folded('Position', false,
    slider('Right', {low: -1, high: 1, step: 0.005, low2: -10, high2: 10},
      () => view.x, (x) => change({x})),
    slider('Down', {low: -1, high: 1, step: 0.005, low2: -10, high2: 10},
      () => view.y, (y) => change({y})),
    slider('Turn', {low: -180, high: 180, step: 0.5},
      () => view.rotate, (rotate) => change({rotate})),
    slider('Zoom', {low: 0.25, high: 4, step: 0.01, low2: 0.01, high2: 100},
      () => view.zoom, (zoom) => change({zoom})));
}

function inspectSection() {
  const layers = [...new Set(about.models.flatMap((x) => x.layers))];
  return folded('Inspect', false,
    choice('Layer', [['', 'none'], ...layers.map((x) => [x, x])],
      () => view.layer, (layer) => change({layer})),
    slider('Channel', {low: 0, high: 96, step: 3, high2: 10000},
      () => view.channel, (x) => change({channel: Math.round(x)})),
    choice('Equivariance', [
      ['', 'off'],
      ['translation', 'error of the translation'],
      ['rotation', 'error of the rotation'],
    ], () => view.check, (check) => change({check})),
    make('p', {
      className: 'help',
      textContent: 'Three channels as red, green and blue, and their power ' +
        'spectrum. For the error, the image is moved back and compared.',
    }));
}

function noiseSection() {
  return section('Noise',
    choice('Inputs', [
      ['const', 'stored'], ['random', 'random'], ['none', 'none'],
    ], () => view.noise, (noise) => change({noise})));
}

// Photographs

let photoRow = null;

function photoSection() {
  const input = make('input', {
    type: 'file', accept: 'image/*', id: 'photo-file',
  });
  const drop = make('div', {className: 'drop'}, 'Drop a photograph here, or ',
    make('label', {htmlFor: 'photo-file', textContent: 'choose a file'}), input);
  photoRow = make('div', {className: 'row', hidden: true});
  const choose = (files) => {
    if (!files.length) return;
    if (files[0].size > about.max_photo) {
      say(`The photograph must have at most ${about.max_photo / 2 ** 20} MiB.`);
      return;
    }
    send(files[0]);
  };
  input.addEventListener('change', () => {
    choose(input.files);
    input.value = '';
  });
  for (const name of ['dragenter', 'dragover']) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.add('over');
    });
  }
  for (const name of ['dragleave', 'drop']) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.remove('over');
      if (name === 'drop') choose(event.dataTransfer.files);
    });
  }
  return folded('Photograph', true, drop, photoRow,
    make('p', {
      className: 'help',
      textContent: 'Finds the styles that generate it, in a few hundred ' +
        'steps. The photograph does not leave this viewer\'s machine.',
    }));
}

function showProgress({step, steps, psnr}) {
  const bar = make('progress', {'aria-label': 'Projection'});
  if (steps) {
    bar.max = steps;
    bar.value = step;
  }
  const cancel = make('button', {type: 'button', textContent: 'Cancel'});
  cancel.addEventListener('click', () => send('{"type": "cancel"}'));
  const text = psnr === null ? 'starting' : `${psnr.toFixed(1)} dB`;
  photoRow.replaceChildren(bar, make('span', {textContent: text}), cancel);
  photoRow.hidden = false;
}

// Messages

function say(text) {
  find('notes').replaceChildren(
    make('li', {className: 'bad', textContent: text}));
}

function hear(message) {
  switch (message.type) {
    case 'error':
      photoRow.hidden = true;
      say(message.text);
      break;
    case 'saved':
      showSaved(message.files);
      break;
    case 'projecting':
      showProgress(message);
      break;
    case 'cancelled':
      photoRow.hidden = true;
      break;
    case 'projected':
      photoRow.hidden = true;
      change({photo: message.photo, mix_layers: []});
      break;
    default:
      setStatus('lost', 'The page is of another version: reload it.');
  }
}

function command(text) {
  const button = make('button', {type: 'button', textContent: 'Copy'});
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      button.textContent = 'Select it';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
  return make('div', {className: 'command'},
    make('code', {textContent: text, tabIndex: 0}), button);
}

let saved = false;

function showSaved(files) {
  saved = true;
  find('commands').replaceChildren(...files.flatMap((file) => [
    make('p', {}, 'Saved ',
      make('a', {
        href: link(`saved/${file.name}`), download: file.name,
        textContent: file.path,
      }), '. This command makes the same picture:'),
    command(file.command),
  ]));
}

function showCommands(commands) {
  if (commands === null) {
    saved = false;
    return;
  }
  if (saved) return; // Until the view changes.
  if (commands.length) {
    find('commands').replaceChildren(...commands.map(command));
  } else {
    find('commands').replaceChildren(make('p', {
      textContent: 'Save writes the styles of this image, too, and shows the ' +
        'command that makes it.',
    }));
  }
}
