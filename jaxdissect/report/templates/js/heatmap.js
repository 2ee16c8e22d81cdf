// A heatmap on a canvas: pointer or arrow keys choose a cell, whose sentence is shown; click or Enter opens it.
const LABELLED = 80; // rows or columns whose names are written

// options: {rows, columns: names; value(r, c); colour(value); describe(r, c); open(r, c); marked(r, c); label; square}
function heatmap(options) {
  const {rows, columns} = options;
  const canvas = el('canvas', {
    tabindex: 0,
    role: 'application',
    'aria-roledescription': 'heatmap',
    'aria-label': `${options.label}. Arrow keys move, Enter opens.`,
  });
  const box = el('div', {class: 'heat'}, canvas);
  const readout = el('p', {class: 'readout muted'}, 'Point at a cell, or move with the arrow keys.');
  const cells = document.createElement('canvas');
  let at = null;
  let size = {};

  function measure() {
    const pen = canvas.getContext('2d');
    pen.font = '12px system-ui, sans-serif';
    const widest = (names) =>
      Math.min(170, Math.max(0, ...names.map((name) => pen.measureText(short(name)).width)) + 8);
    const left = rows.length <= LABELLED ? widest(rows) : 4;
    const below = columns.length <= LABELLED ? widest(columns) : 4;
    const room = Math.max(240, (box.clientWidth || 900) - 20) - left;
    const least = columns.length <= LABELLED ? 13 : 2;
    const tall = options.square === false ? Infinity : Math.floor((0.85 * window.innerHeight - below - 24) / rows.length);
    const wide = Math.max(least, Math.min(options.most || 30, Math.floor(room / columns.length), tall));
    const high =
      options.square === false
        ? Math.max(rows.length <= LABELLED ? 19 : 2, Math.min(26, wide))
        : Math.max(wide, rows.length <= LABELLED ? 13 : 2);
    return {left, below, wide, high};
  }

  // The cells are drawn once, on a canvas of their own: pointing at one then only adds its outline.
  function draw() {
    size = measure();
    const {left, below, wide, high} = size;
    const ratio = window.devicePixelRatio || 1;
    const width = left + wide * columns.length + 2;
    const height = high * rows.length + below + 2;
    for (const drawing of [canvas, cells]) {
      drawing.width = Math.ceil(width * ratio);
      drawing.height = Math.ceil(height * ratio);
    }
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = cells.getContext('2d');
    pen.scale(ratio, ratio);
    const none = token('--none');
    const gap = wide > 8 ? 1 : 0;
    for (let r = 0; r < rows.length; r += 1) {
      for (let c = 0; c < columns.length; c += 1) {
        const value = finite(options.value(r, c));
        pen.fillStyle = value === null ? none : options.colour(value);
        pen.fillRect(left + c * wide, r * high, wide - gap, high - gap);
        if (options.marked && options.marked(r, c)) {
          mark(pen, left + (c + 0.5) * wide - gap / 2, (r + 0.5) * high - gap / 2, Math.min(3.5, wide / 3));
        }
      }
    }
    names(pen);
    paint();
  }

  function paint() {
    const pen = canvas.getContext('2d');
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(cells, 0, 0);
    const ratio = window.devicePixelRatio || 1;
    pen.scale(ratio, ratio);
    if (at) outline(pen);
  }

  function mark(pen, x, y, radius) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fillStyle = '#fff';
    pen.fill();
    pen.lineWidth = 1;
    pen.strokeStyle = '#000';
    pen.stroke();
  }

  function names(pen) {
    const {left, wide, high} = size;
    pen.font = '12px system-ui, sans-serif';
    pen.fillStyle = token('--text');
    pen.textBaseline = 'middle';
    pen.textAlign = 'right';
    if (rows.length <= LABELLED)
      rows.forEach((name, r) => pen.fillText(short(name), left - 6, (r + 0.5) * high, left - 6));
    if (columns.length > LABELLED) return;
    columns.forEach((name, c) => {
      pen.save();
      pen.translate(left + (c + 0.5) * wide, rows.length * high + 6);
      pen.rotate(-Math.PI / 2);
      pen.fillText(short(name), 0, 0, size.below);
      pen.restore();
    });
  }

  function outline(pen) {
    const {left, wide, high} = size;
    pen.lineWidth = 2;
    pen.strokeStyle = token('--text');
    pen.strokeRect(left + at[1] * wide - 1, at[0] * high - 1, wide + 1, high + 1);
  }

  function go(r, c, aloud) {
    at = [Math.min(rows.length - 1, Math.max(0, r)), Math.min(columns.length - 1, Math.max(0, c))];
    paint();
    readout.textContent = options.describe(...at);
    if (aloud) announce(readout.textContent);
  }

  function under(event) {
    const rect = canvas.getBoundingClientRect();
    const c = Math.floor((event.clientX - rect.left - size.left) / size.wide);
    const r = Math.floor((event.clientY - rect.top) / size.high);
    return r >= 0 && c >= 0 && r < rows.length && c < columns.length ? [r, c] : null;
  }

  canvas.addEventListener('pointermove', (event) => {
    const cell = under(event);
    if (cell && (!at || cell[0] !== at[0] || cell[1] !== at[1])) go(...cell);
  });
  canvas.addEventListener('click', (event) => {
    const cell = under(event);
    if (cell) {
      go(...cell);
      if (options.open) options.open(...cell);
    }
  });
  canvas.addEventListener('keydown', (event) => {
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (move) {
      const [r, c] = at || [0, -1];
      go(r + move[0], c + move[1], true);
      event.preventDefault();
    }
    if (event.key === 'Enter' && at && options.open) options.open(...at);
  });
  canvas.addEventListener('focus', () => {
    if (!at) go(0, 0, true);
  });
  whenShown(draw);
  return el('div', {}, box, readout);
}
