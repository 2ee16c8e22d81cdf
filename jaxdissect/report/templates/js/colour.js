// Colours of even lightness steps, computed in OKLCH (Björn Ottosson, 2020), which can be distinguished without hue.
const darkTheme = window.matchMedia('(prefers-color-scheme: dark)');
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function channel(linear) {
  const kept = Math.min(1, Math.max(0, linear));
  return Math.round(255 * (kept <= 0.0031308 ? 12.92 * kept : 1.055 * kept ** (1 / 2.4) - 0.055));
}

function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    channel(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    channel(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    channel(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}

const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

// 0 to 1: from violet over blue-green to yellow; the strongest is the farthest from the page's own lightness.
function sequential(fraction) {
  const t = Math.min(1, Math.max(0, fraction));
  const along = darkTheme.matches ? t : 1 - t;
  return css(oklch(0.3 + 0.62 * along, 0.11 + 0.05 * Math.sin(Math.PI * along), 305 - 200 * along));
}

// -1 to 1: blue, the page's grey, orange.
function diverging(fraction) {
  const t = Math.min(1, Math.max(-1, fraction));
  const size = Math.abs(t) ** 0.8;
  const dark = darkTheme.matches;
  const lightness = dark ? 0.27 + 0.5 * size : 0.95 - 0.45 * size;
  return css(oklch(lightness, 0.15 * size, t < 0 ? 250 : 55));
}

// A strip with the meaning of colours.
function colourKey(colour, low, high, title) {
  const canvas = el('canvas', {width: 120, height: 12, 'aria-hidden': 'true'});
  const pen = canvas.getContext('2d');
  for (let x = 0; x < 120; x += 1) {
    pen.fillStyle = colour(x / 119);
    pen.fillRect(x, 0, 1, 12);
  }
  return el('span', {class: 'key'}, title, ' ', low, canvas, high);
}
