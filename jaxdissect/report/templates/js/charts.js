// Small charts as SVG, drawn at the width of their place, so that text keeps its size.
const WIDEST = 760; // pixels

function sized(make) {
  const box = el('div', {class: 'sized'});
  const draw = () => box.replaceChildren(make(Math.max(260, Math.min(WIDEST, box.clientWidth || WIDEST))));
  whenShown(draw);
  return box;
}

function picture(width, height, label, ...parts) {
  return svg(
    'svg',
    {class: 'chart', width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label},
    parts,
  );
}

// Horizontal bars; items: {name, value, own, href}; limit: a line across.
function bars(items, options = {}) {
  return sized((width) => barPicture(items, options, width));
}

function barPicture(items, options, width) {
  const high = 24,
    left = width < 500 ? 120 : 170,
    right = 60;
  const most = options.most || Math.max(1e-9, options.limit || 0, ...items.map((item) => item.value));
  const x = (value) => left + ((width - left - right) * value) / most;
  const lines = items.map((item, place) => {
    const y = place * high;
    const name = svg(
      'text',
      {x: left - 8, y: y + 16, 'text-anchor': 'end'},
      svg('title', {}, item.name),
      short(item.name, width < 500 ? 15 : 22),
    );
    return svg(
      'g',
      {},
      item.href ? svg('a', {href: item.href, 'aria-label': `${item.name}: ${options.format(item.value)}`}, name) : name,
      svg('rect', {
        x: left,
        y: y + 3,
        width: Math.max(0, x(item.value) - left),
        height: high - 6,
        rx: 2,
        class: item.own ? 'own' : 'rest',
      }),
      svg('text', {x: x(item.value) + 6, y: y + 16, class: 'quiet-text'}, options.format(item.value)),
    );
  });
  const limit =
    finite(options.limit) !== null &&
    svg('line', {x1: x(options.limit), x2: x(options.limit), y1: 0, y2: items.length * high, class: 'limit'});
  return picture(width, items.length * high + 4, options.label, limit, lines);
}

// Columns of one or two series over the same places.
function columnsChart(series, options) {
  return sized((width) => columnPicture(series, options, width));
}

function columnPicture(series, options, width) {
  const high = 220,
    left = 44,
    below = 40;
  const most = Math.max(1e-9, ...series.flat());
  const places = series[0].length;
  const step = (width - left) / places;
  const y = (value) => 18 + (high - below - 18) * (1 - value / most);
  const bodies = series.map((values, s) =>
    values.map((value, place) =>
      svg(
        'rect',
        {
          x: left + place * step + step * (0.1 + (s * 0.8) / series.length),
          width: Math.max(0.5, (step * 0.8) / series.length),
          y: y(value),
          height: Math.max(0, y(0) - y(value)),
          class: s ? 'second' : 'own',
        },
        svg('title', {}, `${options.place(place)}: ${options.format(value)}`),
      ),
    ),
  );
  const every = Math.ceil(places / Math.min(12, width / 50));
  const ticks = [...Array(places).keys()]
    .filter((place) => place % every === 0)
    .map((place) =>
      svg(
        'text',
        {x: left + (place + 0.5) * step, y: high - 22, 'text-anchor': 'middle', class: 'quiet-text'},
        options.place(place),
      ),
    );
  const labels =
    series.length === 1 &&
    step > 24 &&
    series[0].map((value, place) =>
      svg('text', {x: left + (place + 0.5) * step, y: y(value) - 5, 'text-anchor': 'middle'}, options.format(value)),
    );
  return picture(
    width,
    high,
    options.label,
    scaleLines([0, most / 2, most], y, left, width, options.format),
    bodies,
    labels,
    ticks,
    svg('text', {x: (left + width) / 2, y: high - 3, 'text-anchor': 'middle', class: 'quiet-text'}, options.axis),
  );
}

// Lines across at some values, which stand beside them.
function scaleLines(values, y, left, width, format) {
  return values.map((value) => [
    svg('line', {x1: left, x2: width, y1: y(value), y2: y(value), class: 'grid'}),
    svg('text', {x: left - 6, y: y(value) + 4, 'text-anchor': 'end', class: 'quiet-text'}, format(value)),
  ]);
}

// Places as the points of an SVG line.
const joined = (places) => places.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(' ');

// Fractions over places from 0, with their deviations as a band.
function lineChart(values, deviations, options) {
  return sized((width) => linePicture(values, deviations, options, width));
}

function linePicture(values, deviations, options, width) {
  const high = 220,
    left = 50,
    below = 40,
    right = 14;
  const edge = (sign) => values.map((value, place) => Math.max(0, Math.min(1, value + sign * deviations[place])));
  const [upper, lower] = [edge(1), edge(-1)];
  const most = Math.max(...upper),
    least = Math.min(...lower);
  const x = (place) => left + 10 + ((width - left - 10 - right) * place) / Math.max(1, values.length - 1);
  const y = (value) => 18 + ((high - below - 18) * (most - value)) / (most - least || 1);
  const places = (line) => line.map((value, place) => [x(place), y(value)]);
  const every = Math.ceil(values.length / Math.min(13, width / 50));
  return picture(
    width,
    high,
    options.label,
    scaleLines([...new Set([least, (least + most) / 2, most])], y, left, width, options.format),
    svg('polygon', {class: 'band', points: joined([...places(upper), ...places(lower).reverse()])}),
    svg('polyline', {class: 'line', points: joined(places(values))}),
    values.map((value, place) => [
      svg(
        'circle',
        {cx: x(place), cy: y(value), r: 4, class: 'dot'},
        svg('title', {}, `${options.place(place)}: ${options.format(value)}`),
      ),
      place % every === 0 &&
        svg('text', {x: x(place), y: high - 22, 'text-anchor': 'middle', class: 'quiet-text'}, String(place)),
    ]),
    svg('text', {x: (left + width) / 2, y: high - 3, 'text-anchor': 'middle', class: 'quiet-text'}, options.axis),
  );
}

// Change against gain, with the controls' mean and deviation behind; points: {x, y, mean, sd, low, high}.
function doseChart(points, label) {
  return sized((width) => dosePicture(points, label, Math.min(width, 380)));
}

function dosePicture(points, label, width) {
  const high = 220,
    left = 46,
    below = 36,
    right = 12;
  const values = points
    .flatMap((point) => [point.y, point.low, point.high, point.mean - point.sd, point.mean + point.sd, 0])
    .filter((value) => finite(value) !== null);
  const low = Math.min(...values),
    most = Math.max(...values),
    span = most - low || 1;
  const from = Math.min(...points.map((point) => point.x)),
    to = Math.max(...points.map((point) => point.x));
  const x = (value) => left + ((width - left - right) * (value - from)) / (to - from || 1);
  const y = (value) => 8 + ((high - below - 8) * (most - value)) / span;
  const path = points
    .map((point, place) => `${place ? 'L' : 'M'}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`)
    .join('');
  const withControls = points.filter((point) => finite(point.mean) !== null && finite(point.sd) !== null);
  const edge = (sign) =>
    withControls.map((point) => `${x(point.x).toFixed(1)},${y(point.mean + sign * point.sd).toFixed(1)}`);
  return picture(
    width,
    high,
    label,
    withControls.length > 1 && svg('polygon', {class: 'band', points: [...edge(1), ...edge(-1).reverse()].join(' ')}),
    svg('line', {x1: left, x2: width - right, y1: y(0), y2: y(0), class: 'zero'}),
    svg('path', {d: path, class: 'line'}),
    points.map((point) => [
      finite(point.low) !== null &&
        finite(point.high) !== null &&
        svg('line', {x1: x(point.x), x2: x(point.x), y1: y(point.low), y2: y(point.high), class: 'zero'}),
      svg(
        'circle',
        {cx: x(point.x), cy: y(point.y), r: 4, class: 'dot'},
        svg('title', {}, `gain ${point.x}: ${signed(point.y)} logits`),
      ),
      svg('text', {x: x(point.x), y: high - 18, 'text-anchor': 'middle', class: 'quiet-text'}, String(point.x)),
    ]),
    [most, low].map((value) =>
      svg('text', {x: left - 6, y: y(value) + 4, 'text-anchor': 'end', class: 'quiet-text'}, fixed(value)),
    ),
    svg('text', {x: (left + width) / 2, y: high - 2, 'text-anchor': 'middle', class: 'quiet-text'}, 'gain'),
  );
}
