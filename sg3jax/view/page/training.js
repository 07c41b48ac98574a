// The page of training runs: it asks for their state again and again.

import {find, link, make} from './viewer.js';

const INTERVAL = 4000; // Milliseconds between two looks at the run.
const PLAY = 700; // Milliseconds that each snapshot is shown.
const SVG = 'http://www.w3.org/2000/svg';
const [WIDTH, HEIGHT] = [360, 210];
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 10, 10, 34];

let index = 0;
let state = null;
let shown = '';
let isLast = true; // Whether the newest snapshot is followed.
let timer = 0;

export function showTraining(runs) {
  const select = find('run-choice').querySelector('select');
  select.append(...runs.map((name, i) =>
    make('option', {value: i, textContent: name})));
  find('run-choice').hidden = runs.length < 2;
  select.addEventListener('change', () => {
    index = Number(select.value);
    isLast = true;
    shown = '';
    look();
  });
  find('grid').addEventListener('input', () => {
    stop();
    isLast = Number(find('grid').value) === state.grids.length - 1;
    showGrid();
  });
  find('play').addEventListener('click', () => (timer ? stop() : play()));
  look();
  setInterval(look, INTERVAL);
}

const file = (name, version) => {
  const url = new URL(link(`runs/${index}/${name}`), location.href);
  url.searchParams.set('v', version);
  return url.href;
};

async function look() {
  if (document.hidden) return;
  let answer;
  try {
    answer = await fetch(link(`runs/${index}`));
    if (!answer.ok) throw new Error();
  } catch {
    find('run-progress').textContent = 'The viewer does not answer.';
    return;
  }
  const text = await answer.text();
  if (text === shown) return;
  shown = text;
  state = JSON.parse(text);
  find('run-name').textContent = state.name;
  find('run-progress').textContent = progress();
  showGrids();
  find('charts').replaceChildren(...state.panels.map(chart));
  showLog();
}

function progress() {
  if (state.kimg === null) return 'No tick has been logged yet.';
  const minutes = state.seconds / 60;
  const time = minutes < 90
    ? `${minutes.toFixed(1)} minutes` : `${(minutes / 60).toFixed(1)} hours`;
  const speed = state.seconds_per_kimg;
  return `${format(state.kimg)} kimg after ${time}` +
    (speed ? `, ${format(speed)} s per kimg` : '');
}

function showLog() {
  const pre = find('log').querySelector('pre');
  const isAtEnd = find('log').hidden ||
    pre.scrollHeight - pre.scrollTop - pre.clientHeight < 30;
  pre.textContent = state.log.join('\n');
  find('log').hidden = !state.log.length;
  if (isAtEnd) pre.scrollTop = pre.scrollHeight;
}

// Grids

function showGrids() {
  find('grids').hidden = !state.grids.length && !state.reals && !state.clip;
  for (const name of ['reals', 'clip']) {
    find(name).hidden = !state[name];
    const image = find(name).querySelector('img');
    const url = state[name] ? file(state[name], state.kimg ?? 0) : '';
    if (url && image.src !== url) image.src = url;
  }
  const slider = find('grid');
  slider.max = Math.max(state.grids.length - 1, 0);
  slider.disabled = state.grids.length < 2;
  find('play').disabled = state.grids.length < 2;
  if (isLast) slider.value = slider.max;
  showGrid();
}

function showGrid() {
  const grid = state.grids[Number(find('grid').value)];
  if (!grid) return;
  const image = find('grid-image');
  const url = file(grid.file, 0);
  if (image.src !== url) image.src = url;
  image.alt = `Grid of images generated after ${grid.kimg} kimg`;
  find('grid-kimg').textContent = `${grid.kimg} kimg`;
  find('grid').setAttribute('aria-valuetext', `${grid.kimg} kimg`);
}

function play() {
  const slider = find('grid');
  if (Number(slider.value) === Number(slider.max)) slider.value = 0;
  showGrid();
  timer = setInterval(() => {
    if (Number(slider.value) === Number(slider.max)) {
      stop();
      return;
    }
    slider.value = Number(slider.value) + 1;
    isLast = slider.value === slider.max;
    showGrid();
  }, PLAY);
  find('play').textContent = 'Pause';
  find('play').setAttribute('aria-pressed', 'true');
}

function stop() {
  clearInterval(timer);
  timer = 0;
  find('play').textContent = 'Play';
  find('play').setAttribute('aria-pressed', 'false');
}

// Charts

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function format(x) {
  const size = Math.abs(x);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return x.toExponential(1);
  return String(Number(x.toPrecision(size >= 1000 ? 4 : 3)));
}

/** Returns round numbers between two, about as many as asked for. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}

/** Returns powers of ten, or their 2- and 5-fold too if they are few. */
function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= high; power += 1) {
    for (const factor of high - low < 2 ? [1, 2, 5] : [1]) {
      const value = power + Math.log10(factor);
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

function scaleOf(low, high, begin, end) {
  const range = high - low || 1;
  return (x) => begin + ((x - low) / range) * (end - begin);
}

function chart(panel) {
  const points = panel.lines.flatMap((line) => line.points);
  const figure = make('figure', {className: 'chart'},
    make('h3', {textContent: panel.title}));
  const legend = make('div', {className: 'legend'});
  const spans = panel.lines.map((line, i) =>
    make('span', {className: `c${i % 6}`}));
  legend.append(...spans);
  const tell = (at) => panel.lines.forEach((line, i) => {
    const nearest = line.points.reduce((a, b) =>
      (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a), line.points[0]);
    spans[i].textContent = nearest
      ? `${line.label} ${format(nearest[1])}` : line.label;
  });
  if (!points.length) return figure;
  const last = Math.max(...points.map(([x]) => x));
  tell(last);
  figure.append(legend, plot(panel, points, last, tell));
  return figure;
}

function plot(panel, points, last, tell) {
  const values = points.flatMap(([, y, std = 0]) => [y - std, y + std]);
  const isLog = panel.log && values.every((y) => y > 0);
  const map = isLog ? Math.log10 : (y) => y;
  let low = Math.min(...values.map(map));
  let high = Math.max(...values.map(map));
  if (panel.from_zero && low > 0 && !isLog) low = 0;
  if (low === high) { low -= 1; high += 1; }
  const margin = (high - low) * 0.05;
  if (!(panel.from_zero && low === 0)) low -= margin;
  high += margin;
  const first = Math.min(0, ...points.map(([x]) => x));
  const x = scaleOf(first, last, LEFT, WIDTH - RIGHT);
  const y = scaleOf(low, high, HEIGHT - BOTTOM, TOP);
  const root = svg('svg', {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img',
    'aria-label': `${panel.title}: ${panel.lines.map((line) =>
      `${line.label} ${line.points.length
        ? format(line.points.at(-1)[1]) : 'unknown'}`).join(', ')} at ` +
      `${format(last)} kimg`,
  });
  for (const value of isLog ? logTicks(low, high) : ticks(low, high, 5)) {
    root.append(
      svg('line', {
        class: 'axis', x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value),
      }),
      svg('text', {x: LEFT - 7, y: y(value) + 4, 'text-anchor': 'end'},
        format(isLog ? 10 ** value : value)));
  }
  for (const value of ticks(first, last || 1, 5)) {
    root.append(svg('text',
      {x: x(value), y: HEIGHT - 17, 'text-anchor': 'middle'}, format(value)));
  }
  root.append(svg('text',
    {x: WIDTH - RIGHT, y: HEIGHT - 3, 'text-anchor': 'end'}, 'kimg'));
  root.append(svg('text', {x: 2, y: HEIGHT - 3}, panel.unit));
  panel.lines.forEach((line, i) => {
    const group = svg('g', {class: `c${i % 6}`});
    const path = line.points.map(([a, b], k) =>
      `${k ? 'L' : 'M'}${x(a).toFixed(1)} ${y(map(b)).toFixed(1)}`).join('');
    const edge = (sign) => line.points.map(([a, b, std]) =>
      `${x(a).toFixed(1)} ${y(map(b + sign * std)).toFixed(1)}`);
    if (line.points[0]?.length === 3) {
      const band = [...edge(1), ...edge(-1).reverse()].join('L');
      group.append(svg('path', {class: 'band', d: `M${band}Z`}));
    }
    group.append(svg('path', {class: 'curve', d: path}));
    if (panel.markers) {
      group.append(...line.points.map(([a, b]) =>
        svg('circle', {cx: x(a), cy: y(map(b)), r: 3})));
    }
    root.append(group);
  });
  const cursor = svg('line', {class: 'cursor', y1: TOP, y2: HEIGHT - BOTTOM});
  cursor.style.display = 'none';
  root.append(cursor);
  root.addEventListener('pointermove', (event) => {
    const box = root.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * WIDTH;
    const at = first + ((place - LEFT) / (WIDTH - RIGHT - LEFT)) * (last - first);
    const nearest = points.reduce((a, b) =>
      (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    cursor.setAttribute('x1', x(nearest[0]));
    cursor.setAttribute('x2', x(nearest[0]));
    cursor.style.display = '';
    tell(nearest[0]);
  });
  root.addEventListener('pointerleave', () => {
    cursor.style.display = 'none';
    tell(last);
  });
  return root;
}
