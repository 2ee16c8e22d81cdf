// Elements are made of text and attributes only: no string ever becomes markup.
const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const link = (href, text, attributes) => el('a', {href, ...attributes}, text);

function short(text, most = 28) {
  const letters = [...text];
  return letters.length <= most ? text : `${letters.slice(0, most - 1).join('')}…`;
}

function number(value, digits = 3) {
  value = finite(value);
  if (value === null) return '–';
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString('en').replace('-', '−');
  const size = Math.abs(value);
  const text = size >= 1e5 || (size < 1e-3 && size > 0) ? value.toExponential(1) : value.toPrecision(digits);
  return text.replace('e+', 'e').replace(/-/g, '−');
}

const plain = (value) => String(Number(value.toPrecision(3)));
const fixed = (value, places = 2) => (finite(value) === null ? '–' : value.toFixed(places).replace('-', '−'));
const percent = (value, places = 0) => (finite(value) === null ? '–' : `${(100 * value).toFixed(places)}%`);
const signed = (value, places = 2) => (finite(value) !== null && value > 0 ? '+' : '') + fixed(value, places);
const chance = (value) => (finite(value) === null ? '–' : value < 0.001 ? '< 0.001' : number(value, 2));
const level = (letter, value) => `${letter} ${chance(value).startsWith('<') ? '' : '= '}${chance(value)}`;
const many = (count, noun, plural = `${noun}s`) => `${number(count)} ${count === 1 ? noun : plural}`;

function facts(entries) {
  return el(
    'dl',
    {class: 'facts'},
    entries
      .filter(Boolean)
      .map(([name, value, meaning]) =>
        el('div', {}, el('dt', {}, name), el('dd', {}, el('b', {}, value), meaning && el('span', {}, meaning))),
      ),
  );
}

function chips(list, most = 24) {
  const shown = list.slice(0, most).map((c) => el('li', {}, link(classHref(c), className(c))));
  const rest = list.length - shown.length;
  return el('ul', {class: 'chips'}, shown, rest > 0 && el('li', {}, `and ${rest} more`));
}

const note = (text, command) => el('p', {class: 'note', role: 'note'}, `${text} `, command && el('code', {}, command));

// Cautions about a part of the page.
const cautions = (part) => DATA.cautions[part].map((sentence) => note(sentence));

function announce(text) {
  document.getElementById('status').textContent = text;
}

// A menu of names, where there are several; `change` gets the place of the chosen name.
function chooser(title, names, chosen, change) {
  if (names.length < 2) return null;
  const select = el(
    'select',
    {
      onchange: () => {
        change(Number(select.value));
        const redrawn = document.querySelector('#view select');
        if (redrawn) redrawn.focus();
      },
    },
    names.map((name, place) => el('option', {value: place, selected: place === chosen}, short(name, 60))),
  );
  return el('label', {}, `${title} `, select);
}

const setChooser = (chosen, sets, change) =>
  chooser(
    'Label set',
    sets.map((set) => SETS[set]),
    sets.indexOf(chosen),
    (place) => change(sets[place]),
  );

// Evidence of a kind for a label set.
const evidenceOf = (kind, set) => DATA.evidence[kind].find((entry) => entry.set === set);
