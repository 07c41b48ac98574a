// The page's connection, its state, and the images that are moved by dragging.

import {buildControls} from './controls.js';
import {showTraining} from './training.js';

const MIN_INTERVAL = 16; // Milliseconds between views that are sent.
const SETTLE = 160; // Milliseconds without a change after which a view rests.
const MAX_SHIFT = 10;
const MAX_ZOOM = 100;

const token = new URLSearchParams(location.search).get('token');
export const link = (path) =>
  token ? `${path}?token=${encodeURIComponent(token)}` : path;
export const find = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') {
      element.setAttribute(name, value);
    } else {
      element[name] = value;
    }
  }
  element.append(...children);
  return element;
}

export const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
export const round = (x, digits) => Number(x.toFixed(digits));

// What is shown: see `View` in sg3jax/view/views.py.
export const view = {
  column: 0, row: 0, psi: 1, towards: 'global', label: 0,
  mix_seed: 1, mix_layers: [], noise: 'const',
  x: 0, y: 0, rotate: 0, zoom: 1,
  layer: '', channel: 0, check: '', strengths: [], photo: 0,
};

const listeners = [];
export const onChange = (listener) => listeners.push(listener);

let socket = null;
let number = 0;
let dirty = false;
let moving = false;
let settle = 0;
let lastSent = 0;
let about = null;
let controls = null;
const sentAt = new Map();

/** Changes what is shown, and asks for its image. */
export function change(fields) {
  Object.assign(view, fields);
  moving = true;
  clearTimeout(settle);
  settle = setTimeout(() => {
    moving = false;
    dirty = true;
    requestAnimationFrame(sendView);
  }, SETTLE);
  ask();
}

function ask() {
  for (const listener of listeners) listener();
  if (!dirty) requestAnimationFrame(sendView);
  dirty = true;
}

function sendView() {
  if (!dirty || socket?.readyState !== WebSocket.OPEN) return;
  const now = performance.now();
  // The server keeps only the newest view: do not queue more than it can read.
  if (now - lastSent < MIN_INTERVAL || socket.bufferedAmount > 4096) {
    requestAnimationFrame(sendView);
    return;
  }
  dirty = false;
  lastSent = now;
  number += 1;
  sentAt.set(number, now);
  find('speed').dataset.asked = number;
  socket.send(JSON.stringify({type: 'view', number, moving, view}));
}

export function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(message);
}

// Frames

let frames = Promise.resolve();
const times = [];

function receive(event) {
  if (typeof event.data === 'string') {
    controls.hear(JSON.parse(event.data));
    return;
  }
  // One after the other, so that an older frame is never drawn last.
  frames = frames.then(() => unpack(event.data)).catch((error) => {
    setStatus('lost', `This page has an error: ${error.message}`);
  });
}

async function unpack(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(
    new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const begin = 4 + length;
  if (header.type === 'tile') {
    const blob = new Blob([new Uint8Array(data, begin)], {type: 'image/jpeg'});
    controls.addTile(header, await createImageBitmap(blob));
    return;
  }
  let first = begin;
  const bitmaps = await Promise.all(header.panes.map((pane) => {
    const blob = new Blob(
      [new Uint8Array(data, first, pane.bytes)], {type: pane.media});
    first += pane.bytes;
    return createImageBitmap(blob);
  }));
  show(header, bitmaps);
  send(JSON.stringify({type: 'shown', number: header.number}));
}

function show(header, bitmaps) {
  const details = new Map(
    [...find('details').children].map((x) => [x.dataset.pane, x]));
  header.panes.forEach((pane, i) => {
    if (pane.kind === 'image') {
      draw(find('models').children[pane.subject].querySelector('canvas'),
        bitmaps[i], pane);
      return;
    }
    const key = `${pane.kind}${pane.subject}`;
    const figure = details.get(key) ?? addDetail(key, pane);
    details.delete(key);
    figure.classList.remove('stale');
    draw(figure.querySelector('canvas'), bitmaps[i], pane);
    const several = about.models.length > 1;
    figure.querySelector('figcaption').textContent =
      (several ? `${about.models[pane.subject].name}: ` : '') + pane.title;
  });
  for (const figure of details.values()) {
    // While the view moves, they may be left out: they come when it rests.
    if (header.extras) figure.remove();
    else figure.classList.add('stale');
  }
  find('notes').replaceChildren(...header.notes.map((note) =>
    make('li', {textContent: note})));
  if (header.commands) controls.showCommands(header.commands);
  else controls.showCommands(null);
  count(header);
}

function draw(canvas, bitmap, pane) {
  // Moving images may have fewer pixels: the canvas keeps those of the model.
  if (canvas.width !== pane.width || canvas.height !== pane.height) {
    canvas.width = pane.width;
    canvas.height = pane.height;
  }
  canvas.getContext('2d').drawImage(bitmap, 0, 0, pane.width, pane.height);
  bitmap.close();
}

function addDetail(key, pane) {
  const figure = make('figure', {}, make('canvas', {role: 'img'}),
    make('figcaption'));
  if (pane.kind === 'error' || pane.kind === 'spectrum') {
    const isError = pane.kind === 'error';
    figure.append(
      make('div', {className: isError ? 'scale' : 'scale viridis'}),
      make('div', {className: 'ends'},
        make('span', {textContent: isError ? '−80 dB' : '−50 dB'}),
        make('span', {textContent: isError ? '0 dB' : '+50 dB'})));
  }
  figure.dataset.pane = key;
  const order = ['undone', 'error', 'features', 'spectrum'];
  const place = (x) => Number(x.dataset.pane.at(-1)) * 10 +
    order.indexOf(x.dataset.pane.slice(0, -1));
  const next = [...find('details').children]
    .find((x) => place(x) > place(figure));
  find('details').insertBefore(figure, next ?? null);
  return figure;
}

function count(header) {
  const now = performance.now();
  const latency = now - (sentAt.get(header.number) ?? now);
  for (const sent of sentAt.keys()) {
    if (sent <= header.number) sentAt.delete(sent);
  }
  times.push(now);
  while (times[0] < now - 1000) times.shift();
  const speed = find('speed');
  speed.dataset.latency = latency.toFixed(1);
  speed.dataset.frames = Number(speed.dataset.frames ?? 0) + 1;
  speed.dataset.shown = header.number;
  speed.dataset.resting = header.moving ? '' : '1';
  speed.dataset.extras = header.extras ? '1' : '';
  if (header.moving && times.length > 4) {
    speed.textContent = `${times.length} frames/s, ${latency.toFixed(0)} ms`;
  }
  setStatus('ready', 'Ready');
}

// The connection

export function setStatus(state, text) {
  const status = find('status');
  if (status.textContent !== text) status.textContent = text;
  status.dataset.state = state;
}

function connect() {
  const url = new URL(link('socket'), location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  socket = new WebSocket(url);
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => {
    controls.forget();
    setStatus('busy', 'Compiling the first image');
    ask();
    sendView();
  };
  socket.onmessage = receive;
  socket.onclose = (event) => {
    setStatus('lost', event.reason
      ? `Disconnected: ${event.reason}`
      : 'Disconnected: is the viewer still running?');
    setTimeout(connect, 2000);
  };
}

// Moving the image

function addModel(model, i, several) {
  const canvas = make('canvas', {
    tabIndex: 0, width: model.resolution, height: model.resolution,
    role: 'application',
    'aria-label': model.moves
      ? `Image of ${model.name}: arrow keys move it, plus and minus zoom, ` +
        'brackets turn it, 0 resets it'
      : `Image of ${model.name}, which cannot be moved`,
  });
  canvas.classList.toggle('fixed', !model.moves);
  const caption = make('figcaption', {textContent: several ? model.name : ''});
  caption.hidden = !several;
  find('models').append(make('figure', {}, caption, canvas));
  canvas.addEventListener('keydown', pressKey);
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    zoomBy(Math.exp(-clamp(event.deltaY, -200, 200) * 0.0015));
  }, {passive: false});
  followPointers(canvas);
}

const zoomBy = (factor) => change(
  {zoom: round(clamp(view.zoom * factor, 1 / MAX_ZOOM, MAX_ZOOM), 4)});
const turnBy = (degrees) => change(
  {rotate: round(((view.rotate + degrees + 540) % 360) - 180, 2)});
const moveBy = (x, y) => change({
  x: round(clamp(view.x + x, -MAX_SHIFT, MAX_SHIFT), 4),
  y: round(clamp(view.y + y, -MAX_SHIFT, MAX_SHIFT), 4),
});

export const resetPose = () => change({x: 0, y: 0, rotate: 0, zoom: 1});

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = event.shiftKey ? 0.1 : 0.02;
  const actions = {
    ArrowLeft: () => moveBy(-step, 0), ArrowRight: () => moveBy(step, 0),
    ArrowUp: () => moveBy(0, -step), ArrowDown: () => moveBy(0, step),
    '+': () => zoomBy(1.05), '=': () => zoomBy(1.05), '-': () => zoomBy(1 / 1.05),
    '[': () => turnBy(5), ']': () => turnBy(-5), 0: resetPose,
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}

function followPointers(canvas) {
  const pointers = new Map();
  const centre = () => {
    const box = canvas.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const angle = ([x0, y0], [x1, y1]) =>
    (Math.atan2(y1 - y0, x1 - x0) * 180) / Math.PI;
  canvas.addEventListener('pointerdown', (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    canvas.classList.add('dragging');
  });
  canvas.addEventListener('pointermove', (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    pointers.set(event.pointerId, now);
    const width = canvas.getBoundingClientRect().width;
    const [x, y] = [now[0] - before[0], now[1] - before[1]];
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const length = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]);
      zoomBy(length(now) / Math.max(length(before), 1));
      turnBy(angle(other, before) - angle(other, now));
      moveBy(x / width / 2, y / width / 2);
    } else if (event.shiftKey) {
      turnBy(angle(centre(), before) - angle(centre(), now));
    } else {
      moveBy(x / width, y / width);
    }
  });
  for (const name of ['pointerup', 'pointercancel']) {
    canvas.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      if (!pointers.size) canvas.classList.remove('dragging');
    });
  }
}

// The page

function choosePage(name) {
  for (const page of ['explore', 'training']) {
    find(page).hidden = page !== name;
    const tab = find(`tab-${page}`);
    tab.setAttribute('aria-selected', page === name);
    tab.tabIndex = page === name ? 0 : -1;
  }
  find('speed').hidden = name !== 'explore';
  const log = find('log').querySelector('pre');
  if (name === 'training') log.scrollTop = log.scrollHeight;
}

function addTabs() {
  document.querySelector('.tabs').hidden = false;
  for (const page of ['explore', 'training']) {
    const tab = find(`tab-${page}`);
    tab.addEventListener('click', () => choosePage(page));
    tab.addEventListener('keydown', (event) => {
      if (!event.key.startsWith('Arrow')) return;
      const other = page === 'explore' ? 'training' : 'explore';
      choosePage(other);
      find(`tab-${other}`).focus();
    });
  }
}

async function start() {
  const answer = await fetch(link('about'));
  if (!answer.ok) throw new Error(await answer.text());
  about = await answer.json();
  document.title = [...new Set(
    [...about.models.map((x) => x.name), ...about.runs])].join(', ') + ' · sg3jax';
  if (about.runs.length) showTraining(about.runs);
  if (!about.models.length) {
    setStatus('ready', 'Ready');
    choosePage('training');
    return;
  }
  if (about.runs.length) addTabs();
  const several = about.models.length > 1;
  find('models').classList.toggle('pair', several);
  about.models.forEach((model, i) => addModel(model, i, several));
  find('reset').addEventListener('click', resetPose);
  find('pixels').addEventListener('change', (event) =>
    document.body.classList.toggle('pixels', event.target.checked));
  controls = buildControls(about);
  choosePage('explore');
  connect();
}

start().catch((error) => setStatus('lost', error.message));
