// Small charts as SVG.

// Horizontal bars; items: {name, value, own, href}; limit: a line across.
function bars(items, options = {}) {
  const high = 22, left = 150, width = 640, right = 60;
  const most = options.most || Math.max(1e-9, options.limit || 0, ...items.map((item) => item.value));
  const x = (value) => left + (width - left - right) * value / most;
  const lines = items.map((item, place) => {
    const y = place * high;
    const name = svg('text', {x: left - 8, y: y + 15, 'text-anchor': 'end'}, svg('title', {}, item.name), short(item.name, 20));
    return svg('g', {},
      item.href ? svg('a', {href: item.href, 'aria-label': `${item.name}: ${options.format(item.value)}`}, name) : name,
      svg('rect', {x: left, y: y + 3, width: Math.max(0, x(item.value) - left), height: high - 6, rx: 2, class: item.own ? 'own' : 'rest'}),
      svg('text', {x: x(item.value) + 6, y: y + 15, class: 'quiet-text'}, options.format(item.value)));
  });
  const limit = finite(options.limit) !== null && svg('line', {x1: x(options.limit), x2: x(options.limit), y1: 0, y2: items.length * high, class: 'limit'});
  return svg('svg', {class: 'chart', viewBox: `0 0 ${width} ${items.length * high + 4}`, role: 'img', 'aria-label': options.label}, lines, limit);
}

// Columns of one or two series over the same places.
function columnsChart(series, options) {
  const width = 640, high = 190, left = 44, below = 34;
  const most = Math.max(1e-9, ...series.flat());
  const places = series[0].length;
  const step = (width - left) / places;
  const y = (value) => (high - below) * (1 - value / most) + 6;
  const bodies = series.map((values, s) => values.map((value, place) => svg('rect', {
    x: left + place * step + step * (0.1 + s * 0.8 / series.length), width: Math.max(0.5, step * 0.8 / series.length),
    y: y(value), height: Math.max(0, y(0) - y(value)), class: s ? 'second' : 'own',
  }, svg('title', {}, `${options.place(place)}: ${options.format(value)}`))));
  const every = Math.ceil(places / 12);
  const ticks = [...Array(places).keys()].filter((place) => place % every === 0).map((place) =>
    svg('text', {x: left + (place + 0.5) * step, y: high - 14, 'text-anchor': 'middle', class: 'quiet-text'}, options.place(place)));
  return svg('svg', {class: 'chart', viewBox: `0 0 ${width} ${high}`, role: 'img', 'aria-label': options.label},
    svg('line', {x1: left, x2: width, y1: y(0), y2: y(0), class: 'grid'}),
    svg('text', {x: left - 6, y: y(most) + 8, 'text-anchor': 'end', class: 'quiet-text'}, options.format(most)),
    svg('text', {x: left - 6, y: y(0) + 2, 'text-anchor': 'end', class: 'quiet-text'}, '0'),
    bodies, ticks, svg('text', {x: width / 2, y: high, 'text-anchor': 'middle', class: 'quiet-text'}, options.axis));
}

// Change against gain, with the controls' mean and deviation behind; points: {x, y, mean, sd, low, high}.
function doseChart(points, label) {
  const width = 340, high = 220, left = 46, below = 36, right = 12;
  const values = points.flatMap((point) => [point.y, point.low, point.high, point.mean - point.sd, point.mean + point.sd, 0])
    .filter((value) => finite(value) !== null);
  const low = Math.min(...values), most = Math.max(...values), span = most - low || 1;
  const from = Math.min(...points.map((point) => point.x)), to = Math.max(...points.map((point) => point.x));
  const x = (value) => left + (width - left - right) * (value - from) / (to - from || 1);
  const y = (value) => 8 + (high - below - 8) * (most - value) / span;
  const path = points.map((point, place) => `${place ? 'L' : 'M'}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`).join('');
  const withControls = points.filter((point) => finite(point.mean) !== null && finite(point.sd) !== null);
  const edge = (sign) => withControls.map((point) => `${x(point.x).toFixed(1)},${y(point.mean + sign * point.sd).toFixed(1)}`);
  return svg('svg', {class: 'chart', viewBox: `0 0 ${width} ${high}`, role: 'img', 'aria-label': label},
    withControls.length > 1 && svg('polygon', {class: 'band', points: [...edge(1), ...edge(-1).reverse()].join(' ')}),
    svg('line', {x1: left, x2: width - right, y1: y(0), y2: y(0), class: 'zero'}),
    svg('path', {d: path, class: 'line'}),
    points.map((point) => [
      finite(point.low) !== null && finite(point.high) !== null && svg('line', {x1: x(point.x), x2: x(point.x), y1: y(point.low), y2: y(point.high), class: 'zero'}),
      svg('circle', {cx: x(point.x), cy: y(point.y), r: 4, class: 'dot'}, svg('title', {}, `gain ${point.x}: ${signed(point.y)} logits`)),
      svg('text', {x: x(point.x), y: high - 18, 'text-anchor': 'middle', class: 'quiet-text'}, String(point.x))]),
    [most, low].map((value) => svg('text', {x: left - 6, y: y(value) + 4, 'text-anchor': 'end', class: 'quiet-text'}, fixed(value))),
    svg('text', {x: (left + width) / 2, y: high - 2, 'text-anchor': 'middle', class: 'quiet-text'}, 'gain'));
}
