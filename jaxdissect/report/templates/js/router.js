// A place on the page is its hash: #class/event/rain, #neuron/3/120, #pair/event/rain/event/wind, or a section.
const overview = document.getElementById('overview-view');
const findings = document.getElementById('findings');
const view = document.getElementById('view');
const TITLE = document.title;
let redraws = [];

// Draw as soon as the element is in the page, and again when the window changes.
function whenShown(draw) {
  redraws.push(draw);
  queueMicrotask(draw);
}

// Show a view, which is a title and content.
function show(make) {
  redraws = [];
  const [title, ...content] = make();
  view.replaceChildren(el('h1', {tabindex: -1}, title), ...content.flat(Infinity).filter(Boolean));
  document.title = `${short(title, 60)} · ${TITLE}`;
}

const SECTIONS = {
  classes: viewClasses,
  neurons: viewNeurons,
  layers: viewLayers,
  sharing: viewSharing,
  ablation: viewAblation,
  compare: viewCompare,
};
const findClass = (set, name) => classAt.get(JSON.stringify([set, name]));

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function pageOf(parts) {
  const [kind, ...rest] = parts;
  if (kind === 'class' && findClass(...rest) !== undefined) return ['classes', () => viewClass(findClass(...rest))];
  if (kind === 'neuron' && neuronAt.has(rest.join('/')))
    return ['neurons', () => viewNeuron(neuronAt.get(rest.join('/')))];
  if (
    kind === 'pair' &&
    rest.length === 4 &&
    [rest.slice(0, 2), rest.slice(2)].every((key) => findClass(...key) !== undefined)
  ) {
    return ['sharing', () => viewPair(findClass(...rest.slice(0, 2)), findClass(...rest.slice(2)))];
  }
  if (Object.hasOwn(SECTIONS, kind)) return [kind, SECTIONS[kind]];
  if (kind === 'overview' || !kind) return ['overview', null];
  return [
    'overview',
    () => [
      'Unknown address',
      el(
        'p',
        {},
        `This report has no “${short(parts.join(' / '), 80)}”. `,
        link('#overview', 'Overview'),
      ),
    ],
  ];
}

function route() {
  if (location.hash === '#main') {
    document.getElementById('main').focus();
    return;
  }
  const parts = location.hash.slice(1).split('/').map(decoded);
  const [section, make] = pageOf(parts);
  document.querySelectorAll('audio').forEach((audio) => audio.pause());
  document.querySelectorAll('nav a').forEach((anchor) => {
    if (anchor.dataset.section !== section) anchor.removeAttribute('aria-current');
    else {
      anchor.setAttribute('aria-current', 'page');
      anchor.scrollIntoView({block: 'nearest', inline: 'nearest'});
    }
  });
  overview.hidden = Boolean(make);
  view.hidden = !make;
  freeClips();
  findings.replaceChildren(...(make ? [] : viewFindings()));
  if (make) show(make);
  else {
    view.replaceChildren();
    redraws = [];
    document.title = TITLE;
  }
}

function arrive() {
  route();
  if (location.hash === '#main') return;
  window.scrollTo(0, 0);
  const heading = (overview.hidden ? view : overview).querySelector('h1');
  if (heading) heading.focus({preventScroll: true});
}

let pendingFrame = 0;
window.addEventListener('hashchange', arrive);
window.addEventListener('resize', () => {
  cancelAnimationFrame(pendingFrame);
  pendingFrame = requestAnimationFrame(() => redraws.forEach((draw) => draw()));
});
darkTheme.addEventListener('change', route);
route();
document.documentElement.dataset.ready = 'true';
